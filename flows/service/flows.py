"""Prefect: the flows. Nothing is decided or computed here; workers run them."""

# no `from __future__ import annotations`: Prefect builds the parameter form from real types

import logging
import os
from collections.abc import Callable
from dataclasses import asdict, fields
from functools import wraps
from typing import Any, ParamSpec

from prefect import State, flow, task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger
from prefect.runtime import flow_run
from prefect.states import Cancelled, Completed, Failed

from flows.documents import to_document
from flows.finetuning import job as finetuning
from flows.finetuning.epochs import describe_epoch, rows_of
from flows.maintenance.gc import gc as run_gc
from flows.maintenance.verify import verify as run_verify
from flows.onboarding import story as steps
from flows.onboarding.refresh import refresh as run_refresh
from flows.onboarding.results import OnboardResult
from flows.prediction.inbox import predict_batch as run_predict_batch
from flows.requests import (
    ExtractRequest,
    FinetuneRequest,
    OnboardRequest,
    PredictBatchRequest,
    RefreshRequest,
    ScheduledGcRequest,
    VerifyRequest,
)
from flows.service import submit as submission
from flows.service.artifacts import CurveArtifacts, RunProgress, Showcase, show_model, show_rows
from pipeline.decision.finetuned import JobStatus
from pipeline.errors import CancelledError, DamagedError, DataError, HeadstartError
from pipeline.types import Metrics
from storage.maintenance.verification import LEFT
from storage.models.serving import get_model
from storage.workspace import Workspace

Given = ParamSpec("Given")
DEFAULTS: Any = {}  # of a form: a request made here would keep the workspace of the person who deploys

# The feature store is the cache. Prefect's own would be a second one, and two disagree sooner or later.
_TASKS = steps.Steps(
    **{
        step.name: task(name=step.name, cache_policy=NO_CACHE)(getattr(steps.PLAIN, step.name))
        for step in fields(steps.Steps)
    }
)


def _run_name() -> str:
    """Name a run by what it is about, as people look for it in the UI."""
    params = flow_run.parameters.get("params") or {}
    params = params if isinstance(params, dict) else asdict(params)
    about = params.get("name") or params.get("folder") or ",".join(params.get("names") or [])
    return "-".join(filter(None, [flow_run.flow_name, params.get("model"), os.path.basename(str(about).rstrip("/"))]))


def _ending(work: Callable[Given, tuple[str, object]]) -> Callable[Given, State[Any]]:
    """Make a function that returns a sentence and a result end a run with them.

    An error of headstart is a sentence that names its kind; anything else is a bug, with its traceback.
    """

    @wraps(work)
    def run(*args: Given.args, **kwargs: Given.kwargs) -> State[Any]:
        try:
            message, result = work(*args, **kwargs)
        except CancelledError as error:
            return Cancelled(message=str(error))
        except HeadstartError as error:
            get_run_logger().error("%s", error)
            return Failed(message=f"{type(error).__name__}: {error}")
        return Completed(message=message, data=to_document(result))

    return run


class _Run:
    """Where a run shows what it does: its log, its progress and its artifacts."""

    def __init__(self) -> None:
        self.logger = get_run_logger()
        self.showcase = Showcase(self.logger.warning)
        self.progress = RunProgress(self.logger.info, self.showcase)
        for name in ("pipeline", "storage", "flows"):  # Prefect forwards these loggers, which pass on warnings only
            logging.getLogger(name).setLevel(logging.INFO)


@flow(name="onboard", flow_run_name=_run_name)
@_ending
def onboard(params: OnboardRequest) -> tuple[str, object]:
    """Bring a folder of pictures to a trained model; what was done before is found, not done again."""
    run = _Run()
    result = steps.onboard(params, run.progress, _TASKS)
    for reason in result.reasons:
        run.logger.info("%s", reason)
    show_model(run.showcase, result.model)
    result = submission.schedule_finetuning(result)
    return describe_onboarded(result), result


def describe_onboarded(result: OnboardResult) -> str:
    """Say in a line what was decided and reached."""
    metrics, model = result.model.record.metrics, result.model
    if isinstance(metrics, Metrics):
        figure = f"accuracy {metrics.accuracy:.3f}"
    else:
        figure = f"mean average precision {metrics.mean_average_precision:.3f}"
    return (
        f"{model}: case {result.plan.case}, {result.plan.strategy}, "
        f"{figure}, {result.extracted.num_computed:,} pictures computed. "
        f"Version {result.serving.version} serves."
        + (f" Fine-tuning: {result.finetune.state}." if result.finetune else "")
    )


@flow(name="extract", flow_run_name=_run_name)
@_ending
def extract(params: ExtractRequest) -> tuple[str, object]:
    """Compute the features of a folder of pictures that are not stored yet. Decides and trains nothing."""
    run = _Run()
    result = steps.extract_only(params, run.progress, steps=_TASKS)
    num_computed = result.extracted.num_computed
    num_reused = result.extracted.num_rows - num_computed
    return f"{num_computed:,} computed, {num_reused:,} there already.", result


@flow(name="refresh", flow_run_name=_run_name)
@_ending
def refresh(params: RefreshRequest = DEFAULTS) -> tuple[str, object]:
    """Read every dataset again, compute what is new, and train again if enough changed; the better model serves."""
    run = _Run()
    result = run_refresh(params, run.progress, run.logger.info, _TASKS, submission.schedule_finetuning)
    workspace = Workspace.open(params.workspace)
    for row in result.datasets:
        if row.retrained:
            show_model(run.showcase, get_model(workspace, f"{row.name}@{row.trained_version}"))
    rows = [{"dataset": row.name, "version": row.version, "": str(row)} for row in result.datasets]
    show_rows(run.showcase, "refresh", "datasets", "What was read again, and what was done", rows)
    if result.num_failed:
        raise DataError(f"{result} The others are done; each row says why.")
    return str(result), result


# No task and no retries. Prefect stops a run with SIGTERM, which Python hears in the main thread only, and a job that
# is run again continues by itself.
@flow(name="fine-tune", flow_run_name=_run_name, retries=0)
@_ending
def finetune(params: FinetuneRequest) -> tuple[str, object]:
    """Train the whole network of a model further; a new version is saved only if it beats the head it started from."""
    run = _Run()
    curve = CurveArtifacts(params.name, run.showcase)

    def on_epoch(status: JobStatus) -> None:
        run.logger.info("%s", describe_epoch(status))
        curve.add(status)

    result = finetuning.finetune(params, run.progress, log=run.logger.info, on_epoch=on_epoch)
    curve.finish(rows_of(result))
    verdict = "The head stays the model."
    if result.model:
        show_model(run.showcase, get_model(Workspace.open(params.workspace), str(result.model)))
        verdict = f"Saved {result.model}."
    return f"{result.gate.reason} {verdict}", result


@flow(name="predict-batch", flow_run_name=_run_name)
@_ending
def predict_batch(params: PredictBatchRequest) -> tuple[str, object]:
    """Predict the pictures of a folder that are new since the last run, and write one table of all."""
    run = _Run()
    result = run_predict_batch(params, run.progress)
    return str(result), result


@flow(name="verify", flow_run_name=_run_name)
@_ending
def verify(params: VerifyRequest = DEFAULTS) -> tuple[str, object]:
    """Check every file and checksum of the workspace; set right what can be, report the rest."""
    run = _Run()
    result = run_verify(params, run.progress)
    num_found = len(result.findings)
    show_rows(run.showcase, "findings", "workspace", "What verify found", result.findings)
    if num_left := sum(finding.done == LEFT for finding in result.findings):
        raise DamagedError(f"{num_found} findings, {num_left} of them not repaired: see the artifact.")
    return f"{num_found} findings, all repaired." if num_found else "No damage found.", result


@flow(name="gc", flow_run_name=_run_name)
@_ending
def gc(params: ScheduledGcRequest = DEFAULTS) -> tuple[str, object]:
    """Find features and files that no dataset and no model needs, and remove them if asked to."""
    run = _Run()
    result = run_gc(params)
    show_rows(run.showcase, "garbage", "workspace", "What nothing needs", result.garbage)
    done = "were removed" if result.deleted else "are not needed"
    return f"{len(result.garbage):,} items of {result.num_bytes / 1e6:,.0f} MB {done}.", result
