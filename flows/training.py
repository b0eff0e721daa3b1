"""The train step: a head on stored features, evaluated, certified and saved."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from flows import quoting, stopwatch
from flows.extraction import Extracted
from flows.forward import reader
from flows.stopwatch import stage
from pipeline.augment import ORIGINAL, view_names
from pipeline.decision import Plan
from pipeline.errors import DataError
from pipeline.fingerprint import fingerprint
from pipeline.reconsider import reconsider
from pipeline.record import build_record
from pipeline.split import sample_images
from pipeline.types import (
    BackboneSpec,
    Head,
    Image,
    LabelMetrics,
    LearningCurve,
    Manifest,
    Metrics,
    ModelRef,
    Split,
    Tap,
)
from storage.bundles import MODEL_FILE, write_bundle_files
from storage.features import FeatureStore, StoredTaps
from storage.manifests import DatasetRef, read_manifest
from storage.models import find_by_request, new_version
from storage.workspace import Workspace

NUM_CERTIFIED = 8  # pictures on which a delivered model is compared with the cached path
HEAD_VERSION = 3  # raised when a change of ours gives another model for the same features


def train(workspace_root: str, dataset: DatasetRef, spec: BackboneSpec, plan: Plan, extracted: Extracted) -> ModelRef:
    """Train, evaluate, certify and save the head that a plan asks for; the same request finds its model."""
    workspace = Workspace.open(workspace_root)
    manifest = read_manifest(workspace, dataset.name, dataset.fingerprint)
    left_out = {item.path for item in extracted.rejected}
    images = [image for image in manifest.images if image.path not in left_out]
    request = _model_request(manifest, images, spec, plan, extracted.num_views)
    if found := find_by_request(workspace, dataset.name, request):
        return found
    fit_on = [image for image in images if image.split == "train"]
    test_on, test_split = held_out(images)

    with stage("imports"):
        from pipeline.delivery import build_model, certify, write_model
        from pipeline.heads import head_probabilities
        from pipeline.report import render_report
    views = (ORIGINAL, *view_names(extracted.num_views))
    with stage("train"):
        taps = [tap for tap in spec.taps if tap.name in plan.taps]
        features = read_taps(workspace, spec, views, fit_on, [tap.name for tap in taps])
        head = _fit(manifest, features, taps, fit_on, len(views))
        plan = reconsider(plan, head)
        curve = _learning_curve(manifest, features, head, taps, fit_on)
    with stage("evaluate"):
        tested = read_taps(workspace, spec, (ORIGINAL,), test_on, [part.tap for part in head.taps])
        probabilities = head_probabilities(head, tested)
        metrics = _score(manifest, head, probabilities, test_on, test_split)
    with new_version(workspace, dataset.name) as bundle:
        model_file = bundle.folder / MODEL_FILE
        with stage("save"):
            write_model(build_model(spec, head), model_file)
        with stage("certify"):
            chosen = sample_images(test_on, NUM_CERTIFIED)
            rows = [test_on.index(image) for image in chosen]
            proof = (probabilities, rows, head.thresholds)
            certificate = certify(model_file, chosen, reader(manifest), spec.recipe, *proof)
        facts = {
            "request": request,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "certificate": asdict(certificate),
            "features": features_part(spec, extracted),
            **({"learning_curve": asdict(curve)} if curve else {}),
            "quote_scored": quoting.score(workspace, spec, plan, extracted),
            "seconds": stopwatch.seconds(),
            "versions": package_versions(),
        }
        bundle.record = build_record(manifest, plan, spec, head, metrics, extracted.rejected, facts)
        report = render_report(bundle.record)
        write_bundle_files(bundle.folder, manifest.classes, spec.recipe, report, head.thresholds)
    return bundle.ref


def _fit(manifest: Manifest, features: Any, taps: Sequence[Tap], images: Sequence[Image], num_rows: int) -> Head:
    """Fit the head for a dataset's labels; `num_rows` of features are of each image, view after view."""
    groups = [*range(len(images))] * num_rows if num_rows > 1 else None
    if manifest.exclusive:
        from pipeline.heads import fit_head

        return fit_head(features, taps, labels_of(images) * num_rows, len(manifest.classes), groups)
    from pipeline.multilabel import fit_multilabel_head

    label_sets = [image.labels for image in images]
    return fit_multilabel_head(features, taps, label_sets * num_rows, len(manifest.classes), groups)


def _learning_curve(
    manifest: Manifest, features: Any, head: Head, taps: Sequence[Tap], images: Sequence[Image]
) -> LearningCurve | None:
    """Tell how the head's error falls with more pictures; not for labels that do not exclude each other."""
    if not manifest.exclusive:
        return None
    from pipeline.curves import fit_learning_curve

    return fit_learning_curve(features, head, taps, labels_of(images), len(manifest.classes))


def _score(
    manifest: Manifest, head: Head, probabilities: Any, images: Sequence[Image], split: Split
) -> Metrics | LabelMetrics:
    if manifest.exclusive:
        from pipeline.evaluate import evaluate

        return evaluate(labels_of(images), probabilities, manifest.classes, split)
    from pipeline.evaluate_labels import evaluate_labels

    label_sets = [image.labels for image in images]
    return evaluate_labels(label_sets, probabilities, manifest.classes, head.thresholds, split)


def read_taps(
    workspace: Workspace, spec: BackboneSpec, views: Sequence[str], images: Sequence[Image], taps: Sequence[str]
) -> StoredTaps:
    """Return tap name -> (views x images, dim), view after view; a tap is read when it is asked for."""
    digests = [image.digest for image in images]
    stores = [FeatureStore(workspace, spec.space(view)) for view in views]
    return StoredTaps(stores, digests, taps)


def labels_of(images: Sequence[Image]) -> list[int]:
    return [image.label for image in images]


def held_out(images: Sequence[Image]) -> tuple[list[Image], Split]:
    """Choose the pictures to evaluate on: the test split, or the val split of a folder that has no other."""
    for split in ("test", "val"):
        if chosen := [image for image in images if image.split == split]:
            return chosen, split
    raise DataError("No readable test picture is left, so nothing can be measured. Add pictures to the test split.")


def _model_request(manifest: Manifest, images: Sequence[Image], spec: BackboneSpec, plan: Plan, num_views: int) -> str:
    """Name everything that determines a model."""
    return fingerprint(
        {
            "classes": list(manifest.classes),
            **_images_part(manifest, images),
            "space": spec.space().id,
            "views": num_views,
            "taps": list(plan.taps),
            "case": plan.case,
            "strategy": plan.strategy,
            "wished": [[change.what, change.value] for change in plan.changes],
            **({"compared": [row.backbone for row in plan.backbones]} if plan.backbones else {}),
            "version": HEAD_VERSION,
        }
    )


def _images_part(manifest: Manifest, images: Sequence[Image]) -> dict[str, Any]:
    if manifest.exclusive:
        return {"images": sorted((image.digest.hex(), image.label, image.split) for image in images)}
    return {"images": sorted((image.digest.hex(), image.labels, image.split) for image in images), "exclusive": False}


def package_versions() -> dict[str, str]:
    packages = ("headstart", "tensorflow", "keras", "openvino", "h5py", "scikit-learn", "numpy", "pillow")
    return {"python": platform.python_version()} | {package: version(package) for package in packages}


def features_part(spec: BackboneSpec, extracted: Extracted) -> dict[str, Any]:
    """Describe where features came from, for the record and the answer."""
    return {
        "num_images": extracted.num_images,
        "num_views": extracted.num_views,
        "num_computed": extracted.num_computed,
        "num_reused": extracted.num_rows - extracted.num_computed,
        "num_rejected": len(extracted.rejected),
        "backbone": spec.name,
        "space": spec.space().id,
        "taps": [tap.name for tap in spec.taps],
    }
