"""Onboarding from pictures to a model, extraction alone, and planning alone. No Prefect, no terminal, no arrays.

Every step takes and returns small values (names, counts, a plan), so that Prefect can run it as a task; what is big
stays in the workspace. Heavy libraries are imported inside the steps, once they are needed: a run that finds everything
done loads none of them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from flows import stopwatch
from flows.features import extraction
from flows.features.backbone import describe_backbone
from flows.features.extraction import Extracted, pack_features
from flows.forms import parse_request
from flows.onboarding import planning, scan, training
from flows.onboarding.ranking import choose_backbone
from flows.onboarding.results import ExtractResult, OnboardResult, PlanResult
from flows.onboarding.training import Trained
from flows.requests import ExtractRequest, OnboardRequest
from pipeline.backbones.table import AUTO, check_choice
from pipeline.decision.nouns import Plan, RankedBackbone
from pipeline.decision.plan import Wishes
from pipeline.errors import ConflictError, DamagedError, UsageError
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
    plan_dataset: Callable[[Workspace, DatasetRef, BackboneSpec, Wishes, Ranking, int], Plan] = planning.plan_dataset
    extract: Callable[[Workspace, DatasetRef, BackboneSpec, int, Progress | None], Extracted] = extraction.extract
    train: Callable[[Workspace, DatasetRef, BackboneSpec, Plan, Extracted], Trained] = training.train


PLAIN = Steps()


def onboard(
    request: OnboardRequest,
    progress: Progress | None = None,
    steps: Steps = PLAIN,
    remember: bool = True,
) -> OnboardResult:
    """Bring a dataset to a model; everything that was done before is found, not done again.

    Without `remember`, `refresh` does not know how to read the data again: they were rows from Python.
    """
    workspace = Workspace.open(request.workspace)

    def run() -> OnboardResult:
        dataset = steps.scan(workspace, request)
        spec, plan = _plan(workspace, request, dataset, steps)
        extracted = steps.extract(workspace, dataset, spec, request.views, progress)
        trained = steps.train(workspace, dataset, spec, plan, extracted)
        return OnboardResult(
            dataset=dataset.name,
            workspace=request.workspace,
            spec=spec,
            extracted=extracted,
            model=trained.model,
            trained=trained.is_new,
            serving=trained.verdict,
            seconds=stopwatch.seconds(),
        )

    with stopwatch.timed():
        try:
            result = run()
        except DamagedError as error:
            # the damaged file is set aside by now, so a second round computes only its rows
            log.warning("%s It is set aside and computed again.", error)
            result = run()
    write_registration(workspace, result.dataset, request.to_remember() if remember else None)
    return result


def extract_only(
    request: ExtractRequest,
    progress: Progress | None = None,
    pack: str | None = None,
    steps: Steps = PLAIN,
) -> ExtractResult:
    """Store the features of a dataset; with `pack`, also write them and the labels to that one new file."""
    if pack is not None and Path(pack).exists():
        raise ConflictError(f"{pack} exists and is not overwritten. Name a new file, or remove it first.")
    workspace = Workspace.open(request.workspace)
    with stopwatch.timed():
        dataset = steps.scan(workspace, request)
        spec, _ = _backbone(workspace, request, dataset)
        extracted = steps.extract(workspace, dataset, spec, request.views, progress)
        if pack is not None:
            pack_features(workspace, dataset, spec, extracted, pack)
        notes = read_manifest(workspace, dataset.name, dataset.fingerprint).notes
        seconds = stopwatch.seconds()
    return ExtractResult(dataset.name, dataset.fingerprint, spec, extracted, notes, seconds, pack)


def plan_only(request: OnboardRequest, steps: Steps = PLAIN) -> PlanResult:
    """Do everything up to the plan, from a sample of the pictures."""
    workspace = Workspace.open(request.workspace)
    with stopwatch.timed():
        dataset = steps.scan(workspace, request)
        _, plan = _plan(workspace, request, dataset, steps)
        manifest = read_manifest(workspace, dataset.name, dataset.fingerprint)
        seconds = stopwatch.seconds()
    return PlanResult(dataset.name, plan, manifest.rejected, manifest.notes, seconds)


def _plan(
    workspace: Workspace, request: OnboardRequest, dataset: DatasetRef, steps: Steps
) -> tuple[BackboneSpec, Plan]:
    """Decide with which backbone, in which case and at what cost."""
    spec, ranking = _backbone(workspace, request, dataset)
    return spec, steps.plan_dataset(workspace, dataset, spec, request.wishes(), ranking, request.views)


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
