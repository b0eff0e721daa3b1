"""The fine-tune step: the whole network trained from its head on, in a job that survives, behind a gate.

A job is named by everything that determines its result. Started again it continues from its last checkpoint; once it
has ended, it is not run again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from flows.documents import SavedModel
from flows.features.extraction import Extracted
from flows.finetuning.ground import JobPlan, Listeners, open_arms, plan_job, prepare, run_job
from flows.finetuning.results import FinetuneResult
from flows.onboarding.planning import remember_rate
from flows.requests import FinetuneRequest
from flows.stopwatch import stage
from flows.versions.promote import Verdict, pin_serving, settle
from flows.versions.save import NewModel, save_model
from pipeline.decision.finetuned import FinetuneReport, JobStatus
from pipeline.decision.schedule import Schedule, plan_finetuning
from pipeline.finetuning.inputs import FinetuneInputs, labels_of
from pipeline.jsonable import from_json, to_json
from pipeline.report.record import ModelRef
from pipeline.types import Figures, Progress
from storage.jobs.folder import Job
from storage.models.versions import find_by_request, one_at_a_time

if TYPE_CHECKING:
    from pipeline.finetuning.arms import BestArm

logger = logging.getLogger(__name__)


def get_job_plan(request: FinetuneRequest) -> JobPlan[FinetuneResult]:
    """Name the job that a request means; raises as `plan_job` does. Loads nothing heavy."""

    def choose(num_train: int) -> Schedule:
        planned = plan_finetuning(num_train, request.epochs)
        return replace(planned, layer_decay=request.layer_decay, unfreeze_epochs=request.unfreeze_epochs)

    return plan_job(request.workspace, request.name, "finetune", choose, FinetuneResult)


def finetune(
    request: FinetuneRequest,
    progress: Progress | None = None,
    log: Callable[[str], None] = logger.info,
    on_epoch: Callable[[JobStatus], None] = lambda status: None,
) -> FinetuneResult:
    """Train the whole network, or find how that ended; raises as `plan_job`, `prepare` and `run_job` do."""
    plan, listeners = get_job_plan(request), Listeners(progress, log, on_epoch)
    return run_job(plan, lambda job: _run(plan, job, listeners, request.checkpoint_seconds))


def _run(plan: JobPlan[FinetuneResult], job: Job, listeners: Listeners, checkpoint_seconds: float) -> FinetuneResult:
    name, workspace = plan.asked.dataset, plan.workspace
    made = find_by_request(workspace, name, plan.id)
    if made and made.record.finetune:  # killed after the model, before the outcome
        with one_at_a_time(workspace, name):
            return _result(plan, made.record.finetune, made, settle(workspace, made))
    inputs, extracted = prepare(plan, listeners.progress)
    context = open_arms(inputs, job, listeners, checkpoint_seconds)
    from pipeline.finetuning.arms import train_arms

    with stage("train"):
        best = train_arms(context, plan.schedule, plan.head.version)
    last, gate = best.report.curve[-1], best.report.gate
    remember_rate(workspace, inputs.spec, "trained", last.epoch * len(inputs.fit_on), last.seconds)
    listeners.log(gate.reason)
    if not gate.passed:
        return _result(plan, best.report)
    with one_at_a_time(workspace, name):
        pin_serving(workspace, name)
        model = _deliver(plan, inputs, extracted, best)
        verdict = settle(workspace, model)
    listeners.log(verdict.reason)
    return _result(plan, best.report, model, verdict)


def _deliver(plan: JobPlan[FinetuneResult], inputs: FinetuneInputs, extracted: Extracted, best: BestArm) -> ModelRef:
    """Evaluate, certify and save a model that has passed its gate."""
    from pipeline.delivery.model import frame
    from pipeline.evaluation.classes import evaluate
    from pipeline.finetuning.scoring import predict_images

    manifest, test_on = inputs.manifest, inputs.test_on
    with stage("evaluate"):
        probabilities = predict_images(best.network, test_on, inputs.read, best.recipe)
        metrics = evaluate(labels_of(test_on), probabilities, manifest.classes, inputs.test_split)
    made = NewModel(
        request=plan.id,
        manifest=manifest,
        plan=inputs.plan,
        spec=inputs.spec,
        recipe=best.recipe,
        extracted=extracted,
        head=best.head,
        build=lambda: frame(best.network, best.recipe),
        test_on=test_on,
        probabilities=probabilities,
        metrics=metrics,
        finetune=best.report,
    )
    return save_model(plan.workspace, made)


def _result(
    plan: JobPlan[FinetuneResult], report: FinetuneReport, model: ModelRef | None = None, verdict: Verdict | None = None
) -> FinetuneResult:
    ended = {"job": plan.id, "dataset": plan.asked.dataset, "case": plan.asked.case, "serving": verdict}
    if model:
        ended["model"] = SavedModel(model.name, model.version, model.path)
        ended["metrics"] = from_json(Figures, to_json(model.record.metrics))
    return from_json(FinetuneResult, to_json(report) | ended)
