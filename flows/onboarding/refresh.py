"""Refresh: onboarded datasets are read again, new pictures computed, and heads trained again if enough changed.

Made for a schedule: if nothing changed, nothing heavy is loaded. An error in one dataset does not stop the others.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from flows.documents import FinetuneRun
from flows.features.backbone import get_recorded_backbone
from flows.onboarding.results import OnboardResult
from flows.onboarding.story import PLAIN, Steps, find_request, onboard
from flows.requests import RefreshRequest
from flows.versions.promote import list_heads
from pipeline.errors import CancelledError, HeadstartError, NotFoundError
from pipeline.report.record import ModelRef
from pipeline.types import Progress
from pipeline.versions.changes import RefreshPlan, plan_refresh
from storage.datasets.manifests import DatasetRef, list_names, read_manifest
from storage.models.serving import serving_version
from storage.workspace import Workspace

logger = logging.getLogger(__name__)

NEVER_ONBOARDED = (
    "There is no record of how it was onboarded: it was only scanned, onboarded by an older headstart, or its "
    "pictures were named in Python. "
    "Onboard it once more: headstart onboard DIR --name {name}"
)

Schedule = Callable[[OnboardResult], OnboardResult]  # submits the fine-tuning that a plan asks for


@dataclass(frozen=True, slots=True)
class RowError:
    """Why a dataset could not be refreshed."""

    kind: str  # of the exception
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RefreshRow:
    """What a refresh found and did about one dataset."""

    name: str
    num_added: int | None = None  # training pictures since its newest head; None if that is not known
    num_removed: int | None = None
    num_relabelled: int | None = None
    classes_added: tuple[str, ...] = ()
    classes_gone: tuple[str, ...] = ()
    num_computed: int = 0  # pictures
    retrained: bool = False
    trained_version: int | None = None
    promoted: bool = False  # by this refresh
    version: int | None = None  # that serves
    reasons: tuple[str, ...] = ()
    gate: Mapping[str, Any] | None = None  # the comparison of two versions, if there was one
    finetune: FinetuneRun | None = None
    error: RowError | None = None

    def __str__(self) -> str:
        if self.error:
            return f"{self.name}: {self.error.kind}: {self.error.message}"
        done = "trained again" if self.retrained else "not trained"
        version = f", version {self.version} {'serves now' if self.promoted else 'serves'}" if self.version else ""
        return f"{self.name}: {done}{version}, {self.num_computed:,} pictures computed. {' '.join(self.reasons)}"


@dataclass(frozen=True, slots=True)
class RefreshResult:
    """What a refresh did, a row for each dataset."""

    workspace: str
    datasets: tuple[RefreshRow, ...]
    seconds: float

    @property
    def num_failed(self) -> int:
        return sum(row.error is not None for row in self.datasets)

    def __str__(self) -> str:
        counts = {
            "trained again": sum(row.retrained for row in self.datasets),
            "with a new version that serves": sum(row.promoted for row in self.datasets),
            "with an error": self.num_failed,
        }
        said = "".join(f", {count:,} {what}" for what, count in counts.items() if count)
        num_computed = sum(row.num_computed for row in self.datasets)
        return f"{len(self.datasets):,} datasets read{said}; {num_computed:,} pictures computed."


def refresh(
    request: RefreshRequest,
    progress: Progress | None = None,
    log: Callable[[str], None] = logger.info,
    steps: Steps = PLAIN,
    schedule: Schedule = lambda result: result,
) -> RefreshResult:
    """Bring every dataset's model up to date.

    A dataset that cannot be refreshed has its error in its row, and the next one follows.

    Raises
    ------
    NotFoundError
        A dataset was named that is not known; nothing was done then.
    """
    started = time.perf_counter()
    workspace = Workspace.open(request.workspace)
    known = list_names(workspace)
    if unknown := sorted(set(request.names) - set(known)):
        raise NotFoundError(
            f"There is no dataset {', '.join(map(repr, unknown))}. Known: {', '.join(known) or 'none yet'}."
        )
    rows = []
    for name in sorted(set(request.names)) or known:
        rows.append(_refreshed(workspace, name, request.force, progress, steps, schedule))
        log(str(rows[-1]))
    return RefreshResult(request.workspace, tuple(rows), round(time.perf_counter() - started, 3))


def _refreshed(
    workspace: Workspace, name: str, force: bool, progress: Progress | None, steps: Steps, schedule: Schedule
) -> RefreshRow:
    """Refresh a dataset; after an error its row has what was known before."""
    row = RefreshRow(name=name)
    try:
        asked = find_request(workspace, name)
        if asked is None:
            return replace(row, reasons=(NEVER_ONBOARDED.format(name=name),))
        dataset = steps.scan(workspace, asked)
        head = next(reversed(list_heads(workspace, dataset.name)), None)
        plan = _plan(workspace, dataset, head, force)
        counts = {item.name: getattr(plan, item.name) for item in fields(plan) if item.name != "retrain"}
        row = replace(row, version=serving_version(workspace, name), **counts)
        if plan.retrain or head is None:
            scanned = replace(steps, scan=lambda *_: dataset)  # the folder is not read twice
            return _trained(row, schedule(onboard(asked, progress, scanned)))
        spec = get_recorded_backbone(workspace, head.record)
        extracted = steps.extract(workspace, dataset, spec, head.record.features.num_views, progress)
        return replace(row, num_computed=extracted.num_computed)
    except CancelledError:
        raise
    except Exception as error:  # also a bug: one that a dataset meets must not stop the refresh of the others
        message = str(error)
        if not isinstance(error, HeadstartError | OSError):
            logger.exception("refreshing %s", name)
            message += " This is a bug in headstart; the log has its traceback."
        return replace(row, error=RowError(type(error).__name__, message))


def _plan(workspace: Workspace, dataset: DatasetRef, head: ModelRef | None, force: bool) -> RefreshPlan:
    """Compare a dataset with what its newest head was trained on, so that small changes add up."""
    if head is None:
        return RefreshPlan(retrain=True, reasons=("It has no head.",))
    now = read_manifest(workspace, dataset.name, dataset.fingerprint)
    try:
        trained_on = read_manifest(workspace, dataset.name, head.record.data.fingerprint)
    except HeadstartError as error:
        return RefreshPlan(retrain=True, reasons=(f"What its head was trained on is no longer known. {error}",))
    plan = plan_refresh(trained_on, now)
    if force and not plan.retrain:
        forced = "It was trained all the same, because that was asked for."
        return replace(plan, retrain=True, reasons=(*plan.reasons, forced))
    return plan


def _trained(row: RefreshRow, result: OnboardResult) -> RefreshRow:
    serving = result.serving
    return replace(
        row,
        num_computed=result.extracted.num_computed,
        retrained=result.trained,
        trained_version=result.model.version if result.trained else None,
        promoted=serving.promoted,
        version=serving.version,
        reasons=(*row.reasons, serving.reason),
        gate=serving.gate,
        finetune=result.finetune,
    )
