"""The story in plain functions: scan, plan, extract, train. No Prefect, no terminal, no arrays.

Every step takes and returns small values (names, counts, a plan), so that a Prefect task can be wrapped
around it as it is; what is big stays in the workspace. Heavy leaves are imported inside the steps, when it is
known that they are needed: a run that finds everything done loads none of them.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from flows import stopwatch
from flows.documents import SCHEMA_VERSION
from flows.features.backbone import find_backbone
from flows.features.extraction import Extracted, extract, pack_features
from flows.onboarding.quoting import quote_plan
from flows.onboarding.ranking import choose_backbone
from flows.onboarding.similarity import measure_similarity
from flows.onboarding.training import Trained, features_part, train
from flows.requests import OnboardRequest
from flows.stopwatch import stage
from pipeline.backbones.table import AUTO, DEFAULT_BACKBONE, check_choice
from pipeline.dataset.manifest import Picture, build_manifest
from pipeline.decision.nouns import Change, Plan, RankedBackbone
from pipeline.decision.plan import EVIDENCE, NO_WISHES, Wishes, measure_size, plan_case
from pipeline.errors import ConflictError, DamagedError, UsageError
from pipeline.report.record import parse_plan, plan_part
from pipeline.types import DECODERS, BackboneSpec, Digest, FileEntry, Progress, Rejected
from storage.datasets.digests import DigestMemory
from storage.datasets.folder import Listing, list_dataset
from storage.datasets.manifests import DatasetRef, dataset_name, parse_dataset_name, read_manifest, write_manifest
from storage.datasets.registrations import find_registration, write_registration
from storage.datasets.table import is_table, list_table
from storage.workspace import Workspace

log = logging.getLogger(__name__)

FILES_REMEMBERED_AT_ONCE = 4096  # what a crash can cost of reading a folder for the first time

Call = Callable[..., Any]  # runs a step: as it is, or wrapped in a Prefect task
Extract = Callable[..., Extracted]  # the extract step: here and now, or spread over a cluster


# ── the whole story ──────────────────────────────────────────────────────────────────────────────


def plain(step: Callable[..., Any], *args: Any) -> Any:
    """Run a step as it is."""
    return step(*args)


def onboard(
    request: OnboardRequest,
    progress: Progress | None = None,
    call: Call = plain,
    extract: Extract = extract,
    scanned: DatasetRef | None = None,
) -> dict[str, Any]:
    """Bring a dataset to a model; everything that was done before is found, not done again.

    Returns the document that `headstart onboard --json` prints. With `scanned`, what a scan has just found, the folder
    is not read again.
    """

    def run(scanned: DatasetRef | None = None) -> tuple[DatasetRef, BackboneSpec, Extracted, Trained]:
        dataset = scanned or call(scan, request)
        spec, ranking = _backbone(request, dataset)
        plan = call(plan_dataset, request.workspace, dataset, spec, request.wishes(), ranking)
        plan = quote_plan(request.workspace, dataset, spec, plan, request.views)
        extracted = call(extract, request.workspace, dataset, spec, request.views, progress)
        return dataset, spec, extracted, call(train, request.workspace, dataset, spec, plan, extracted)

    with stopwatch.running():
        try:
            dataset, spec, extracted, trained = run(scanned)
        except DamagedError as error:
            # what was damaged is set aside by now, so that another round computes just those rows
            log.warning("%s Going on without what is damaged.", error)
            dataset, spec, extracted, trained = run()
        seconds = stopwatch.seconds()
    write_registration(Workspace.open(request.workspace), dataset.name, _registration(request))
    return _onboarded(request, dataset, spec, extracted, trained, seconds)


def extract_only(
    request: OnboardRequest,
    progress: Progress | None = None,
    pack: str | None = None,
    call: Call = plain,
    extract: Extract = extract,
) -> dict[str, Any]:
    """Fill the feature store for a dataset; returns what `headstart extract --json` prints.

    With `pack` all of the dataset's features and labels are also written to that one file.
    """
    if pack is not None and Path(pack).exists():
        raise ConflictError(f"{pack} exists and is not overwritten. Name a new file, or remove it first.")
    with stopwatch.running():
        dataset = call(scan, request)
        spec, _ = _backbone(request, dataset)
        extracted = call(extract, request.workspace, dataset, spec, request.views, progress)
        if pack is not None:
            call(pack_features, request.workspace, dataset, spec, extracted, pack)
        seconds = stopwatch.seconds()
    return {
        "pack": pack,
        "dataset": dataset.name,
        "fingerprint": dataset.fingerprint,
        "features": features_part(spec, extracted),
        "rejected": [asdict(item) for item in extracted.rejected],
        "seconds": seconds,
    }


def plan_only(request: OnboardRequest) -> dict[str, Any]:
    """Do everything up to the plan, from a sample; returns what `headstart plan --json` prints."""
    with stopwatch.running():
        dataset = scan(request)
        spec, ranking = _backbone(request, dataset)
        plan = plan_dataset(request.workspace, dataset, spec, request.wishes(), ranking)
        plan = quote_plan(request.workspace, dataset, spec, plan, request.views)
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


def scan(request: OnboardRequest) -> DatasetRef:
    """Read a dataset's folder or table into a manifest. Files that did not change are not opened."""
    with stage("scan"):
        if not request.folder:
            raise UsageError("The dataset folder is empty text, perhaps an unset variable. Name a folder or a table.")
        name = parse_dataset_name(request.name) if request.name else None
        workspace = Workspace.open(request.workspace)
        root, source, walked = _list_pictures(request.folder)
        digests, unusable = _identify(workspace, root, walked.files, request.rehash)
        manifest = build_manifest(
            name or dataset_name(source),
            root,
            [Picture(entry, digests[entry.path]) for entry in walked.files if entry.path in digests],
            sorted([*walked.rejected, *unusable], key=lambda item: item.path),
            walked.notes,
            walked.exclusive,
        )
        return write_manifest(workspace, manifest, rebind=name is not None)


def plan_dataset(
    workspace_root: str,
    dataset: DatasetRef,
    spec: BackboneSpec,
    wishes: Wishes = NO_WISHES,
    ranking: tuple[RankedBackbone, ...] = (),
) -> Plan:
    """Measure similarity and size, and decide the case. A sample that was measured before is not run again."""
    workspace = Workspace.open(workspace_root)
    manifest = read_manifest(workspace, dataset.name, dataset.fingerprint)
    similarity = measure_similarity(workspace, manifest, spec)
    train_images = manifest.of_split("train")
    labels = [label for image in train_images for label in image.labels]
    size = measure_size(labels, len(manifest.classes), similarity.verdict, len(train_images))
    plan = plan_case(similarity, size, spec.name, spec.taps, wishes, manifest.exclusive)
    if not ranking:
        return plan
    from pipeline.heads.ranking import describe_ranking

    changes = plan.changes
    if spec.name != DEFAULT_BACKBONE:
        changes = (*changes, Change("backbone", spec.name, DEFAULT_BACKBONE, EVIDENCE))
    return replace(plan, backbones=ranking, changes=changes, reasons=(*plan.reasons, describe_ranking(ranking)))


# ── what the steps share ─────────────────────────────────────────────────────────────────────────


def _list_pictures(place: str) -> tuple[str, str, Listing]:
    """List a folder, or what a table in it names; returns the folder, what names the dataset, and the listing."""
    if is_table(place):
        table = Path(place).absolute()
        return str(table.parent.resolve()), table.stem, list_table(table)
    root = Path(place).resolve()
    return str(root), root.name, list_dataset(root)


def _backbone(request: OnboardRequest, dataset: DatasetRef) -> tuple[BackboneSpec, tuple[RankedBackbone, ...]]:
    """Find the backbone that is asked for; where that is left open, also how those that are here compare."""
    decoder = DECODERS[request.recipe]
    if request.backbone == AUTO:
        check_choice(AUTO, request.weights, request.size)
        return choose_backbone(request.workspace, dataset, decoder, request.auto_minutes)
    workspace = Workspace.open(request.workspace)
    return find_backbone(workspace, request.backbone, request.weights, decoder, request.size), ()


def _identify(
    workspace: Workspace, root: str, files: Sequence[FileEntry], rehash: bool
) -> tuple[dict[str, Digest], list[Rejected]]:
    """Find the digest of every file that is a picture; those that did not change are not opened."""
    memory = DigestMemory(workspace)
    known = memory.recall(root, files, rehash)
    unread: list[Rejected] = []
    if fresh := [entry for entry in files if entry.path not in known]:
        from pipeline.images.ahead import batched, identify_files

        for files_at_once in batched(fresh, FILES_REMEMBERED_AT_ONCE):
            seen_ns = time.time_ns()
            learned: dict[str, tuple[FileEntry, Digest | str]] = {}
            for item in identify_files(root, files_at_once):
                if item.digest or item.final:
                    learned[item.entry.path] = (item.entry, item.digest or item.reason)
                else:
                    unread.append(Rejected(item.entry.path, item.reason))
            memory.remember(root, learned, seen_ns)
            known |= {path: found for path, (_, found) in learned.items()}
    digests = {path: found for path, found in known.items() if isinstance(found, bytes)}
    reasons = [Rejected(path, found) for path, found in known.items() if isinstance(found, str)]
    return digests, unread + reasons


def _registration(request: OnboardRequest) -> dict[str, Any]:
    """Return what must be known to ask the same again, from any folder."""
    here = ("workspace", "name", "rehash")  # the workspace may move, the name is that of the dataset
    asked = {name: value for name, value in asdict(request).items() if name not in here}
    asked["folder"] = os.path.abspath(request.folder)
    if request.weights and os.path.isfile(request.weights):
        asked["weights"] = os.path.abspath(request.weights)
    return asked


def registered(workspace_root: str, name: str) -> OnboardRequest | None:
    """Return the request that a dataset was onboarded with; None where it never was.

    Raises
    ------
    DamagedError
        What was kept of it cannot be used.
    """
    asked = find_registration(Workspace.open(workspace_root), name)
    if asked is None:
        return None
    try:
        return OnboardRequest(**asked, workspace=workspace_root, name=name)
    except TypeError as error:
        raise DamagedError(f"How '{name}' was onboarded is not understood ({error}). Onboard it once more.") from error


def _onboarded(
    request: OnboardRequest,
    dataset: DatasetRef,
    spec: BackboneSpec,
    extracted: Extracted,
    trained: Trained,
    seconds: dict[str, float],
) -> dict[str, Any]:
    model = trained.model
    plan = parse_plan(model.record)  # as it is once the head is there
    metrics = {key: value for key, value in model.record["metrics"].items() if key not in ("per_class", "confusion")}
    return {
        "schema_version": SCHEMA_VERSION,
        "dataset": dataset.name,
        "workspace": request.workspace,
        **plan_part(plan),
        "reasons": [*plan.reasons, *model.record["head"]["reasons"], *_curve_reasons(model.record)],
        "features": features_part(spec, extracted),
        "model": {"name": model.name, "version": model.version, "path": model.path},
        "trained": trained.is_new,
        "serving": asdict(trained.verdict),
        "metrics": metrics,
        "certificate": model.record["certificate"],
        "rejected": [asdict(item) for item in extracted.rejected],
        "notes": model.record["data"]["notes"],
        "seconds": seconds,
    }


def _curve_reasons(record: Mapping[str, Any]) -> list[str]:
    curve = record.get("learning_curve")
    return [curve["reason"]] if curve else []
