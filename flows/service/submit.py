"""Hand a job to a Prefect server and return at once."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import fields
from shlex import quote
from typing import TYPE_CHECKING, Any, cast

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
from flows.settings import prefect_url, workspace_root
from pipeline.decision.plan import FINETUNING
from pipeline.errors import HeadstartError, NotFoundError
from pipeline.jsonable import to_json

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun

    from flows.finetuning.results import FinetuneResult

HERE_AND_NOW = ", or leave --submit out to run here and now"
OPTIONS = ("epochs", "layer_decay", "unfreeze_epochs")  # of the command, as the request calls them


def submit_onboard(request: OnboardRequest) -> dict[str, Any]:
    """Create a run of the onboard deployment.

    Raises
    ------
    ServerUnreachableError
        When no server is named or none answers; nothing was submitted then.
    NotFoundError
        When the server does not know the deployment.
    """
    about = request.name or os.path.basename(os.path.abspath(request.folder))
    return submit(ONBOARD, request.to_form(), f"onboard-{about}")


def submit_refresh(request: RefreshRequest) -> dict[str, Any]:
    """Create a run of the refresh deployment; raises as `submit_onboard` does."""
    return submit(REFRESH, request.to_form(), f"refresh-{','.join(request.names) or 'all'}")


def submit_predict_batch(request: PredictBatchRequest) -> dict[str, Any]:
    """Create a run of the predict-batch deployment; raises as `submit_onboard` does."""
    about = os.path.basename(os.path.abspath(request.folder))
    return submit(PREDICT_BATCH, request.to_form(), f"predict-batch-{request.model}-{about}")


def submit(deployment: str, parameters: Mapping[str, object], name: str) -> dict[str, Any]:
    """Create a run of a deployment under a name; raises as `submit_onboard` does."""
    url = get_server(HERE_AND_NOW)
    return _run_part(_create_run(url, deployment, parameters, flow_run_name=name), url)


def submit_finetune(request: FinetuneRequest, retry: bool = False) -> dict[str, Any]:
    """Create a run of the finetune deployment, or find the one of the same request; `retry` makes another attempt.

    A job that has ended is not submitted: the answer says how it ended.

    Raises
    ------
    ServerUnreachableError, NotFoundError
        As `submit_onboard`; NotFoundError also when there is no head to start from.
    ConflictError
        When another attempt is wanted while one has not ended.
    """
    from flows.finetuning.job import find_job

    job = find_job(request)
    if job.outcome is not None:
        return _finished(job.id, job.outcome)
    url = get_server(HERE_AND_NOW)
    return _submit_attempt(url, request, job.id, next_attempt(url, request.workspace, job.id) if retry else 1)


def schedule_finetuning(document: dict[str, Any]) -> dict[str, Any]:
    """Submit the fine-tuning of a dataset whose plan asks for it, and say in the document what came of it.

    Nothing that goes wrong here is an error: the dataset has its model.
    """
    if document["strategy"] not in FINETUNING:
        return document
    from flows.finetuning.job import find_job

    request = FinetuneRequest(document["dataset"], document["workspace"])
    url = prefect_url()
    part: dict[str, Any] = {"job": None}
    try:
        job = find_job(request)
        part["job"] = job.id
        if job.outcome is not None:
            part = _finished(job.id, job.outcome)
        elif url is None:
            part |= _not_scheduled(request, "PREFECT_API_URL names no server.")
        elif problem := find_problem(url):
            part |= _not_scheduled(request, f"No Prefect server answers at {hide_password(url)} ({problem}).")
        else:
            part = _submit_attempt(url, request, job.id, 1)
    except HeadstartError as error:
        part |= _not_scheduled(request, str(error))
    return {**document, "finetune": part}


def _finished(job: str, outcome: FinetuneResult) -> dict[str, Any]:
    model = to_json(outcome.model) if outcome.model else None
    return {"job": job, "state": "finished", "passed": outcome.gate.passed, "model": model}


def _not_scheduled(request: FinetuneRequest, reason: str) -> dict[str, Any]:
    return {"state": "not scheduled", "reason": reason, "next": _command(request)}


def _command(request: FinetuneRequest, *options: str) -> str:
    """Spell out how a job is run by hand."""
    given = [
        f"--{option.name.replace('_', '-')} {quote(str(value))}"
        for option in fields(request)
        if option.name in OPTIONS and (value := getattr(request, option.name)) != option.default
    ]
    if request.workspace != str(workspace_root(None)):
        given.append(f"--workspace {quote(request.workspace)}")
    return " ".join(["headstart finetune", request.name, *given, *options])


def _submit_attempt(url: str, request: FinetuneRequest, job: str, attempt: int) -> dict[str, Any]:
    run = _create_run(
        url,
        FINETUNE,
        request.to_form(),
        idempotency_key=attempt_key(request.workspace, job, attempt),
        tags=[f"{JOB_TAG}{job}"],
        flow_run_name=f"fine-tune-{request.name}",
    )
    part = {"job": job, "attempt": attempt, **_run_part(run, url)}
    if run.state and run.state.is_final():  # yet the job has no outcome
        part["next"] = _command(request, "--submit", "--retry")
    return part


def _create_run(url: str, deployment: str, parameters: Mapping[str, object], **marks: Any) -> FlowRun:
    from prefect.deployments import run_deployment
    from prefect.exceptions import ObjectNotFound

    try:
        with explained(url):
            run: Any = run_deployment(
                deployment, parameters={"params": parameters}, timeout=0, as_subflow=False, **marks
            )
    except ObjectNotFound as error:
        raise NotFoundError(
            f"The server at {hide_password(url)} has no deployment '{deployment}'. Make it with: headstart deploy"
        ) from error
    return cast("FlowRun", run)


def _run_part(run: FlowRun, url: str) -> dict[str, Any]:
    return {
        "run": str(run.id),
        "name": run.name,
        "state": run.state.name if run.state else "unknown",
        "server": hide_password(url),
    }
