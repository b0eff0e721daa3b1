"""Doctor's findings about the runs on a Prefect server: stuck, late, failed. Needs no Prefect."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING

from flows.doctor.check import Check, or_ok, some, span

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun

    from flows.doctor.server_state import ServerState

STUCK_SECONDS = 600.0  # of a run that is starting or being cancelled; the server ends such runs after 300 s
LATE_SECONDS = 600.0


def check_runs(state: ServerState) -> list[Check]:
    """Say which runs are stuck or late, and which failed in the last 24 hours."""
    return [
        *or_ok(_check_stuck(state), "runs", f"{len(state.begun)} started and not ended; none is stuck."),
        *or_ok(_check_late(state), "late runs", f"None has waited for longer than {span(LATE_SECONDS)}."),
        *or_ok(_check_failed(state), "failed runs", "None in the last 24 hours."),
    ]


def _check_stuck(state: ServerState) -> Iterator[Check]:
    """Find runs that the server should have ended. A running one that sends no heartbeats is ended after 90 s."""
    for run in state.begun:
        if run.state and not run.state.is_running():
            waits = _since(state, run.state.timestamp)
            if waits > STUCK_SECONDS:
                found = f"{run.name} ({run.id}) has been {run.state.name} for {span(waits)}."
                advice = f"Its worker was lost, and the server should have ended it: prefect flow-run delete {run.id}"
                yield Check("runs", "problem", found, advice)


def _check_late(state: ServerState) -> Iterator[Check]:
    """Find runs that wait. If the workers of their pool are busy, that is a warning only."""
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
            advice = f"Start a worker: prefect worker start --pool {pool}. If one is running, see its log."
            yield Check("late runs", "problem", found, advice)


def _check_failed(state: ServerState) -> Iterator[Check]:
    if state.failed:
        names = some(f"{run.name} ({run.state.name if run.state else 'unknown'})" for run in state.failed)
        advice = f"The end of its log says why: prefect flow-run logs --tail {state.failed[0].id}"
        yield Check("failed runs", "warning", f"{len(state.failed)} in the last 24 hours: {names}.", advice)


def _since(state: ServerState, moment: datetime) -> float:
    return (state.access.now - moment).total_seconds()
