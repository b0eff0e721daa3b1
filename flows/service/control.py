"""Fine-tuning jobs and audits, in the workspace and on a Prefect server: their state, and how to stop one."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from flows.documents import SavedModel
from flows.finetuning.results import JobEnd
from flows.service.client import LatestRun, Run, cancel_runs, find_latest, find_problem, find_runs, hide_password
from flows.settings import prefect_url
from pipeline.decision.finetuned import JobAsked, JobStatus
from pipeline.errors import DamagedError, HeadstartError, NotFoundError
from pipeline.jsonable import from_json
from storage.jobs.folder import SHORTEST, JobState, get_job, list_jobs, request_cancel
from storage.workspace import Workspace

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Nothing:
    """What is not known yet; `{}` in JSON."""


@dataclass(frozen=True, slots=True)
class JobRow:
    """A job as the workspace and a server know it."""

    job: str
    dataset: str
    state: str  # "running", "finished", "stopped" or "not begun"
    passed: bool | None = None  # its gate
    model: SavedModel | None = None
    asked: JobAsked | Nothing = Nothing()
    status: JobStatus | Nothing = Nothing()
    written: str | None = None  # ISO 8601, when it was last heard of
    run: str | None = None  # on the server: of the newest attempt
    attempt: int | None = None
    run_state: str | None = None


@dataclass(frozen=True, slots=True)
class JobList:
    """What `headstart jobs --json` prints."""

    workspace: str
    server: str | None
    jobs: tuple[JobRow, ...]
    runs: tuple[LatestRun, ...]  # on the server, of any kind; the newest is the first


@dataclass(frozen=True, slots=True)
class StoppedRun:
    """A run that was asked to stop."""

    run: str
    name: str
    state: str


@dataclass(frozen=True, slots=True)
class Cancellation:
    """What `headstart jobs cancel --json` prints."""

    job: str
    was_running: bool  # in this workspace
    runs: tuple[StoppedRun, ...]


def describe_jobs(workspace_root: str) -> JobList:
    """List the jobs of a workspace with their runs, and the latest runs of any kind.

    A server that does not answer is logged.
    """
    local = list_jobs(Workspace.open(workspace_root))
    server, runs = _find_runs(workspace_root)
    latest: dict[str, Run] = {}
    for run in runs:
        latest.setdefault(run.job, run)  # the newest attempt comes first
    rows = []
    for job in local:
        run_of_job = latest.pop(job.id, None)
        try:
            rows.append(_with_run(_local_row(job), run_of_job))
        except DamagedError as error:  # one damaged job must not hide the others
            log.warning("Left out: job %s. %s", job.id, error)
    rows += [_with_run(JobRow(run.job, run.dataset, "not begun"), run) for run in latest.values()]
    newest = find_latest(server) if server else []
    return JobList(workspace_root, server and hide_password(server), tuple(rows), tuple(newest))


def cancel_job(workspace_root: str, text: str) -> Cancellation:
    """Ask a job to stop, here and on the server; finished work is saved.

    Parameters
    ----------
    text
        The job's id, or the beginning of one.

    Raises
    ------
    NotFoundError
        Neither the workspace nor the server knows the job.
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
    return Cancellation(job, is_running, tuple(StoppedRun(run.id, run.name, run.state) for run in cancelled))


def _find_runs(workspace_root: str, job: str | None = None) -> tuple[str | None, list[Run]]:
    """Find runs on the server that PREFECT_API_URL names, if it names one and that answers."""
    url = prefect_url()
    if url is None:
        return None, []
    if problem := find_problem(url):
        log.warning(
            "No Prefect server answers at %s (%s): only this workspace's jobs are shown.", hide_password(url), problem
        )
        return None, []
    try:
        return url, find_runs(url, workspace_root, job)
    except HeadstartError as error:
        log.warning("%s Only this workspace's jobs are shown.", error)
        return None, []


def _local_row(job: JobState) -> JobRow:
    end = from_json(JobEnd, job.outcome) if job.outcome else None
    return JobRow(
        job=job.id,
        dataset=job.asked.dataset,
        state="running" if job.is_running else "finished" if end else "stopped",
        passed=end.gate.passed if end else None,
        model=end.model if end else None,
        asked=job.asked,
        status=from_json(JobStatus, job.status) if job.status else Nothing(),
        written=datetime.fromtimestamp(job.written, UTC).isoformat(timespec="seconds"),
    )


def _with_run(row: JobRow, run: Run | None) -> JobRow:
    return replace(row, run=run.id, attempt=run.attempt, run_state=run.state) if run else row
