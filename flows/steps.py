"""The story in plain functions: scan, plan, extract, train. No Prefect, no terminal, no arrays.

Every step takes and returns small values (names, counts, a plan), so that a Prefect task can be wrapped
around it as it is; what is big stays in the workspace. Heavy leaves are imported inside the steps, when it is
known that they are needed: a run that finds everything done loads none of them.
"""

from __future__ import annotations

import logging
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from flows import stopwatch
from flows.forward import backbone_engine, compute, reader
from flows.progress import Quiet
from flows.stopwatch import stage
from pipeline.backbones import DEFAULT_BACKBONE, MOMENTS, get_backbone
from pipeline.engine_files import MOMENTS_FILE, TAPS_FILE
from pipeline.errors import DamagedError, DataError, UsageError
from pipeline.fingerprint import fingerprint
from pipeline.manifest import Picture, build_manifest
from pipeline.plan import measure_size, plan_case
from pipeline.record import build_record, plan_part
from pipeline.split import sample_images
from pipeline.types import (
    BackboneSpec,
    Digest,
    FileEntry,
    Image,
    Manifest,
    ModelRef,
    Plan,
    Progress,
    Rejected,
    Similarity,
    Split,
)
from storage.bundles import MODEL_FILE, write_bundle_files
from storage.dataset import list_dataset
from storage.digests import DigestMemory
from storage.features import FeatureStore
from storage.manifests import DatasetRef, dataset_name, parse_dataset_name, read_manifest, write_manifest
from storage.models import find_by_request, new_version
from storage.records import find_record, write_record
from storage.workspace import Workspace

log = logging.getLogger(__name__)

SCHEMA_VERSION = 1
NUM_SAMPLED = 104  # pictures that similarity is measured on; between samples of 100, D_BN moves by 0.003 (one sigma)
NUM_CERTIFIED = 8  # pictures on which a delivered model is compared with the cached path
SIMILARITY_VERSION = 1  # raised when a change of ours gives another distance for the same pictures
HEAD_VERSION = 1  # raised when a change of ours gives another model for the same features

Call = Callable[..., Any]  # runs a step: as it is, or wrapped in a Prefect task


@dataclass(frozen=True, slots=True)
class Request:
    """What a run is asked to do."""

    folder: str
    workspace: str
    name: str | None = None  # of the dataset; by default that of the folder
    backbone: str = DEFAULT_BACKBONE
    rehash: bool = False  # read every file again instead of trusting size and time


@dataclass(frozen=True, slots=True)
class Extracted:
    """What a pass over a dataset found, computed and left out."""

    num_images: int  # distinct pictures whose features are stored
    num_computed: int
    rejected: tuple[Rejected, ...]  # files that are no usable pictures, found by header or on decoding


# ── the whole story ──────────────────────────────────────────────────────────────────────────────


def plain(step: Callable[..., Any], *args: Any) -> Any:
    """Run a step as it is."""
    return step(*args)


def onboard(request: Request, progress: Progress | None = None, call: Call = plain) -> dict[str, Any]:
    """Bring a dataset to a model; everything that was done before is found, not done again.

    Returns the document that `headstart onboard --json` prints.
    """
    spec = get_backbone(request.backbone)

    def run() -> tuple[DatasetRef, Plan, Extracted, ModelRef]:
        dataset = call(scan, request)
        plan = call(plan_dataset, request.workspace, dataset, spec.name)
        extracted = call(extract, request.workspace, dataset, spec.name, progress)
        return dataset, plan, extracted, call(train, request.workspace, dataset, plan, extracted)

    with stopwatch.running():
        try:
            dataset, plan, extracted, model = run()
        except DamagedError as error:
            # what was damaged is set aside by now, so that another round computes just those rows
            log.warning("%s Going on without what is damaged.", error)
            dataset, plan, extracted, model = run()
        seconds = stopwatch.seconds()
    return _onboarded(request, dataset, spec, plan, extracted, model, seconds)


def plan_only(request: Request) -> dict[str, Any]:
    """Do everything up to the plan, from a sample; returns what `headstart plan --json` prints."""
    spec = get_backbone(request.backbone)
    with stopwatch.running():
        dataset = scan(request)
        plan = plan_dataset(request.workspace, dataset, spec.name)
        manifest = read_manifest(Workspace.open(request.workspace), dataset.name, dataset.fingerprint)
        seconds = stopwatch.seconds()
    return {
        "schema_version": SCHEMA_VERSION,
        "dataset": dataset.name,
        **plan_part(plan),
        "rejected": [asdict(item) for item in manifest.rejected],
        "notes": list(manifest.notes),
        "seconds": seconds,
    }


# ── steps ────────────────────────────────────────────────────────────────────────────────────────


def scan(request: Request) -> DatasetRef:
    """Read a dataset folder into a manifest. Files that did not change are not opened."""
    with stage("scan"):
        if not request.folder:
            raise UsageError("The dataset folder is empty text, perhaps an unset variable. Name a folder.")
        name = parse_dataset_name(request.name) if request.name else None
        workspace = Workspace.open(request.workspace)
        root = str(Path(request.folder).resolve())
        walked = list_dataset(root)
        digests, unusable = _identify(workspace, root, walked.files, request.rehash)
        manifest = build_manifest(
            name or dataset_name(Path(root).name),
            root,
            [Picture(entry, digests[entry.path]) for entry in walked.files if entry.path in digests],
            sorted([*walked.rejected, *unusable], key=lambda item: item.path),
            walked.notes,
        )
        return write_manifest(workspace, manifest, rebind=name is not None)


def plan_dataset(workspace_root: str, dataset: DatasetRef, backbone: str) -> Plan:
    """Measure similarity and size, and decide the case. A sample that was measured before is not run again."""
    workspace = Workspace.open(workspace_root)
    manifest = read_manifest(workspace, dataset.name, dataset.fingerprint)
    spec = get_backbone(backbone)
    train_images = manifest.of_split("train")
    sample = sample_images(train_images, NUM_SAMPLED)
    key = fingerprint(
        {
            "space": spec.space().id,
            "sample": [image.digest.hex() for image in sample],
            "version": SIMILARITY_VERSION,
        }
    )
    if value := find_record(workspace, "similarity", key):
        similarity = Similarity(**value)
    else:
        similarity, whole = _measure(workspace, manifest, spec, sample)
        if whole:
            write_record(workspace, "similarity", key, asdict(similarity))
    size = measure_size([image.label for image in train_images], len(manifest.classes), similarity.verdict)
    return plan_case(similarity, size, spec.name, spec.taps)


def extract(workspace_root: str, dataset: DatasetRef, backbone: str, progress: Progress | None = None) -> Extracted:
    """Compute the features that the store does not have, all taps in one pass."""
    workspace = Workspace.open(workspace_root)
    manifest = read_manifest(workspace, dataset.name, dataset.fingerprint)
    spec = get_backbone(backbone)
    digests = [image.digest for image in manifest.images]
    with FeatureStore(workspace, spec.space()) as store:
        missing = set(store.missing(digests))
        unread: list[Rejected] = []
        num_computed = 0
        if missing:
            images = [image for image in manifest.images if image.digest in missing]
            network = backbone_engine(workspace, spec) / TAPS_FILE
            with stage("extract"):
                for block in compute(store, images, manifest, network, progress or Quiet()):
                    num_computed += len(block.digests)
                    unread += block.unread
        undecodable = store.rejects(digests)
    found_bad = [Rejected(i.path, undecodable[i.digest]) for i in manifest.images if i.digest in undecodable]
    rejected = sorted([*manifest.rejected, *unread, *found_bad], key=lambda item: item.path)
    return Extracted(len(digests) - len(found_bad) - len(unread), num_computed, tuple(rejected))


def train(workspace_root: str, dataset: DatasetRef, plan: Plan, extracted: Extracted) -> ModelRef:
    """Train, evaluate, certify and save the head that a plan asks for; the same request finds its model."""
    workspace = Workspace.open(workspace_root)
    manifest = read_manifest(workspace, dataset.name, dataset.fingerprint)
    spec = get_backbone(plan.backbone)
    left_out = {item.path for item in extracted.rejected}
    images = [image for image in manifest.images if image.path not in left_out]
    request = _model_request(manifest, images, spec, plan)
    if found := find_by_request(workspace, dataset.name, request):
        return found
    fit_on = [image for image in images if image.split == "train"]
    test_on, test_split = _held_out(images)

    with stage("imports"):
        from pipeline.delivery import build_model, certify, write_model
        from pipeline.evaluate import evaluate
        from pipeline.heads import fit_head, head_probabilities
        from pipeline.report import render_report
    store = FeatureStore(workspace, spec.space())
    with stage("train"):
        taps = [tap for tap in spec.taps if tap.name in plan.taps]
        features = _read_taps(store, fit_on, [tap.name for tap in taps])
        head = fit_head(features, taps, _labels(fit_on), len(manifest.classes))
    with stage("evaluate"):
        probabilities = head_probabilities(head, _read_taps(store, test_on, [part.tap for part in head.taps]))
        metrics = evaluate(_labels(test_on), probabilities, manifest.classes, test_split)
    with new_version(workspace, dataset.name) as bundle:
        model_file = bundle.folder / MODEL_FILE
        with stage("save"):
            write_model(build_model(spec, head), model_file)
        with stage("certify"):
            chosen = sample_images(test_on, NUM_CERTIFIED)
            rows = [test_on.index(image) for image in chosen]
            certificate = certify(model_file, chosen, reader(manifest), probabilities, rows)
        facts = {
            "request": request,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "certificate": asdict(certificate),
            "features": _features_part(spec, extracted),
            "seconds": stopwatch.seconds(),
            "versions": _versions(),
        }
        bundle.record = build_record(manifest, plan, spec, head, metrics, extracted.rejected, facts)
        write_bundle_files(bundle.folder, manifest.classes, spec.recipe, render_report(bundle.record))
    return bundle.ref


# ── what the steps share ─────────────────────────────────────────────────────────────────────────


def _identify(
    workspace: Workspace, root: str, files: Sequence[FileEntry], rehash: bool
) -> tuple[dict[str, Digest], list[Rejected]]:
    """Find the digest of every file that is a picture; those that did not change are not opened."""
    memory = DigestMemory(workspace)
    known = memory.recall(root, files, rehash)
    unread: list[Rejected] = []
    if fresh := [entry for entry in files if entry.path not in known]:
        from pipeline.decoding import identify_files

        seen_ns = time.time_ns()
        learned: dict[str, tuple[FileEntry, Digest | str]] = {}
        for item in identify_files(root, fresh):
            if item.digest or item.final:
                learned[item.entry.path] = (item.entry, item.digest or item.reason)
            else:
                unread.append(Rejected(item.entry.path, item.reason))
        memory.remember(root, learned, seen_ns)
        known |= {path: found for path, (_, found) in learned.items()}
    digests = {path: found for path, found in known.items() if isinstance(found, bytes)}
    reasons = [Rejected(path, found) for path, found in known.items() if isinstance(found, str)]
    return digests, unread + reasons


def _measure(
    workspace: Workspace, manifest: Manifest, spec: BackboneSpec, sample: Sequence[Image]
) -> tuple[Similarity, bool]:
    """Measure similarity on a sample; False if some of it could not be read just now.

    Moments are kept like features: of a sample that grew, only what is new is run.
    """
    digests = [image.digest for image in sample]
    folder = backbone_engine(workspace, spec)
    with stage("measure"), FeatureStore(workspace, spec.moment_space()) as store:
        from pipeline.measure import compare_moments

        missing = set(store.missing(digests))
        unread: set[str] = set()
        if missing:
            images = [image for image in sample if image.digest in missing]
            for block in compute(store, images, manifest, folder / MOMENTS_FILE, Quiet()):
                unread |= {item.path for item in block.unread}
        left_out = store.rejects(digests)
        readable = [i.digest for i in sample if i.digest not in left_out and i.path not in unread]
        if not readable:
            raise DataError(f"None of {len(sample)} sampled pictures could be decoded, so nothing can be measured.")
        return compare_moments(store.read(readable, MOMENTS), folder), not unread


def _read_taps(store: FeatureStore, images: Sequence[Image], taps: Sequence[str]) -> dict[str, Any]:
    digests = [image.digest for image in images]
    return {tap: store.read(digests, tap) for tap in taps}


def _labels(images: Sequence[Image]) -> list[int]:
    return [image.label for image in images]


def _held_out(images: Sequence[Image]) -> tuple[list[Image], Split]:
    """Choose the pictures to evaluate on: the test split, or the val split of a folder that has no other."""
    for split in ("test", "val"):
        if chosen := [image for image in images if image.split == split]:
            return chosen, split
    raise DataError("No readable test picture is left, so nothing can be measured. Add pictures to the test split.")


def _model_request(manifest: Manifest, images: Sequence[Image], spec: BackboneSpec, plan: Plan) -> str:
    """Name everything that determines a model."""
    return fingerprint(
        {
            "classes": list(manifest.classes),
            "images": sorted((image.digest.hex(), image.label, image.split) for image in images),
            "space": spec.space().id,
            "taps": list(plan.taps),
            "case": plan.case,
            "version": HEAD_VERSION,
        }
    )


def _versions() -> dict[str, str]:
    packages = ("headstart", "tensorflow", "keras", "openvino", "h5py", "scikit-learn", "numpy", "pillow")
    return {"python": platform.python_version()} | {package: version(package) for package in packages}


def _features_part(spec: BackboneSpec, extracted: Extracted) -> dict[str, Any]:
    return {
        "num_images": extracted.num_images,
        "num_computed": extracted.num_computed,
        "num_reused": extracted.num_images - extracted.num_computed,
        "num_rejected": len(extracted.rejected),
        "backbone": spec.name,
        "space": spec.space().id,
        "taps": [tap.name for tap in spec.taps],
    }


def _onboarded(
    request: Request,
    dataset: DatasetRef,
    spec: BackboneSpec,
    plan: Plan,
    extracted: Extracted,
    model: ModelRef,
    seconds: dict[str, float],
) -> dict[str, Any]:
    metrics = {key: value for key, value in model.record["metrics"].items() if key not in ("per_class", "confusion")}
    return {
        "schema_version": SCHEMA_VERSION,
        "dataset": dataset.name,
        "workspace": request.workspace,
        **plan_part(plan),
        "reasons": [*plan.reasons, *model.record["head"]["reasons"]],
        "features": _features_part(spec, extracted),
        "model": {"name": model.name, "version": model.version, "path": model.path},
        "metrics": metrics,
        "certificate": model.record["certificate"],
        "rejected": [asdict(item) for item in extracted.rejected],
        "notes": model.record["data"]["notes"],
        "seconds": seconds,
    }
