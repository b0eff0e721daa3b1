"""Refresh: read registered datasets again, compute what is new, train again where enough changed.

Meant for a schedule: a night in which nothing changed loads nothing heavy, and one dataset's trouble is its own.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from flows.documents import SCHEMA_VERSION
from flows.features.backbone import get_recorded_backbone
from flows.onboarding.story import PLAIN, Steps, find_request, onboard
from flows.requests import OnboardRequest, RefreshRequest
from flows.versions.promote import list_heads
from pipeline.errors import CancelledError, HeadstartError, NotFoundError
from pipeline.report.record import ModelRef
from pipeline.types import Progress
from pipeline.versions.changes import RefreshPlan, plan_refresh
from storage.datasets.manifests import DatasetRef, list_names, read_manifest
from storage.models.serving import serving_version
from storage.workspace import Workspace

logger = logging.getLogger(__name__)

Row = dict[str, Any]
Schedule = Callable[[dict[str, Any]], dict[str, Any]]  # submits the fine-tuning that a plan asks for, and says so


def unscheduled(document: dict[str, Any]) -> dict[str, Any]:
    """Submit nothing."""
    return document


@dataclass(frozen=True, slots=True)
class _Look:
    """What has become of a dataset since its newest head."""

    dataset: DatasetRef
    head: ModelRef | None
    plan: RefreshPlan | None  # None where there is nothing to compare with
    reasons: tuple[str, ...]
    retrain: bool


def refresh(
    request: RefreshRequest,
    progress: Progress | None = None,
    log: Callable[[str], None] = logger.info,
    steps: Steps = PLAIN,
    schedule: Schedule = unscheduled,
) -> dict[str, Any]:
    """Bring every dataset's model up to date; returns what `headstart refresh --json` prints.

    A dataset that cannot be refreshed has its error in its row, and the others go on.

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
        rows.append(_refreshed(request, workspace, name, progress, steps, schedule))
        log(describe_row(rows[-1]))
    return {
        "schema_version": SCHEMA_VERSION,
        "workspace": request.workspace,
        "datasets": rows,
        "seconds": round(time.perf_counter() - started, 3),
    }


def describe_row(row: Row) -> str:
    """Say in a line what came of a dataset."""
    if row["error"]:
        return f"{row['name']}: {row['error']['kind']}: {row['error']['message']}"
    done = "trained again" if row["retrained"] else "not trained"
    version = f", version {row['version']} {'serves now' if row['promoted'] else 'serves'}" if row["version"] else ""
    return f"{row['name']}: {done}{version}, {row['num_computed']:,} pictures computed. {' '.join(row['reasons'])}"


def describe_refreshed(document: Mapping[str, Any]) -> str:
    """Say in a line what came of all datasets."""
    rows = document["datasets"]
    counts = {
        "trained again": sum(row["retrained"] for row in rows),
        "with a new version that serves": sum(row["promoted"] for row in rows),
        "with an error": sum(row["error"] is not None for row in rows),
    }
    said = "".join(f", {count:,} {what}" for what, count in counts.items() if count)
    num_computed = sum(row["num_computed"] for row in rows)
    return f"{len(rows):,} datasets read{said}; {num_computed:,} pictures computed."


def _refreshed(
    request: RefreshRequest,
    workspace: Workspace,
    name: str,
    progress: Progress | None,
    steps: Steps,
    schedule: Schedule,
) -> Row:
    row: Row = {
        "name": name,
        "num_added": None,
        "num_removed": None,
        "num_relabelled": None,
        "classes_added": [],
        "classes_gone": [],
        "num_computed": 0,
        "retrained": False,
        "trained_version": None,
        "promoted": False,
        "version": None,
        "reasons": [],
        "gate": None,
        "finetune": None,
        "error": None,
    }
    try:
        _refresh_one(request, workspace, row, progress, steps, schedule)
    except CancelledError:
        raise
    except (HeadstartError, OSError) as error:
        row["error"] = {"kind": type(error).__name__, "message": str(error)}
    except Exception as error:  # a bug that one dataset meets must not cost the others their night
        logger.exception("refreshing %s", name)
        row["error"] = {"kind": type(error).__name__, "message": f"{error} This is a bug; the log has its traceback."}
    return row


def _refresh_one(
    request: RefreshRequest, workspace: Workspace, row: Row, progress: Progress | None, steps: Steps, schedule: Schedule
) -> None:
    """Refresh a dataset and fill its row, as far as it comes."""
    asked = find_request(workspace, row["name"])
    if asked is None:
        row["reasons"] = [
            "How it is onboarded is not known: it was only scanned, or by an older headstart. "
            f"Onboard it once more: headstart onboard DIR --name {row['name']}"
        ]
        return
    look = _look(workspace, asked, request.force, steps)
    if look.plan:
        fields = ("num_added", "num_removed", "num_relabelled")
        row |= {name: getattr(look.plan, name) for name in fields}
        row |= {"classes_added": list(look.plan.classes_added), "classes_gone": list(look.plan.classes_gone)}
    row["reasons"] = list(look.reasons)
    row["version"] = serving_version(workspace, row["name"])
    if look.retrain or look.head is None:
        _train(asked, look, row, progress, steps, schedule)
        return
    spec = get_recorded_backbone(workspace, look.head.record)
    num_views = look.head.record.features.num_views
    row["num_computed"] = steps.extract(workspace, look.dataset, spec, num_views, progress).num_computed


def _look(workspace: Workspace, asked: OnboardRequest, force: bool, steps: Steps) -> _Look:
    """Scan a dataset and compare it with what its newest head was trained on: so small changes add up."""
    dataset = steps.scan(workspace, asked)
    heads = list_heads(workspace, dataset.name)
    if not heads:
        return _Look(dataset, None, None, ("It has no head.",), True)
    head = heads[-1]
    now = read_manifest(workspace, dataset.name, dataset.fingerprint)
    try:
        trained_on = read_manifest(workspace, dataset.name, head.record.data.fingerprint)
    except HeadstartError as error:
        return _Look(dataset, head, None, (f"What its head was trained on is not known any more. {error}",), True)
    plan = plan_refresh(trained_on, now)
    forced = ("Training was asked for all the same.",) if force and not plan.retrain else ()
    return _Look(dataset, head, plan, (*plan.reasons, *forced), plan.retrain or force)


def _train(
    asked: OnboardRequest, look: _Look, row: Row, progress: Progress | None, steps: Steps, schedule: Schedule
) -> None:
    document = schedule(onboard(asked, progress, steps, look.dataset))
    serving = document["serving"]
    row |= {
        "num_computed": document["features"]["num_computed"],
        "retrained": document["trained"],
        "trained_version": document["model"]["version"] if document["trained"] else None,
        "promoted": serving["promoted"],
        "version": serving["version"],
        "reasons": [*row["reasons"], serving["reason"]],
        "gate": serving["gate"],
        "finetune": document.get("finetune"),
    }
