"""The command line: arguments in, exit code out. Nothing heavy is imported before it is known to be needed.

Data go to stdout (with --json exactly one JSON object), everything else to stderr.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import signal
import sys
from dataclasses import replace
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli import jobs as cli_jobs
from flows.cli import service as cli_service
from flows.cli.help import DATA, MODELS, START, Group
from flows.cli.options import JsonOption, SubmitOption, WaitOption, WorkspaceOption, command, described
from flows.requests import (
    OWN,
    ExtractRequest,
    FeatureOptions,
    GcRequest,
    OnboardRequest,
    PredictRequest,
    VerifyRequest,
)
from flows.settings import shorten_startup, user_name
from pipeline.backbones.table import check_backbone, check_choice
from pipeline.errors import DamagedError, DataError, HeadstartError, UnknownNameError, UsageError

if TYPE_CHECKING:
    from flows.onboarding.story import Steps
    from storage.workspace import Workspace

HELP = """Turn a folder of pictures into an image classifier that you can check.

headstart measures the dataset, decides which kind of transfer learning fits it, trains that, and explains every choice.
"""
RunnerOption = Annotated[
    str | None,
    typer.Option(
        "--runner",
        metavar="dask[=ADDRESS]",
        help="Extract on a Dask cluster, or without ADDRESS on processes of this machine. All workers must share the "
        "storage of the workspace and the pictures.",
    ),
]
EPILOG = (
    "Exit codes: 0 ok, 1 bug, 2 usage, 3 invalid data, 4 not found, 5 conflict, 6 not better than the head, "
    "7 no server, 130 interrupted. Help on a command: headstart COMMAND --help"
)

app = typer.Typer(
    name="headstart",
    cls=Group,
    help=HELP,
    epilog=EPILOG,
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

# commands that talk to a Prefect server
SERVER_COMMANDS = ("onboard", "finetune", "jobs", "deploy", "doctor", "refresh", "predict-batch")


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"headstart {version('headstart')}")
        raise typer.Exit


@app.callback()
def _prepare(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version and exit.")
    ] = False,
) -> None:
    # A reader that goes away (`| head`) ends the command silently, as any Unix tool. But if it talks to a server, a
    # connection that breaks must be an error.
    if context.invoked_subcommand not in SERVER_COMMANDS:
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)


@command(
    app,
    START,
    "headstart onboard pictures",
    "headstart onboard labels.csv --name birds --backbone auto",
    asks=OnboardRequest,
)
def onboard(
    request: OnboardRequest,
    runner: RunnerOption = None,
    submit: SubmitOption = False,
    wait: WaitOption = False,
    json: JsonOption = False,
) -> None:
    """Train a model on a folder or table of pictures.

    Measures the pictures, decides how to train, trains, tests, and writes a report with the reasons. What was done
    before is found, not done again.
    """
    if submit and runner:
        raise UsageError("--submit and --runner exclude each other. Choose one.")
    request = _signed(request)
    from flows.cli import render, render_jobs
    from flows.onboarding import story as steps
    from flows.service import submit as submission

    if cli_jobs.check_wait(submit, wait):
        cli_jobs.tell_submitted(submission.submit, request, wait, json)
        return
    result = submission.schedule_finetuning(steps.onboard(request, render.progress(), _steps(runner)))
    if json:
        render.json_object(result)
        return
    render.onboarded(result)
    if result.finetune:
        render_jobs.scheduled(result.finetune)


@command(app, START, "headstart plan pictures", asks=OnboardRequest)
def plan(request: OnboardRequest, json: JsonOption = False) -> None:
    """Say what onboard would do with a dataset, and why.

    Measures a sample of the pictures, and trains nothing.
    """
    request = _signed(request)
    from flows.cli import render
    from flows.onboarding import story as steps

    result = steps.plan_only(request)
    render.json_object(result) if json else render.planned(result)


@command(
    app,
    DATA,
    "headstart extract pictures",
    "headstart extract pictures --views 2 --pack features.h5",
    asks=ExtractRequest,
)
def extract(
    request: ExtractRequest,
    pack: Annotated[
        str | None, typer.Option("--pack", metavar="FILE", help="Also write features and labels to a new HDF5 file.")
    ] = None,
    runner: RunnerOption = None,
    json: JsonOption = False,
) -> None:
    """Compute and store the features of a dataset.

    Only pictures that are not stored yet are computed. Decides and trains nothing.
    """
    check_choice(request.backbone, request.weights, request.size)
    from flows.cli import render
    from flows.onboarding import story as steps

    result = steps.extract_only(request, render.progress(), pack, _steps(runner))
    render.json_object(result) if json else render.extracted(result)


@command(
    app, START, "headstart predict pictures new/*.jpg", "headstart predict pictures@2 new --csv", asks=PredictRequest
)
def predict(
    request: PredictRequest,
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    jsonl: Annotated[bool, typer.Option("--jsonl", help="Print one JSON object per picture.")] = False,
) -> None:
    """Predict pictures with a trained model.

    A file that cannot be read gets a row with its error, and the exit code is 3.
    """
    if csv and jsonl:
        raise UsageError("--csv and --jsonl exclude each other. Choose one.")
    from flows.cli import render
    from flows.prediction.files import predict as run_predict

    rows = run_predict(request.workspace, request.model, request.paths, request.top)
    write = render.predictions_csv if csv else render.predictions_jsonl if jsonl else render.predictions_table
    num_failed = write(rows)
    if num_failed:
        raise DataError(f"{num_failed} of the files could not be predicted; their rows say why.")


def _add_listing(group: str, name: str, summary: str, example: str) -> None:
    def run(workspace: WorkspaceOption = OWN, json: JsonOption = False) -> None:
        from flows.cli import render
        from flows.maintenance import listing

        render.listed(name, getattr(listing, f"list_{name}")(_open(workspace)), json)

    run.__doc__ = summary
    command(app, group, example, name=name)(run)


_add_listing(DATA, "datasets", "List the datasets of the workspace.", "headstart datasets")
_add_listing(DATA, "features", "List the stored features: networks, sizes, pictures.", "headstart features --json")
_add_listing(MODELS, "models", "List the saved models, every version.", "headstart models")


@command(app, MODELS, "headstart show pictures", "headstart show pictures@2 --json")
def show(
    model: Annotated[str, typer.Argument(help="NAME, NAME@VERSION or a model's folder.")],
    workspace: WorkspaceOption = OWN,
    json: JsonOption = False,
) -> None:
    """Show a model's report; with --json its whole record."""
    from flows.cli import render
    from flows.maintenance import listing

    record, report = listing.show_model(_open(workspace), model)
    render.json_object(record) if json else render.markdown(report)


@command(app, MODELS, "headstart inspect resnet50")
def inspect(
    backbone: Annotated[str, typer.Argument(help="efficientnet_lite0, or a network of keras.applications.")],
    weights: Annotated[
        str | None, typer.Option("--weights", metavar="WEIGHTS", help=described(FeatureOptions, "weights"))
    ] = None,
    json: JsonOption = False,
) -> None:
    """List a backbone's layers, and where features are read.

    Output shapes, parameters and their arithmetic, layer by layer.
    """
    check_backbone(backbone, weights)
    from flows.cli import render
    from flows.maintenance import listing

    found = listing.inspect_backbone(backbone, weights)
    render.json_object(found) if json else render.inspected(found)


@command(app, DATA, "headstart verify", "headstart verify --recompute 100", asks=VerifyRequest)
def verify(request: VerifyRequest, json: JsonOption = False) -> None:
    """Check every stored file against its checksum.

    Repairs what can be repaired, and reports the rest. The exit code is 5 if anything was found.
    """
    from flows.cli import render
    from flows.maintenance.verify import verify as run_verify

    result = run_verify(request, render.progress())
    render.json_object(result) if json else render.verified(result)
    if result.findings:
        raise DamagedError(f"Findings: {len(result.findings)}. Each says what is wrong, what was done and what to do.")


@command(
    app,
    DATA,
    "headstart gc",
    "headstart gc --older-than 30d --delete",
    "headstart gc --max-size 20GB --keep-versions 3 --delete",
    asks=GcRequest,
)
def gc(request: GcRequest, json: JsonOption = False) -> None:
    """List or remove what no dataset and no model needs.

    Removes nothing without --delete.
    """
    from flows.cli import render
    from flows.maintenance.gc import gc as run_gc

    result = run_gc(request)
    render.json_object(result) if json else render.collected(result)


def _open(workspace: str) -> Workspace:
    from storage.workspace import Workspace

    return Workspace.open(workspace)


cli_jobs.add_to(app)
cli_service.add_to(app)


@command(app, START, "headstart demo")
def demo(workspace: WorkspaceOption = OWN) -> None:
    """Try it on 1,797 pictures that come with scikit-learn.

    Onboards them, then predicts a few. Needs no network.
    """
    from pathlib import Path

    from flows.cli.demo import run_demo

    run_demo(Path(workspace))


def main() -> None:
    """Run the command line; errors become one sentence and an exit code."""
    shorten_startup()
    _stop_cleanly()
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        app()
    except HeadstartError as error:
        from flows.cli.render import printable

        print(f"error: {printable(str(error))}", file=sys.stderr)
        sys.exit(error.exit_code)


def _stop_cleanly() -> None:
    """On Ctrl-C or a polite kill leave through every `with`, so that what was computed is committed."""

    def leave(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)  # a second one does not wait
        # not print: the signal may have come in the middle of one
        os.write(2, b"Stopped. Finished work is saved; run the same command again to continue.\n")
        raise SystemExit(128 + number)

    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
            signal.signal(number, leave)


def _signed(request: OnboardRequest) -> OnboardRequest:
    """Refuse a backbone that cannot be loaded before anything is read, and note who overrides the rule."""
    check_choice(request.backbone, request.weights, request.size)
    return replace(request, by=user_name()) if request.case or request.strategy else request


def _steps(runner: str | None) -> Steps:
    """Choose where features are computed; a runner that cannot be used is an error before anything is read."""
    from flows.onboarding.story import PLAIN

    if runner is None:
        return PLAIN
    kind, equals, address = runner.partition("=")
    if kind != "dask":
        raise UnknownNameError("runner", kind, ["dask"])
    if equals and not address.strip():
        raise UsageError("--runner dask= names no scheduler. Give its address, or write --runner dask alone.")
    if importlib.util.find_spec("prefect_dask") is None:
        raise UsageError(
            "--runner dask needs the extra headstart[dask], which is not installed. Run: pip install prefect-dask"
        )
    from flows.features.cluster import extract_on

    extract = extract_on(address or None, lambda line: print(line, file=sys.stderr, flush=True))
    return replace(PLAIN, extract=extract)


if __name__ == "__main__":
    main()
