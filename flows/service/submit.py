"""Submission of runs to a Prefect server."""

from __future__ import annotations

import os
from dataclasses import fields, replace
from shlex import quote
from typing import TYPE_CHECKING, Any, cast

from flows.documents import FinetuneRun, FinishedJob, SubmittedJob, SubmittedRun, UnscheduledJob
from flows.forms import Request
from flows.requests import FinetuneRequest, OnboardRequest, PredictBatchRequest, RefreshRequest
from flows.service.client import (
    FINETUNE,
    JOB_TAG,
    ONBOARD,
    PREDICT_BATCH,
    REFRESH,
    attempt_key,
    explained,
    find_problem,
    get_server,
    hide_password,
    next_attempt,
)
from flows.settings import prefect_url, workspace_option
from pipeline.decision.plan import FINETUNING
from pipeline.errors import HeadstartError, NotFoundError

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun

    from flows.finetuning.results import FinetuneResult
    from flows.onboarding.results import OnboardResult

HERE_AND_NOW = ", or leave --submit out to run here and now"
OPTIONS = ("epochs", "layer_decay", "unfreeze_epochs")  # of the command, as the request calls them


def submit(request: OnboardRequest | RefreshRequest | PredictBatchRequest) -> SubmittedRun:
    """Create a run of the deployment that does what a request asks.

    Raises
    ------
    ServerUnreachableError
        No server is named, or it does not answer. Nothing was submitted then.
    NotFoundError
        The server does not have the deployment.
    """
    if isinstance(request, RefreshRequest):
        deployment, about = REFRESH, ",".join(request.names) or "all"
    elif isinstance(request, OnboardRequest):
        deployment, about = ONBOARD, request.name or os.path.basename(os.path.abspath(request.folder))
    else:
        deployment, about = PREDICT_BATCH, f"{request.model}-{os.path.basename(os.path.abspath(request.folder))}"
    url = get_server(HERE_AND_NOW)
    run = _create_run(url, deployment, request, flow_run_name=f"{deployment.partition('/')[0]}-{about}")
    return SubmittedRun(str(run.id), run.name, _state(run), hide_password(url))


def submit_finetune(request: FinetuneRequest, retry: bool = False) -> SubmittedJob | FinishedJob:
    """Create a run of the finetune deployment, or find the run of the same request; `retry` makes another attempt.

    A job that has its outcome is not submitted again.

    Raises
    ------
    ServerUnreachableError, NotFoundError
        As for `submit`; NotFoundError also if there is no head to start from.
    ConflictError
        Another attempt is asked for while one has not ended.
    """
    from flows.finetuning.job import get_job_plan

    job = get_job_plan(request)
    if job.outcome is not None:
        return _finished(job.id, job.outcome)
    url = get_server(HERE_AND_NOW)
    return _submit_attempt(url, request, job.id, next_attempt(url, request.workspace, job.id) if retry else 1)


def schedule_finetuning(result: OnboardResult) -> OnboardResult:
    """Submit the fine-tuning of a dataset if its plan asks for it; returns the result with what was done.

    No error is raised here, because the dataset has its model: the result says why nothing was submitted.
    """
    if result.plan.strategy not in FINETUNING:
        return result
    return replace(result, finetune=_schedule(FinetuneRequest(result.dataset, result.workspace)))


def _schedule(request: FinetuneRequest) -> FinetuneRun:
    from flows.finetuning.job import get_job_plan

    job_id, url = None, prefect_url()
    try:
        job = get_job_plan(request)
        job_id = job.id
        if job.outcome is not None:
            return _finished(job.id, job.outcome)
        if url is None:
            reason = "PREFECT_API_URL names no server."
        elif problem := find_problem(url):
            reason = f"No Prefect server answers at {hide_password(url)} ({problem})."
        else:
            return _submit_attempt(url, request, job.id, 1)
    except HeadstartError as error:
        reason = str(error)
    return UnscheduledJob(job_id, reason, _command(request))


def _finished(job: str, outcome: FinetuneResult) -> FinishedJob:
    return FinishedJob(job, outcome.gate.passed, outcome.model)


def _command(request: FinetuneRequest, *options: str) -> str:
    """Return the command that runs a job."""
    given = [
        f"--{option.name.replace('_', '-')} {quote(str(value))}"
        for option in fields(request)
        if option.name in OPTIONS and (value := getattr(request, option.name)) != option.default
    ]
    command = " ".join(["headstart finetune", request.name, *given])
    return " ".join([command + workspace_option(request.workspace), *options])


def _submit_attempt(url: str, request: FinetuneRequest, job: str, attempt: int) -> SubmittedJob:
    run = _create_run(
        url,
        FINETUNE,
        request,
        idempotency_key=attempt_key(request.workspace, job, attempt),
        tags=[f"{JOB_TAG}{job}"],
        flow_run_name=f"fine-tune-{request.name}",
    )
    has_ended = run.state is not None and run.state.is_final()  # yet the job has no outcome
    following = _command(request, "--submit", "--retry") if has_ended else None
    return SubmittedJob(job, attempt, str(run.id), run.name, _state(run), hide_password(url), following)


def _create_run(url: str, deployment: str, request: Request, **marks: Any) -> FlowRun:
    from prefect.deployments import run_deployment
    from prefect.exceptions import ObjectNotFound

    try:
        with explained(url):
            form = {"params": request.to_form()}
            run: Any = run_deployment(deployment, parameters=form, timeout=0, as_subflow=False, **marks)
    except ObjectNotFound as error:
        raise NotFoundError(
            f"The server at {hide_password(url)} has no deployment '{deployment}'. Make it with: headstart deploy"
        ) from error
    return cast("FlowRun", run)


def _state(run: FlowRun) -> str:
    return (run.state and run.state.name) or "unknown"
