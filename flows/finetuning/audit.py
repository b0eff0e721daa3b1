"""The audit: runs what a plan rejected on the same pictures, and says what the choice cost and saved.

An audit is a job: stopped in any way, the same command continues from a checkpoint, and one that has ended is found.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from flows import stopwatch
from flows.finetuning.ground import JobPlan, Listeners, open_arms, plan_job, prepare, run_job
from flows.requests import AuditRequest
from pipeline.decision.audited import AuditList, AuditResult, Signals
from pipeline.decision.finetuned import JobStatus
from pipeline.decision.schedule import plan_finetuning
from pipeline.errors import DamagedError
from pipeline.jsonable import from_json, to_json
from pipeline.types import Progress
from storage.jobs.folder import Job
from storage.measurements import find_measurement, list_measurements, write_measurement
from storage.workspace import Workspace

logger = logging.getLogger(__name__)


def get_audit_plan(request: AuditRequest) -> JobPlan[AuditResult]:
    """Name the job that a request means; raises as `plan_job` does. Loads nothing heavy."""
    epochs = request.epochs
    return plan_job(request.workspace, request.name, "audit", lambda num: plan_finetuning(num, epochs), AuditResult)


def audit(
    request: AuditRequest,
    progress: Progress | None = None,
    log: Callable[[str], None] = logger.info,
    on_epoch: Callable[[JobStatus], None] = lambda status: None,
) -> AuditResult:
    """Run every strategy within the budget, or find how that ended; raises as `finetune` does."""
    plan, listeners = get_audit_plan(request), Listeners(progress, log, on_epoch)
    return run_job(plan, lambda job: _run(plan, job, listeners, request.checkpoint_seconds))


def _run(plan: JobPlan[AuditResult], job: Job, listeners: Listeners, checkpoint_seconds: float) -> AuditResult:
    inputs, _ = prepare(plan, listeners.progress)
    context = open_arms(inputs, job, listeners, checkpoint_seconds)
    from pipeline.decision.regret import judge_audit
    from pipeline.finetuning.strategies import run_strategies

    strategies, gate = run_strategies(context, plan.schedule)
    record, decided, num_test = plan.head.record, inputs.plan, len(inputs.test_on)
    judged = judge_audit(strategies, gate.passed, decided.strategy, num_test)
    result = AuditResult(
        job=plan.id,
        dataset=plan.asked.dataset,
        case=decided.case,
        textbook=decided.textbook,
        chosen=decided.strategy,
        signals=Signals(
            backbone=inputs.spec.name,
            size=inputs.spec.recipe.size,
            num_train=decided.size.num_train,
            num_classes=decided.size.num_classes,
            smallest_class=decided.size.smallest_class,
            distance=decided.similarity.distance,
            similar=decided.similarity.verdict == "similar",
            loo_error=record.head.loo_error,
            learning_curve=record.learning_curve,
        ),
        budget_epochs=plan.asked.epochs,
        num_test=num_test,
        test_split=inputs.test_split,
        strategies=strategies,
        gate=gate,
        delivered=judged.delivered,
        regret=judged.regret,
        constant_policies=judged.constant_policies,
        compute=judged.compute,
        seconds=stopwatch.seconds(),
    )
    write_measurement(plan.workspace, "audits", plan.id, to_json(result))
    return result


def list_audits(workspace_root: str) -> AuditList:
    """List the audits of a workspace, and refit the thresholds from them."""
    from pipeline.decision.refit import refit_thresholds

    workspace = Workspace.open(workspace_root)
    audits = []
    for key in list_measurements(workspace, "audits"):
        try:
            if found := find_measurement(workspace, "audits", key):
                audits.append(from_json(AuditResult, found))
        except DamagedError as error:
            logger.warning("Left out: audit %s: %s", key, error)
    audits.sort(key=lambda row: (row.dataset, row.signals.num_train))
    return AuditList(workspace_root, tuple(audits), refit_thresholds(audits))
