"""What is amiss with the runs on a Prefect server: lost, late, failed. Prefect is not needed to tell."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING

from flows.doctor.check import Check, or_ok, some, span

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun

    from flows.doctor.server_state import ServerState

SILENT_SECONDS = 120.0  # four heartbeats
STUCK_SECONDS = 600.0  # of a run that is beginning or being cancelled
LATE_SECONDS = 600.0
# ours end those that ran or began; Prefect's own service ends one that has been Cancelling for five minutes
LOST = "Its worker was lost. The server ends such runs within minutes; if it stays: prefect flow-run delete"


def check_runs(state: ServerState) -> list[Check]:
    """Say which runs are lost or late, and which failed since yesterday."""
    lost = [*_check_silent(state), *_check_stuck(state)]
    num_begun = len(state.begun)
    return [
        *or_ok(lost, "runs", f"{num_begun} begun and not ended; all are heard of."),
        *or_ok(_check_late(state), "late runs", f"None waits for longer than {span(LATE_SECONDS)}."),
        *or_ok(_check_failed(state), "failed runs", "None in the last 24 hours."),
    ]


def _check_silent(state: ServerState) -> Iterator[Check]:
    for run in state.begun:
        if run.state and run.state.is_running() and (heard := state.heard.get(run.id)):
            silent = _since(state, heard)
            if silent > SILENT_SECONDS:
                found = f"{run.name} ({run.id}) is Running, and nothing was heard of it for {span(silent)}."
                yield Check("runs", "problem", found, f"{LOST} {run.id}")


def _check_stuck(state: ServerState) -> Iterator[Check]:
    for run in state.begun:
        if run.state and not run.state.is_running():
            waits = _since(state, run.state.timestamp)
            if waits > STUCK_SECONDS:
                found = f"{run.name} ({run.id}) has been {run.state.name} for {span(waits)}."
                yield Check("runs", "problem", found, f"{LOST} {run.id}")


def _check_late(state: ServerState) -> Iterator[Check]:
    """A run that waits is no fault where the workers of its pool are busy."""
    late: dict[str, list[FlowRun]] = {}
    for run in state.due:
        if run.next_scheduled_start_time and _since(state, run.next_scheduled_start_time) > LATE_SECONDS:
            late.setdefault(run.work_pool_name or "", []).append(run)
    busy = Counter(run.work_pool_name or "" for run in state.begun)
    for pool, runs in late.items():
        longest = max(_since(state, run.next_scheduled_start_time) for run in runs if run.next_scheduled_start_time)
        names = some(run.name for run in reversed(runs))  # the oldest first
        found = f"{len(runs)} of pool {pool or 'none'} have waited for up to {span(longest)}: {names}."
        if busy[pool]:
            advice = f"Its workers are busy with {busy[pool]} runs. Start another, or give one a higher --limit."
            yield Check("late runs", "warning", found, advice)
        else:
            advice = f"Start a worker: prefect worker start --pool {pool}. If one runs, see its log."
            yield Check("late runs", "problem", found, advice)


def _check_failed(state: ServerState) -> Iterator[Check]:
    if state.failed:
        names = some(f"{run.name} ({run.state.name if run.state else 'unknown'})" for run in state.failed)
        advice = f"Why is the last of its log: prefect flow-run logs --tail {state.failed[0].id}"
        yield Check("failed runs", "warning", f"{len(state.failed)} in the last 24 hours: {names}.", advice)


def _since(state: ServerState, moment: datetime) -> float:
    return (state.access.now - moment).total_seconds()
