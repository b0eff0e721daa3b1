"""The commands of those who run headstart as a service."""

from __future__ import annotations

from typing import Annotated

import typer

from flows.cli.jobs import check_wait, tell_submitted
from flows.cli.options import JsonOption, SubmitOption, WaitOption, WorkspaceOption
from flows.settings import workspace_root
from pipeline.errors import DataError


def add_to(app: typer.Typer) -> None:
    """Give the command line its commands."""
    app.command()(deploy)
    app.command()(doctor)
    app.command(name="predict-batch")(predict_batch)
    app.command()(refresh)
    app.command()(promote)


def deploy(
    file: Annotated[
        str | None,
        typer.Option("--file", metavar="PATH", help="Deployments and schedules (default: our own prefect.yaml)."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Set up the Prefect server that PREFECT_API_URL names: pools, deployments and their schedules. Safe to repeat."""
    from flows.cli import render, render_service
    from flows.service.client import get_server

    url = get_server()
    from flows.service.deploy import deploy_all

    result = deploy_all(url, file)
    render.json_object(result) if json else render_service.deployed(result)


def doctor(workspace: WorkspaceOption = None, json: JsonOption = False) -> None:
    """Check installation, workspace and Prefect server; say how to mend each finding. Exit code 5 if one must be."""
    from flows.cli import render, render_service
    from flows.doctor.examine import examine, raise_problems

    report = examine(str(workspace_root(workspace)))
    render.json_object(report) if json else render_service.examined(report)
    raise_problems(report)


def predict_batch(
    model: Annotated[str, typer.Argument(help="NAME, NAME@VERSION or a model's folder.")],
    folder: Annotated[str, typer.Argument(metavar="FOLDER", help="Pictures, also in folders below it.")],
    output: Annotated[str, typer.Argument(metavar="OUTPUT", help="A table beside the folder: .csv or .parquet.")],
    top: Annotated[int, typer.Option("--top", "-k", min=1, help="How many classes to name per picture.")] = 3,
    every: Annotated[
        bool, typer.Option("--every", help="Also predict again what another version of the model has predicted.")
    ] = False,
    submit: SubmitOption = False,
    wait: WaitOption = False,
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> None:
    """Predict the pictures of a folder that are new since the last run, into a table of all. Safe to kill and rerun."""
    from flows.cli import render
    from flows.prediction.inbox import predict_batch as run_predict_batch
    from flows.requests import PredictBatchRequest
    from flows.service import submit as submission

    request = PredictBatchRequest(model, folder, output, str(workspace_root(workspace)), top, every)
    if check_wait(submit, wait):
        tell_submitted(submission.submit_predict_batch, request, wait, json)
        return
    result = run_predict_batch(request, render.progress())
    render.json_object(result) if json else render.say(str(result))


def refresh(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="Onboarded datasets (default: all).")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Train even where too little changed to matter.")] = False,
    submit: SubmitOption = False,
    wait: WaitOption = False,
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> None:
    """Read datasets again, compute what is new, train again where enough changed. Exit code 3 if one had an error."""
    from flows.cli import render, render_service
    from flows.onboarding.refresh import refresh as run_refresh
    from flows.requests import RefreshRequest
    from flows.service import submit as submission

    request = RefreshRequest(str(workspace_root(workspace)), tuple(names or ()), force)
    if check_wait(submit, wait):
        tell_submitted(submission.submit_refresh, request, wait, json)
        return
    document = run_refresh(request, render.progress(), schedule=submission.schedule_finetuning)
    render.json_object(document) if json else render_service.refreshed(document)
    if num_failed := sum(row["error"] is not None for row in document["datasets"]):
        raise DataError(f"{num_failed} of {len(document['datasets'])} datasets could not be refreshed; rows say why.")


def promote(
    model: Annotated[str, typer.Argument(metavar="NAME@VERSION", help="The version that NAME shall mean.")],
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> None:
    """Let a version serve, whatever the comparisons say: to go back to an earlier one, for example."""
    from flows.cli import render, render_service
    from flows.versions.promote import promote_by_hand

    document = promote_by_hand(str(workspace_root(workspace)), model)
    render.json_object(document) if json else render_service.promoted(document)
