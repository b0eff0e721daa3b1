"""Fine-tuning jobs as their owner sees them: here and on a Prefect server, what became of them, and how to stop one."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import Any

from flows.service.client import Run, cancel_runs, find_latest, find_problem, find_runs, hide_password
from flows.settings import prefect_url
from pipeline.errors import HeadstartError, NotFoundError
from storage.jobs.folder import SHORTEST, JobState, get_job, list_jobs, request_cancel
from storage.workspace import Workspace

log = logging.getLogger(__name__)


def describe_jobs(workspace_root: str) -> dict[str, Any]:
    """List the jobs of a workspace and their runs, and the latest runs of any kind; returns what `jobs --json` prints.

    A server that does not answer is only named.
    """
    workspace = Workspace.open(workspace_root)
    local = list_jobs(workspace)
    server, runs = _find_runs(workspace_root)
    latest: dict[str, Run] = {}
    for run in runs:
        latest.setdefault(run.job, run)  # the newest attempt comes first
    rows = [_local_row(job) | _run_columns(latest.pop(job.id, None)) for job in local]
    rows += [_waiting_row(run) | _run_columns(run) for run in latest.values()]
    return {
        "workspace": workspace_root,
        "server": server and hide_password(server),
        "jobs": rows,
        "runs": find_latest(server) if server else [],
    }


def cancel_job(workspace_root: str, text: str) -> dict[str, Any]:
    """Ask a job to stop, here and on the server; what it has done is kept.

    Parameters
    ----------
    text
        The job's id, or the beginning of one.

    Raises
    ------
    NotFoundError
        When neither the workspace nor the server knows it.
    """
    workspace = Workspace.open(workspace_root)
    is_running = False
    try:
        job = get_job(workspace, text).id
        is_running = request_cancel(workspace, job)
        server, runs = _find_runs(workspace_root, job)
    except NotFoundError:  # one that waits on a server has no folder yet
        server, runs = _find_runs(workspace_root)
        begun = {run.job for run in runs if len(text) >= SHORTEST and run.job.startswith(text)}
        if len(begun) != 1:
            raise
        (job,) = begun
    open_runs = [run for run in runs if run.job == job and not run.is_final]
    cancelled = cancel_runs(server, workspace_root, job) if server and open_runs else []
    return {
        "job": job,
        "was_running": is_running,
        "runs": [{"run": run.id, "name": run.name, "state": run.state} for run in cancelled],
    }


def _find_runs(workspace_root: str, job: str | None = None) -> tuple[str | None, list[Run]]:
    """Find runs on the server that PREFECT_API_URL names, if it names one and that answers."""
    url = prefect_url()
    if url is None:
        return None, []
    if problem := find_problem(url):
        log.warning(
            "No Prefect server answers at %s (%s): only what is known here is told.", hide_password(url), problem
        )
        return None, []
    try:
        return url, find_runs(url, workspace_root, job)
    except HeadstartError as error:
        log.warning("%s Only what is known here is told.", error)
        return None, []


def _local_row(job: JobState) -> dict[str, Any]:
    outcome = job.outcome
    state = "running" if job.is_running else "finished" if outcome else "stopped"
    return {
        "job": job.id,
        "dataset": job.asked.get("dataset"),
        "state": state,
        "passed": outcome["gate"]["passed"] if outcome else None,
        "model": outcome["model"] if outcome else None,
        "asked": dict(job.asked),
        "status": dict(job.status or {}),
        "written": datetime.fromtimestamp(job.written, UTC).isoformat(timespec="seconds"),
    }


def _waiting_row(run: Run) -> dict[str, Any]:
    """A job that the server knows and the workspace does not: nobody has begun it."""
    row = dict.fromkeys(("passed", "model", "written"))
    return {"job": run.job, "dataset": run.dataset, "state": "not begun", **row, "asked": {}, "status": {}}


def _run_columns(run: Run | None) -> dict[str, Any]:
    if run is None:
        return {"run": None, "attempt": None, "run_state": None}
    return {"run": run.id, "attempt": run.attempt, "run_state": run.state}
