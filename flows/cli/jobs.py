"""The commands for jobs that run long: fine-tuning, audits, and what became of them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer

from flows.cli.options import JsonOption, SubmitOption, WaitOption, WorkspaceOption
from flows.requests import AuditRequest, FinetuneRequest
from flows.settings import workspace_root
from pipeline.decision.schedule import AUDIT_EPOCHS, CHECKPOINT_SECONDS
from pipeline.errors import GateError, UsageError

jobs_app = typer.Typer(help="List the fine-tuning jobs of the workspace, or stop one.", invoke_without_command=True)


def add_to(app: typer.Typer) -> None:
    """Give the command line its commands."""
    app.command()(finetune)
    app.command()(audit)
    app.command()(audits)
    app.add_typer(jobs_app, name="jobs")


def finetune(
    name: Annotated[str, typer.Argument(help="Of the model, which is that of its dataset.")],
    epochs: Annotated[
        int | None, typer.Option("--epochs", min=1, help="At most so many passes over the pictures (default: a table).")
    ] = None,
    layer_decay: Annotated[
        float,
        typer.Option(
            "--layer-decay", min=0.1, max=1.0, help="Learning rate of each stage over that of the one behind it."
        ),
    ] = 1.0,
    unfreeze_epochs: Annotated[
        float,
        typer.Option(
            "--unfreeze-epochs", min=0.0, help="The head learns alone for so long, then stage after stage joins."
        ),
    ] = 0.0,
    checkpoint_seconds: Annotated[
        float, typer.Option("--checkpoint-seconds", min=0.0, help="Between checkpoints: what a kill costs at most.")
    ] = CHECKPOINT_SECONDS,
    submit: SubmitOption = False,
    wait: WaitOption = False,
    retry: Annotated[
        bool, typer.Option("--retry", help="With --submit: another attempt at a job that crashed or was stopped.")
    ] = False,
    must_pass: Annotated[
        bool, typer.Option("--must-pass", help="Exit with 6 if the result is not better than the head.")
    ] = False,
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> None:
    """Train the whole network of a model further, here and now. Stopped at any moment, the same command goes on."""
    if retry and not submit:
        raise UsageError("--retry needs --submit. Here, the same command goes on with a job by itself.")
    if must_pass and submit:
        raise UsageError("--must-pass and --submit exclude each other: a submitted job has no result yet.")
    from flows.cli import render, render_jobs
    from flows.finetuning import job as finetuning
    from flows.finetuning.epochs import describe_epoch
    from flows.service import submit as submission

    request = FinetuneRequest(
        name,
        str(workspace_root(workspace)),
        epochs=epochs,
        layer_decay=layer_decay,
        unfreeze_epochs=unfreeze_epochs,
        checkpoint_seconds=checkpoint_seconds,
    )
    if check_wait(submit, wait):
        tell_submitted(lambda asked: submission.submit_finetune(asked, retry), request, wait, json)
        return
    result = finetuning.finetune(
        request,
        render.progress(),
        log=lambda line: print(line, file=sys.stderr, flush=True),
        on_epoch=lambda status: print(describe_epoch(status), file=sys.stderr, flush=True),
    )
    render.json_object(result) if json else render_jobs.finetuned(result)
    if must_pass and not result.gate.passed:
        raise GateError(f"{result.gate.reason} The head stays the model.")


def audit(
    name: Annotated[str, typer.Argument(help="Of the model, which is that of its dataset.")],
    epochs: Annotated[
        int,
        typer.Option(
            "--epochs",
            min=1,
            help="The budget: so many passes of fine-tuning, and as many multiply-adds for a network from scratch.",
        ),
    ] = AUDIT_EPOCHS,
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> None:
    """Run the strategies that the plan rejected, and say what the choice cost in accuracy and saved in compute."""
    from flows.cli import render, render_jobs
    from flows.finetuning import audit as auditing
    from flows.finetuning.epochs import describe_epoch

    result = auditing.audit(
        AuditRequest(name, str(workspace_root(workspace)), epochs),
        render.progress(),
        log=lambda line: print(line, file=sys.stderr, flush=True),
        on_epoch=lambda status: print(describe_epoch(status), file=sys.stderr, flush=True),
    )
    render.json_object(result) if json else render_jobs.audited(result)


def audits(workspace: WorkspaceOption = None, json: JsonOption = False) -> None:
    """List the audits of the workspace, and from how many pictures on fine-tuning would have paid."""
    from flows.cli import render, render_jobs
    from flows.finetuning import audit as auditing

    found = auditing.list_audits(str(workspace_root(workspace)))
    render.json_object(found) if json else render_jobs.audits(found)


@jobs_app.callback()
def jobs(context: typer.Context, workspace: WorkspaceOption = None, json: JsonOption = False) -> None:
    """List the fine-tuning jobs of the workspace, and their runs on the server that PREFECT_API_URL names."""
    if context.invoked_subcommand is not None:
        return
    from flows.cli import render, render_jobs
    from flows.service import control

    found = control.describe_jobs(str(workspace_root(workspace)))
    render.json_object(found) if json else render_jobs.jobs(found)


@jobs_app.command()
def cancel(
    job: Annotated[str, typer.Argument(metavar="ID", help="Of the job, or the beginning of it.")],
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> None:
    """Stop a job, wherever it runs. What it has done is kept, and the next attempt goes on from there."""
    from flows.cli import render, render_jobs
    from flows.service import control

    found = control.cancel_job(str(workspace_root(workspace)), job)
    render.json_object(found) if json else render_jobs.cancelled(found)


def tell_submitted(hand_over: Callable[[Any], dict[str, Any]], request: Any, wait: bool, json: bool) -> None:
    """Submit a request and say where it went, and with `wait` how it ended."""
    from flows.cli import render, render_jobs
    from flows.service.client import wait_for

    document = hand_over(request)
    say = render_jobs.scheduled if "job" in document else render_jobs.submitted
    if not wait or "run" not in document:  # a job that has ended is not submitted
        render.json_object(document) if json else say(document)
        return
    if not json:
        say(document)
    ended = wait_for(document)
    render.json_object(ended) if json else render_jobs.ended(ended)


def check_wait(submit: bool, wait: bool) -> bool:
    """Tell whether a command is to hand its work to a server; waiting is for what was handed over."""
    if wait and not submit:
        raise UsageError("--wait needs --submit. Here and now, a command returns when it is done anyway.")
    return submit
