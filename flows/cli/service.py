"""The commands of those who run headstart as a service."""

from __future__ import annotations

from typing import Annotated

import typer

from flows.cli.help import DATA, MODELS, SERVICE
from flows.cli.jobs import check_wait, tell_submitted
from flows.cli.options import JsonOption, SubmitOption, WaitOption, WorkspaceOption, command
from flows.requests import OWN, PredictBatchRequest, RefreshRequest
from pipeline.errors import DataError


def add_to(app: typer.Typer) -> None:
    """Give the command line its commands."""
    command(app, SERVICE, "headstart deploy", "headstart deploy --file my-prefect.yaml")(deploy)
    command(app, SERVICE, "headstart doctor")(doctor)
    command(
        app,
        SERVICE,
        "headstart predict-batch pictures inbox inbox.csv",
        "headstart predict-batch pictures@2 /in /out.parquet --submit",
        asks=PredictBatchRequest,
        name="predict-batch",
    )(predict_batch)
    command(app, DATA, "headstart refresh", "headstart refresh pictures --force", asks=RefreshRequest)(refresh)
    command(app, MODELS, "headstart promote pictures@2")(promote)


def deploy(
    file: Annotated[
        str | None,
        typer.Option("--file", metavar="PATH", help="Deployments and schedules. Default: that of headstart."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Set up the Prefect server that PREFECT_API_URL names.

    Makes work pools, deployments and their schedules. Safe to repeat.
    """
    from flows.cli import render, render_service
    from flows.service.client import get_server

    url = get_server()
    from flows.service.deploy import deploy_all

    result = deploy_all(url, file)
    render.json_object(result) if json else render_service.deployed(result)


def doctor(workspace: WorkspaceOption = OWN, json: JsonOption = False) -> None:
    """Check installation, workspace and Prefect server.

    Says how to fix each problem. The exit code is 5 if one must be fixed.
    """
    from flows.cli import render, render_service
    from flows.doctor.examine import examine, raise_problems

    report = examine(workspace)
    render.json_object(report) if json else render_service.examined(report)
    raise_problems(report)


def predict_batch(
    request: PredictBatchRequest, submit: SubmitOption = False, wait: WaitOption = False, json: JsonOption = False
) -> None:
    """Predict the new pictures of a folder, into one table.

    Pictures that the table has already are not predicted again. Safe to kill and to repeat.
    """
    from flows.cli import render
    from flows.prediction.inbox import predict_batch as run_predict_batch
    from flows.service import submit as submission

    if check_wait(submit, wait):
        tell_submitted(submission.submit, request, wait, json)
        return
    result = run_predict_batch(request, render.progress())
    render.json_object(result) if json else render.say(str(result))


def refresh(
    request: RefreshRequest, submit: SubmitOption = False, wait: WaitOption = False, json: JsonOption = False
) -> None:
    """Re-read datasets, and train again if enough changed.

    Computes only new pictures. A better model takes over. The exit code is 3 if a dataset had an error.
    """
    from flows.cli import render, render_service
    from flows.onboarding.refresh import refresh as run_refresh
    from flows.service import submit as submission

    if check_wait(submit, wait):
        tell_submitted(submission.submit, request, wait, json)
        return
    result = run_refresh(request, render.progress(), schedule=submission.schedule_finetuning)
    render.json_object(result) if json else render_service.refreshed(result)
    if result.num_failed:
        raise DataError(
            f"{result.num_failed} of {len(result.datasets)} datasets could not be refreshed; see their rows."
        )


def promote(
    model: Annotated[str, typer.Argument(metavar="NAME@VERSION", help="The version to use for NAME.")],
    workspace: WorkspaceOption = OWN,
    json: JsonOption = False,
) -> None:
    """Choose the version that a model's name means.

    For example an earlier one, whatever the comparisons say.
    """
    from flows.cli import render, render_service
    from flows.versions.promote import promote_by_hand

    result = promote_by_hand(workspace, model)
    render.json_object(result) if json else render_service.promoted(result)
