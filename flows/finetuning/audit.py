"""The audit: run what a plan rejected, on the same pictures, and say what the choice cost and saved.

An audit is a job: stopped in any way, the same command goes on from a checkpoint, and an ended one is found.
"""

from __future__ import annotations

import logging
from dataclasses import asdict
from typing import Any

from flows import stopwatch
from flows.documents import SCHEMA_VERSION
from flows.finetuning.ground import Ground, JobPlan, Log, OnEpoch, newest_head, plan_schedule, prepare
from flows.finetuning.job import ID_LENGTH
from flows.requests import AuditRequest
from flows.stopwatch import stage
from pipeline.fingerprint import fingerprint
from pipeline.types import Progress
from storage.datasets.manifests import read_manifest
from storage.jobs.folder import Job, find_outcome, running
from storage.measurements import find_record, list_records, write_record
from storage.workspace import Workspace

logger = logging.getLogger(__name__)

AUDIT_VERSION = 1  # raised when a change of ours gives other results for the same request


def find_audit(request: AuditRequest) -> JobPlan:
    """Name the job that a request means, and how it ended if it has. Loads nothing heavy."""
    workspace = Workspace.open(request.workspace)
    head = newest_head(workspace, request.name)
    manifest = read_manifest(workspace, request.name, head.record["data"]["fingerprint"])
    schedule = plan_schedule(manifest, request.epochs)
    identity = {"audit": head.record["request"], "schedule": asdict(schedule), "version": AUDIT_VERSION}
    job_id = fingerprint(identity)[:ID_LENGTH]
    asked = {
        "what": "audit",
        "dataset": request.name,
        "fingerprint": manifest.fingerprint,
        "case": head.record["case"],
        "head_version": head.version,
        "epochs": schedule.epochs,
        "num_train": head.record["size"]["num_train"],
    }
    return JobPlan(job_id, asked, find_outcome(workspace, job_id), head)


def audit(
    request: AuditRequest,
    progress: Progress | None = None,
    log: Log = logger.info,
    on_epoch: OnEpoch = lambda row: None,
) -> dict[str, Any]:
    """Run every strategy within the budget; returns what `headstart audit --json` prints.

    Raises
    ------
    CancelledError
        When somebody asked it to stop; started again it goes on.
    ConflictError
        When another process is running it.
    """
    job_plan = find_audit(request)
    if job_plan.outcome is not None:
        return job_plan.outcome
    workspace = Workspace.open(request.workspace)
    with stopwatch.running(), running(workspace, job_plan.id, job_plan.asked) as job:
        if (outcome := job.find_outcome()) is None:
            outcome = _run(request, job_plan, workspace, job, progress, log, on_epoch)
            write_record(workspace, "audits", job_plan.id, outcome)
            job.write_outcome(outcome)
    return outcome


def _run(
    request: AuditRequest,
    job_plan: JobPlan,
    workspace: Workspace,
    job: Job,
    progress: Progress | None,
    log: Log,
    on_epoch: OnEpoch,
) -> dict[str, Any]:
    ground = prepare(workspace, request.name, job_plan.head, progress)
    with stage("imports"):
        from flows.finetuning.strategies import run_strategies
    schedule = plan_schedule(ground.manifest, request.epochs)
    strategies, gate = run_strategies(ground, schedule, job, log, on_epoch, request.checkpoint_seconds)
    return _outcome(job_plan, ground, strategies, gate)


def _outcome(
    job_plan: JobPlan, ground: Ground, strategies: list[dict[str, Any]], gate: dict[str, Any]
) -> dict[str, Any]:
    """Say what came of every strategy, and what the choice cost and saved: what is kept, and printed."""
    from pipeline.decision.regret import judge_audit

    record = job_plan.head.record
    return {
        "schema_version": SCHEMA_VERSION,
        "job": job_plan.id,
        "dataset": job_plan.asked["dataset"],
        "case": record["case"],
        "textbook": record["textbook"],
        "chosen": record["strategy"],
        "signals": {
            "backbone": record["backbone"]["name"],
            "size": record["recipe"]["size"],
            "num_train": record["size"]["num_train"],
            "num_classes": record["size"]["num_classes"],
            "smallest_class": record["size"]["smallest_class"],
            "distance": record["similarity"]["distance"],
            "similar": record["similarity"]["verdict"] == "similar",
            "loo_error": record["head"]["loo_error"],
            "learning_curve": record.get("learning_curve"),
        },
        "budget_epochs": job_plan.asked["epochs"],
        "num_test": len(ground.test_on),
        "test_split": ground.test_split,
        "strategies": strategies,
        "gate": gate,
        "model": None,
        **judge_audit(strategies, gate, record["strategy"], len(ground.test_on)),
        "seconds": stopwatch.seconds(),
    }


# ── what came of them ────────────────────────────────────────────────────────────────────────────


def list_audits(workspace_root: str) -> dict[str, Any]:
    """List the audits of a workspace, and the thresholds that they speak for; what `headstart audits --json` prints."""
    from pipeline.decision.refit import refit_thresholds

    workspace = Workspace.open(workspace_root)
    found = [find_record(workspace, "audits", path.stem) for path in list_records(workspace, "audits")]
    audits = sorted((row for row in found if row), key=lambda row: (row["dataset"], row["signals"]["num_train"]))
    return {
        "workspace": workspace_root,
        "audits": audits,
        "thresholds": [asdict(refit) for refit in refit_thresholds(audits)],
    }
