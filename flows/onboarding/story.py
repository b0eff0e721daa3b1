"""Onboarding from pictures to a model, extraction alone, and planning alone. No Prefect, no terminal, no arrays.

Every step takes and returns small values (names, counts, a plan), so that Prefect can run it as a task; what is big
stays in the workspace. Heavy libraries are imported inside the steps, once they are needed: a run that finds everything
done loads none of them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from flows import stopwatch
from flows.documents import SCHEMA_VERSION
from flows.features import extraction
from flows.features.backbone import describe_backbone
from flows.features.extraction import Extracted, pack_features, summarize_features
from flows.forms import parse_request
from flows.onboarding import decide, scan, training
from flows.onboarding.quoting import quote_plan
from flows.onboarding.ranking import choose_backbone
from flows.onboarding.training import Trained
from flows.requests import ExtractRequest, OnboardRequest
from pipeline.backbones.table import AUTO, check_choice
from pipeline.decision.nouns import Plan, RankedBackbone
from pipeline.decision.plan import Wishes
from pipeline.errors import ConflictError, DamagedError, UsageError
from pipeline.jsonable import to_json
from pipeline.report.record import ModelRecord, metrics_part, plan_part
from pipeline.types import DECODERS, BackboneSpec, Progress
from storage.datasets.manifests import DatasetRef, read_manifest
from storage.datasets.registrations import find_registration, write_registration
from storage.workspace import Workspace

log = logging.getLogger(__name__)

Ranking = tuple[RankedBackbone, ...]


@dataclass(frozen=True, slots=True)
class Steps:
    """The steps of a run. Prefect runs each as a task; a cluster has another `extract`."""

    scan: Callable[[Workspace, ExtractRequest], DatasetRef] = scan.scan
    plan_dataset: Callable[[Workspace, DatasetRef, BackboneSpec, Wishes, Ranking], Plan] = decide.plan_dataset
    extract: Callable[[Workspace, DatasetRef, BackboneSpec, int, Progress | None], Extracted] = extraction.extract
    train: Callable[[Workspace, DatasetRef, BackboneSpec, Plan, Extracted], Trained] = training.train


PLAIN = Steps()


def onboard(
    request: OnboardRequest,
    progress: Progress | None = None,
    steps: Steps = PLAIN,
    scanned: DatasetRef | None = None,
) -> dict[str, Any]:
    """Bring a dataset to a model; everything that was done before is found, not done again.

    Returns the document that `headstart onboard --json` prints. With `scanned`, what a scan has just found, the folder
    is not read again.
    """

    workspace = Workspace.open(request.workspace)

    def run(scanned: DatasetRef | None = None) -> tuple[DatasetRef, BackboneSpec, Extracted, Trained]:
        dataset = scanned or steps.scan(workspace, request)
        spec, plan = _plan(workspace, request, dataset, steps)
        extracted = steps.extract(workspace, dataset, spec, request.views, progress)
        return dataset, spec, extracted, steps.train(workspace, dataset, spec, plan, extracted)

    with stopwatch.timed():
        try:
            dataset, spec, extracted, trained = run(scanned)
        except DamagedError as error:
            # the damaged file is set aside by now, so a second round computes only its rows
            log.warning("%s It is set aside and computed again.", error)
            dataset, spec, extracted, trained = run()
        seconds = stopwatch.seconds()
    write_registration(workspace, dataset.name, request.to_remember())
    return _onboarded(request, dataset, spec, extracted, trained, seconds)


def extract_only(
    request: ExtractRequest,
    progress: Progress | None = None,
    pack: str | None = None,
    steps: Steps = PLAIN,
) -> dict[str, Any]:
    """Fill the feature store for a dataset; returns what `headstart extract --json` prints.

    With `pack` all of the dataset's features and labels are also written to that one file.
    """
    if pack is not None and Path(pack).exists():
        raise ConflictError(f"{pack} exists and is not overwritten. Name a new file, or remove it first.")
    workspace = Workspace.open(request.workspace)
    with stopwatch.timed():
        dataset = steps.scan(workspace, request)
        spec, _ = _backbone(workspace, request, dataset)
        extracted = steps.extract(workspace, dataset, spec, request.views, progress)
        if pack is not None:
            pack_features(workspace, dataset, spec, extracted, pack)
        seconds = stopwatch.seconds()
    return {
        "pack": pack,
        "dataset": dataset.name,
        "fingerprint": dataset.fingerprint,
        "features": to_json(summarize_features(spec, extracted)),
        "rejected": [asdict(item) for item in extracted.rejected],
        "seconds": seconds,
    }


def plan_only(request: OnboardRequest) -> dict[str, Any]:
    """Do everything up to the plan, from a sample; returns what `headstart plan --json` prints."""
    workspace = Workspace.open(request.workspace)
    with stopwatch.timed():
        dataset = PLAIN.scan(workspace, request)
        _, plan = _plan(workspace, request, dataset, PLAIN)
        manifest = read_manifest(workspace, dataset.name, dataset.fingerprint)
        seconds = stopwatch.seconds()
    return {
        "schema_version": SCHEMA_VERSION,
        "dataset": dataset.name,
        **plan_part(plan),
        "rejected": [asdict(item) for item in manifest.rejected],
        "notes": list(manifest.notes),
        "seconds": seconds,
    }


def _plan(
    workspace: Workspace, request: OnboardRequest, dataset: DatasetRef, steps: Steps
) -> tuple[BackboneSpec, Plan]:
    """Decide with which backbone, in which case and at what cost."""
    spec, ranking = _backbone(workspace, request, dataset)
    plan = steps.plan_dataset(workspace, dataset, spec, request.wishes(), ranking)
    return spec, quote_plan(workspace, dataset, spec, plan, request.views)


def _backbone(workspace: Workspace, request: ExtractRequest, dataset: DatasetRef) -> tuple[BackboneSpec, Ranking]:
    """Find the backbone that is asked for; if that is left open, also how the installed ones compare."""
    decoder = DECODERS[request.recipe]
    if request.backbone == AUTO:
        check_choice(AUTO, request.weights, request.size)
        return choose_backbone(workspace, dataset, decoder, request.auto_minutes)
    return describe_backbone(workspace, request.backbone, request.weights, decoder, request.size), ()


def find_request(workspace: Workspace, name: str) -> OnboardRequest | None:
    """Return the request that a dataset was onboarded with; None if it never was.

    Raises
    ------
    DamagedError
        The stored request cannot be used.
    """
    asked = find_registration(workspace, name)
    if asked is None:
        return None
    try:
        return parse_request(OnboardRequest, {**asked, "workspace": str(workspace.root), "name": name})
    except UsageError as error:
        raise DamagedError(f"The stored request of '{name}' cannot be read. {error} Onboard it once more.") from error


def _onboarded(
    request: OnboardRequest,
    dataset: DatasetRef,
    spec: BackboneSpec,
    extracted: Extracted,
    trained: Trained,
    seconds: dict[str, float],
) -> dict[str, Any]:
    model = trained.model
    record = model.record
    return {
        "schema_version": SCHEMA_VERSION,
        "dataset": dataset.name,
        "workspace": request.workspace,
        **plan_part(record.plan),
        "reasons": [*record.plan.reasons, *record.head.reasons, *_curve_reasons(record)],
        "features": to_json(summarize_features(spec, extracted)),
        "model": {"name": model.name, "version": model.version, "path": model.path},
        "trained": trained.is_new,
        "serving": asdict(trained.verdict),
        "metrics": metrics_part(record.metrics),
        "certificate": to_json(record.certificate),
        "rejected": [asdict(item) for item in extracted.rejected],
        "notes": list(record.data.notes),
        "seconds": seconds,
    }


def _curve_reasons(record: ModelRecord) -> list[str]:
    return [record.learning_curve.reason] if record.learning_curve else []
