"""The commands for jobs that run long: fine-tuning, audits, and what became of them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Annotated, TypeVar

import typer

from flows.cli.help import MODELS, SERVICE, Group
from flows.cli.options import JsonOption, SubmitOption, WaitOption, WorkspaceOption, command
from flows.documents import FinishedJob, SubmittedJob, SubmittedRun
from flows.requests import OWN, AuditRequest, FinetuneRequest
from pipeline.errors import GateError, UsageError

jobs_app = typer.Typer(cls=Group, invoke_without_command=True)


def add_to(app: typer.Typer) -> None:
    """Give the command line its commands."""
    command(
        app,
        MODELS,
        "headstart finetune pictures",
        "headstart finetune pictures --epochs 5 --must-pass",
        "headstart finetune pictures --submit --wait",
        asks=FinetuneRequest,
    )(finetune)
    command(app, MODELS, "headstart audit pictures --epochs 2", asks=AuditRequest)(audit)
    command(app, MODELS, "headstart audits")(audits)
    app.add_typer(jobs_app, name="jobs", rich_help_panel=SERVICE, short_help=str(jobs.__doc__).partition("\n")[0])


def finetune(
    request: FinetuneRequest,
    submit: SubmitOption = False,
    wait: WaitOption = False,
    retry: Annotated[
        bool, typer.Option("--retry", help="With --submit: try again a job that crashed or was stopped.")
    ] = False,
    must_pass: Annotated[
        bool, typer.Option("--must-pass", help="Exit with 6 if the network is not better than the head.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Train the whole network of a model, not just its head.

    It becomes a new version only if it is better than the head on held-out pictures. You can stop it at any moment;
    the same command continues.
    """
    if retry and not submit:
        raise UsageError("--retry needs --submit. Without it, the same command continues a job by itself.")
    if must_pass and submit:
        raise UsageError("--must-pass and --submit exclude each other: a submitted job has no result yet.")
    from flows.cli import render, render_jobs
    from flows.finetuning import job as finetuning
    from flows.finetuning.epochs import describe_epoch
    from flows.service import submit as submission

    if check_wait(submit, wait):
        tell_submitted(lambda asked: submission.submit_finetune(asked, retry), request, wait, json)
        return
    result = finetuning.finetune(request, render.progress(), _tell, lambda status: _tell(describe_epoch(status)))
    render.json_object(result) if json else render_jobs.finetuned(result)
    if must_pass and not result.gate.passed:
        raise GateError(f"{result.gate.reason} The head stays the model.")


def audit(request: AuditRequest, json: JsonOption = False) -> None:
    """Check a plan by running the strategies it rejected.

    Says what the choice cost in accuracy and saved in compute.
    """
    from flows.cli import render, render_jobs
    from flows.finetuning import audit as auditing
    from flows.finetuning.epochs import describe_epoch

    result = auditing.audit(request, render.progress(), _tell, lambda status: _tell(describe_epoch(status)))
    render.json_object(result) if json else render_jobs.audited(result)


def audits(workspace: WorkspaceOption = OWN, json: JsonOption = False) -> None:
    """List the audits, and when fine-tuning would have paid.

    From how many pictures on it would have, by all audits of the workspace.
    """
    from flows.cli import render, render_jobs
    from flows.finetuning import audit as auditing

    found = auditing.list_audits(workspace)
    render.json_object(found) if json else render_jobs.audits(found)


@jobs_app.callback()
def jobs(context: typer.Context, workspace: WorkspaceOption = OWN, json: JsonOption = False) -> None:
    """List the jobs of the workspace, or cancel one.

    Also lists their runs on the Prefect server that PREFECT_API_URL names.
    """
    if context.invoked_subcommand is not None:
        return
    from flows.cli import render, render_jobs
    from flows.service import control

    found = control.describe_jobs(workspace)
    render.json_object(found) if json else render_jobs.jobs(found)


def cancel(
    job: Annotated[str, typer.Argument(metavar="ID", help="The job's id, or the beginning of it.")],
    workspace: WorkspaceOption = OWN,
    json: JsonOption = False,
) -> None:
    """Stop a job, wherever it runs.

    Its finished work is saved, and the next attempt continues from there.
    """
    from flows.cli import render, render_jobs
    from flows.service import control

    found = control.cancel_job(workspace, job)
    render.json_object(found) if json else render_jobs.cancelled(found)


command(jobs_app, "Commands", "headstart jobs cancel 3f2a")(cancel)


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


Request = TypeVar("Request")
Submission = SubmittedRun | SubmittedJob | FinishedJob


def tell_submitted(submit: Callable[[Request], Submission], request: Request, wait: bool, json: bool) -> None:
    """Submit a request and print where it is now, and with `wait` how it ended."""
    from flows.cli import render, render_jobs
    from flows.service.client import wait_for

    given = submit(request)
    if not json:
        render_jobs.submitted(given) if isinstance(given, SubmittedRun) else render_jobs.scheduled(given)
    if wait and not isinstance(given, FinishedJob):
        given = wait_for(given)
        if not json:
            render_jobs.ended(given)
    if json:
        render.json_object(given)


def check_wait(submit: bool, wait: bool) -> bool:
    """Tell whether a command hands its work to a server. Only what was handed over can be waited for."""
    if wait and not submit:
        raise UsageError("--wait needs --submit. Without it, a command returns when it is done.")
    return submit
