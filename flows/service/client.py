"""The Prefect server: whether it answers, and the runs of fine-tuning jobs on it. Prefect is imported inside, 2 s."""

from __future__ import annotations

import os
import re
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from http import HTTPStatus
from http.client import HTTPException, InvalidURL
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError, URLError
from urllib.request import urlopen
from uuid import UUID

from flows.documents import SubmittedJob, SubmittedRun
from flows.settings import prefect_url
from pipeline import errors
from pipeline.errors import (
    CancelledError,
    ConflictError,
    HeadstartError,
    ServerUnreachableError,
    UnknownNameError,
    UsageError,
)
from pipeline.fingerprint import fingerprint

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun, State

# flow/deployment
ONBOARD, FINETUNE = "onboard/onboard", "fine-tune/fine-tune"
REFRESH, PREDICT_BATCH = "refresh/refresh", "predict-batch/predict-batch"
JOB_TAG = "job:"  # its runs carry a job's id in a tag
RUNS_AT_A_TIME = {"cpu": 2, "gpu": 1}  # of a worker on a machine of modest size: onboarding may take some gigabytes
ANSWER_SECONDS = 5.0
MOST_RUNS = 200  # in a server's answer
LATEST_RUNS = 20
TAG = "headstart"  # of its deployments, and so of their runs; everything else on a server is left alone


@dataclass(frozen=True, slots=True)
class Run:
    """A run of a job on a server; a job has one for each attempt."""

    id: str
    name: str
    job: str
    attempt: int
    dataset: str
    workspace: str
    state: str
    is_final: bool


@dataclass(frozen=True, slots=True)
class LatestRun:
    """A run of any deployment of headstart."""

    run: str  # id
    name: str
    state: str
    began: str | None  # ISO 8601
    seconds: float
    message: str


def get_server(otherwise: str = "") -> str:
    """Return the URL of the Prefect server that is set, if it answers; `otherwise` says how to do without one.

    Raises
    ------
    ServerUnreachableError
        None is named, or it does not answer.
    """
    url = named_server()
    if not url:
        raise ServerUnreachableError(f"No Prefect server is named. Set PREFECT_API_URL{otherwise}.")
    if problem := find_problem(url):
        raise ServerUnreachableError(
            f"No Prefect server answers at {hide_password(url)} ({problem}). Start it{otherwise}."
        )
    return url


def named_server() -> str | None:
    """Return the API that PREFECT_API_URL names, else the one that Prefect's profile names, else None."""
    if url := prefect_url():
        return url
    from prefect.settings import PREFECT_API_URL

    return PREFECT_API_URL.value() or None


def find_problem(url: str) -> str | None:
    """Say why a server does not answer; None if it does. Not through Prefect: its client tries for a minute."""
    try:
        urlopen(f"{url.rstrip('/')}/health", timeout=ANSWER_SECONDS).close()
    except HTTPError:
        pass  # it is there; Prefect has the credentials that it asks for
    except URLError as error:
        # a certificate that only Prefect's settings know
        return None if isinstance(error.reason, ssl.SSLError) else str(error.reason)
    except (ValueError, InvalidURL):  # whose words may quote a password
        return "it is not a URL"
    except (OSError, HTTPException) as error:
        return str(error)
    return None


def hide_password(url: str) -> str:
    """Leave out the user and password of a URL, for people and logs."""
    return re.sub(r"//[^/@]*@", "//", url)


@contextmanager
def explained(url: str) -> Iterator[None]:
    """Turn what Prefect's client raises into an error of headstart."""
    import httpx

    try:
        yield
    except httpx.HTTPStatusError as error:
        if error.response.status_code == HTTPStatus.UNAUTHORIZED:
            raise ConflictError(
                f"The server at {hide_password(url)} wants credentials. Set PREFECT_API_AUTH_STRING to what it was "
                "started with as PREFECT_SERVER_API_AUTH_STRING."
            ) from error
        said = error.response.text[:300]
        raise ConflictError(
            f"The server at {hide_password(url)} refused ({error.response.status_code}): {said}"
        ) from error
    except httpx.HTTPError as error:
        raise ServerUnreachableError(
            f"The Prefect server at {hide_password(url)} stopped answering ({type(error).__name__}). Try again later."
        ) from error


def find_runs(url: str, workspace: str, job: str | None = None) -> list[Run]:
    """Find the runs of a job, or the latest of all jobs of a workspace; the newest attempt of a job is the first.

    Another workspace on the same server has a job of the same id if it has the same pictures.
    """
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowFilter, FlowFilterName, FlowRunFilter, FlowRunFilterTags
    from prefect.client.schemas.sorting import FlowRunSort

    flow_name = FINETUNE.partition("/")[0]
    with explained(url), get_client(sync_client=True) as client:
        found = client.read_flow_runs(
            flow_filter=FlowFilter(name=FlowFilterName(any_=[flow_name])),
            flow_run_filter=FlowRunFilter(tags=FlowRunFilterTags(all_=[f"{JOB_TAG}{job}"])) if job else None,
            sort=FlowRunSort.EXPECTED_START_TIME_DESC,
            limit=MOST_RUNS,
        )
    here = os.path.abspath(workspace)
    runs = [run for run in map(_parse_run, found) if run is not None and run.workspace == here]
    return sorted(runs, key=lambda run: run.attempt, reverse=True)


def _parse_run(run: FlowRun) -> Run | None:
    """Read a run of a job; None for one that was started in Prefect itself, without the job's tag."""
    job = next((tag.removeprefix(JOB_TAG) for tag in run.tags if tag.startswith(JOB_TAG)), None)
    if job is None:
        return None
    number = (run.idempotency_key or "").rpartition("-")[2]
    params: dict[str, Any] = run.parameters.get("params") or {}
    return Run(
        id=str(run.id),
        name=run.name,
        job=job,
        attempt=int(number) if number.isdecimal() else 1,
        dataset=str(params.get("name", "")),
        workspace=str(params.get("workspace", "")),
        state=(run.state and run.state.name) or "unknown",
        is_final=bool(run.state and run.state.is_final()),
    )


def find_latest(url: str, number: int = LATEST_RUNS) -> list[LatestRun]:
    """Find the newest runs of all deployments of headstart whose time has come; the newest is the first."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterExpectedStartTime, FlowRunFilterTags
    from prefect.client.schemas.sorting import FlowRunSort

    before: Any = datetime.now(UTC)
    due = FlowRunFilter(
        tags=FlowRunFilterTags(all_=[TAG]),
        expected_start_time=FlowRunFilterExpectedStartTime(before_=before),
    )
    with explained(url), get_client(sync_client=True) as client:
        found = client.read_flow_runs(flow_run_filter=due, sort=FlowRunSort.EXPECTED_START_TIME_DESC, limit=number)
    return [
        LatestRun(
            run=str(run.id),
            name=run.name,
            state=(run.state and run.state.name) or "unknown",
            began=run.start_time.isoformat(timespec="seconds") if run.start_time else None,
            seconds=round(run.total_run_time.total_seconds(), 1),
            message=(run.state and run.state.message) or "",
        )
        for run in found
    ]


def attempt_key(workspace: str, job: str, attempt: int) -> str:
    """Name an attempt; asked for a run of this name again, the server returns the one it has."""
    return f"{job}-{fingerprint(os.path.abspath(workspace))[:8]}-{attempt}"


def next_attempt(url: str, workspace: str, job: str) -> int:
    """Number the next attempt of a job.

    Raises
    ------
    ConflictError
        One of its runs has not ended.
    """
    runs = find_runs(url, workspace, job)
    for run in runs:
        if not run.is_final:
            raise ConflictError(
                f"Run {run.name} ({run.id}) of job {job} is {run.state}, so another attempt would be a second one. "
                f"Wait for it, or stop it: headstart jobs cancel {job}"
            )
    return runs[0].attempt + 1 if runs else 1


def cancel_runs(url: str, workspace: str, job: str) -> list[Run]:
    """Ask for the end of every run of a job that has not ended; returns them as they are then."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.objects import State, StateType

    with explained(url), get_client(sync_client=True) as client:
        asked = {run.id for run in find_runs(url, workspace, job) if not run.is_final}
        for run_id in asked:
            client.set_flow_run_state(run_id, State(type=StateType.CANCELLING))
    return [run for run in find_runs(url, workspace, job) if run.id in asked]


SECONDS_BETWEEN_LOOKS = 2.0
SECONDS_AWAY = 600.0  # of a server that is started again, or moved


def wait_for(
    submitted: SubmittedRun | SubmittedJob, seconds_between: float = SECONDS_BETWEEN_LOOKS
) -> SubmittedRun | SubmittedJob:
    """Wait for the end of a submitted run; returns it with how it ended.

    Raises
    ------
    HeadstartError
        Of the kind that ended the run, if it was an error of headstart; CancelledError for a run that was stopped.
    ServerUnreachableError
        The server was away for ten minutes. The run may continue.
    """
    url, run_id = get_server(), submitted.run
    heard = time.monotonic()
    while True:
        try:
            state = _state_of(url, run_id)
            heard = time.monotonic()
        except ServerUnreachableError:
            if time.monotonic() - heard > SECONDS_AWAY:
                raise
            state = None
        if state and state.is_final():
            break
        time.sleep(seconds_between)
    name = str(state.name)
    message = state.message or name
    if not state.is_completed():
        raise _ended_by(f"Run {submitted.name} ({run_id})", name, message, state.is_cancelled())
    return replace(submitted, state=name, message=message)


def _state_of(url: str, run_id: str) -> State | None:
    from prefect.client.orchestration import get_client

    with explained(url), get_client(sync_client=True) as client:
        return client.read_flow_run(UUID(run_id)).state


def _ended_by(run: str, state: str, message: str, is_cancelled: bool) -> HeadstartError:
    """Make the error that ended a run: its kind stands before the sentence."""
    if is_cancelled:
        return CancelledError(f"{run} is {state}: {message}")
    kind, _, sentence = message.partition(": ")
    found = UsageError if kind == UnknownNameError.__name__ else getattr(errors, kind, None)
    if isinstance(found, type) and issubclass(found, HeadstartError):
        return found(f"{run} is {state}: {sentence}")
    return HeadstartError(f"{run} is {state}: {message}")
