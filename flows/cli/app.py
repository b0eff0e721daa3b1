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
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.cli import jobs as cli_jobs
from flows.cli import service as cli_service
from flows.cli.options import (
    AutoMinutesOption,
    BackboneArgument,
    BackboneOption,
    CaseOption,
    FolderArgument,
    JsonOption,
    NameOption,
    RecipeOption,
    RehashOption,
    RunnerOption,
    SizeOption,
    StrategyOption,
    SubmitOption,
    ViewsOption,
    WaitOption,
    WeightsOption,
    WorkspaceOption,
)
from flows.settings import user_name, workspace_root
from pipeline.backbones.table import AUTO_MINUTES, DEFAULT_BACKBONE, check_backbone, check_choice
from pipeline.decision.nouns import Strategy
from pipeline.errors import DamagedError, DataError, HeadstartError, UnknownNameError, UsageError

if TYPE_CHECKING:
    from flows.onboarding.story import Steps
    from storage.workspace import Workspace

EPILOG = (
    "Exit codes: 0 ok, 1 bug, 2 usage, 3 invalid data, 4 not found, 5 conflict, 6 not better than the head, "
    "7 no server, 130 interrupted."
)

app = typer.Typer(
    name="headstart",
    help="Give an image dataset a head start: measure it, decide its transfer-learning case, act on it.",
    epilog=EPILOG,
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

# commands that talk to a Prefect server
SERVER_COMMANDS = ("onboard", "finetune", "jobs", "deploy", "doctor", "refresh", "predict-batch")


@app.callback()
def _prepare(context: typer.Context) -> None:
    # A reader that goes away (`| head`) ends us silently, as it does any Unix tool. Not where a server is talked to: a
    # connection that breaks must be an error there.
    if context.invoked_subcommand not in SERVER_COMMANDS:
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)


@app.command()
def onboard(
    folder: FolderArgument,
    name: NameOption = None,
    backbone: BackboneOption = DEFAULT_BACKBONE,
    auto_minutes: AutoMinutesOption = AUTO_MINUTES,
    weights: WeightsOption = None,
    recipe: RecipeOption = "exact",
    size: SizeOption = None,
    views: ViewsOption = 0,
    case: CaseOption = None,
    strategy: StrategyOption = None,
    rehash: RehashOption = False,
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
    runner: RunnerOption = None,
    submit: SubmitOption = False,
    wait: WaitOption = False,
) -> None:
    """Bring a folder or a table of pictures to a trained model, a report and reasons."""
    if submit and runner:
        raise UsageError("--submit and --runner exclude each other. Choose one.")
    request = _request(
        folder, workspace, name, backbone, weights, recipe, size, views, rehash, case, strategy, auto_minutes
    )
    from flows.cli import render, render_jobs
    from flows.onboarding import story as steps
    from flows.service import submit as submission

    if cli_jobs.check_wait(submit, wait):
        cli_jobs.tell_submitted(submission.submit_onboard, request, wait, json)
        return
    document = steps.onboard(request, render.progress(), _steps(runner))
    document = submission.schedule_finetuning(document)
    if json:
        render.json_object(document)
        return
    render.onboarded(document)
    if finetune := document.get("finetune"):
        render_jobs.scheduled(finetune)


@app.command()
def plan(
    folder: FolderArgument,
    name: NameOption = None,
    backbone: BackboneOption = DEFAULT_BACKBONE,
    auto_minutes: AutoMinutesOption = AUTO_MINUTES,
    weights: WeightsOption = None,
    recipe: RecipeOption = "exact",
    size: SizeOption = None,
    case: CaseOption = None,
    strategy: StrategyOption = None,
    rehash: RehashOption = False,
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> None:
    """Measure a folder of pictures and say what would be done, and why. Trains nothing."""
    request = _request(
        folder,
        workspace,
        name,
        backbone,
        weights,
        recipe,
        size,
        rehash=rehash,
        case=case,
        strategy=strategy,
        auto_minutes=auto_minutes,
    )
    from flows.cli import render
    from flows.onboarding import story as steps

    document = steps.plan_only(request)
    render.json_object(document) if json else render.planned(document)


@app.command()
def extract(
    folder: FolderArgument,
    name: NameOption = None,
    backbone: BackboneOption = DEFAULT_BACKBONE,
    auto_minutes: AutoMinutesOption = AUTO_MINUTES,
    weights: WeightsOption = None,
    recipe: RecipeOption = "exact",
    size: SizeOption = None,
    views: ViewsOption = 0,
    pack: Annotated[
        str | None, typer.Option("--pack", help="Also write all features and labels to one new HDF5 file.")
    ] = None,
    rehash: RehashOption = False,
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
    runner: RunnerOption = None,
) -> None:
    """Compute the features of a folder of pictures that are not stored yet. Decides and trains nothing."""
    request = _request(
        folder, workspace, name, backbone, weights, recipe, size, views, rehash, auto_minutes=auto_minutes
    )
    from flows.cli import render
    from flows.onboarding import story as steps

    document = steps.extract_only(request, render.progress(), pack, _steps(runner))
    render.json_object(document) if json else render.extracted(document)


@app.command()
def predict(
    model: Annotated[str, typer.Argument(help="NAME, NAME@VERSION or a model's folder.")],
    paths: Annotated[list[str], typer.Argument(metavar="PATH...", help="Pictures, or folders of pictures.")],
    top: Annotated[int, typer.Option("--top", "-k", min=1, help="How many classes to name per picture.")] = 3,
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    jsonl: Annotated[bool, typer.Option("--jsonl", help="Print one JSON object per picture.")] = False,
    workspace: WorkspaceOption = None,
) -> None:
    """Predict pictures with a saved model. A file that cannot be read gets a row with its error; exit code 3 then."""
    if csv and jsonl:
        raise UsageError("--csv and --jsonl exclude each other. Choose one.")
    from flows.cli import render
    from flows.prediction.files import predict as run_predict

    rows = run_predict(str(workspace_root(workspace)), model, paths, top)
    write = render.predictions_csv if csv else render.predictions_jsonl if jsonl else render.predictions_table
    num_failed = write(rows)
    if num_failed:
        raise DataError(f"{num_failed} of the files could not be predicted; their rows say why.")


@app.command()
def datasets(workspace: WorkspaceOption = None, json: JsonOption = False) -> None:
    """List the datasets of the workspace."""
    from flows.cli import render
    from flows.maintenance import listing

    render.listed("datasets", listing.list_datasets(_open(workspace)), json)


@app.command()
def features(workspace: WorkspaceOption = None, json: JsonOption = False) -> None:
    """List the feature spaces of the workspace and what they hold."""
    from flows.cli import render
    from flows.maintenance import listing

    render.listed("features", listing.list_features(_open(workspace)), json)


@app.command()
def models(workspace: WorkspaceOption = None, json: JsonOption = False) -> None:
    """List the saved models, every version."""
    from flows.cli import render
    from flows.maintenance import listing

    render.listed("models", listing.list_models(_open(workspace)), json)


@app.command()
def show(
    model: Annotated[str, typer.Argument(help="NAME, NAME@VERSION or a model's folder.")],
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> None:
    """Show a model's report; with --json its whole record."""
    from flows.cli import render
    from flows.maintenance import listing

    record, report = listing.show_model(_open(workspace), model)
    render.json_object(record) if json else render.markdown(report)


@app.command()
def inspect(backbone: BackboneArgument, weights: WeightsOption = None, json: JsonOption = False) -> None:
    """List a backbone's layers: output shapes, parameters, their arithmetic, and the taps features are read at."""
    check_backbone(backbone, weights)
    from flows.cli import render
    from flows.maintenance import listing

    found = listing.inspect_backbone(backbone, weights)
    render.json_object(found) if json else render.inspected(found)


@app.command()
def verify(
    recompute: Annotated[
        int, typer.Option("--recompute", metavar="N", min=0, help="Also compute N stored rows again and compare them.")
    ] = 0,
    seed: Annotated[
        int | None, typer.Option("--seed", help="Which rows are recomputed (default: others each time).")
    ] = None,
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> None:
    """Check every file and checksum of the workspace; set right what can be, report the rest. Exit code 5 if any."""
    from flows.cli import render
    from flows.maintenance.verify import verify as run_verify

    result = run_verify(str(workspace_root(workspace)), render.progress(), recompute, seed)
    render.json_object(result) if json else render.verified(result)
    if result.findings:
        raise DamagedError(f"Findings: {len(result.findings)}. Each says what is wrong, what was done and what to do.")


@app.command()
def gc(
    delete: Annotated[bool, typer.Option("--delete", help="Remove it; without, only say what would go.")] = False,
    older_than: Annotated[str, typer.Option("--older-than", metavar="SPAN", help="Only what is older, as 30d.")] = "0d",
    max_size: Annotated[
        str | None,
        typer.Option("--max-size", metavar="SIZE", help="Only the oldest, until the workspace is below it, as 20GB."),
    ] = None,
    keep_versions: Annotated[
        int | None,
        typer.Option(
            "--keep-versions",
            min=1,
            help="Also versions of models that do not serve, but for so many of the newest (default: all stay).",
        ),
    ] = None,
    grace: Annotated[str, typer.Option("--grace", metavar="SPAN", help="Nothing younger is ever touched.")] = "24h",
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> None:
    """Find features and files that no dataset and no model needs. Removes nothing without --delete."""
    from flows.cli import render
    from flows.forms import parse_request
    from flows.maintenance.gc import gc as run_gc
    from flows.requests import GcRequest

    given = {"older_than": older_than, "max_size": max_size, "grace": grace, "workspace": workspace}
    limits = parse_request(GcRequest, given).limits()
    result = run_gc(str(workspace_root(workspace)), limits, delete, keep_versions)
    render.json_object(result) if json else render.collected(result)


def _open(workspace: str | None) -> Workspace:
    from storage.workspace import Workspace

    return Workspace.open(workspace_root(workspace))


cli_jobs.add_to(app)
cli_service.add_to(app)


@app.command()
def demo(workspace: WorkspaceOption = None) -> None:
    """Onboard real pictures that scikit-learn ships, then predict a few of them. Needs no network."""
    from flows.cli.demo import run_demo

    run_demo(workspace_root(workspace))


def main() -> None:
    """Run the command line; errors become one sentence and an exit code."""
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
        os.write(2, b"stopped; what was computed is kept, the same command goes on from there\n")
        raise SystemExit(128 + number)

    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
            signal.signal(number, leave)


def _request(
    folder: str,
    workspace: str | None,
    name: str | None,
    backbone: str,
    weights: str | None,
    recipe: str,
    size: int | None,
    views: int = 0,
    rehash: bool = False,
    case: int | None = None,
    strategy: Strategy | None = None,
    auto_minutes: float = AUTO_MINUTES,
) -> Any:
    check_choice(backbone, weights, size)  # answered before anything is read
    from flows.forms import parse_request
    from flows.requests import OnboardRequest

    root = str(workspace_root(workspace))
    by = user_name() if case or strategy else ""
    given: Any = {"folder": folder, "workspace": root, "name": name, "backbone": backbone, "weights": weights}
    given |= {"recipe": recipe, "size": size, "views": views, "rehash": rehash, "case": case, "strategy": strategy}
    return parse_request(OnboardRequest, {**given, "auto_minutes": auto_minutes, "by": by})


def _steps(runner: str | None) -> Steps:
    """Choose where features are computed; a runner that cannot be had is an error before anything is read."""
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
