"""The fine-tune step: the whole network trained from its head on, in a job that survives, behind a gate.

A job is named by everything that determines its outcome. Started again it goes on from its last checkpoint; once it
has an outcome, that is its answer.
"""

from __future__ import annotations

import logging
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from flows import stopwatch
from flows.documents import SCHEMA_VERSION
from flows.features.fitting import labels_of
from flows.features.forward import reader
from flows.finetuning.ground import Ground, JobPlan, Log, OnEpoch, newest_head, plan_schedule, prepare
from flows.onboarding.quoting import remember_rate
from flows.onboarding.training import NUM_CERTIFIED, features_part, package_versions
from flows.requests import FinetuneRequest
from flows.stopwatch import stage
from flows.versions.promote import Verdict, pin_serving, settle
from pipeline.dataset.split import sample_images
from pipeline.decision.schedule import Schedule
from pipeline.fingerprint import fingerprint
from pipeline.report.record import build_record
from pipeline.types import Head, Manifest, ModelRef, Progress
from storage.datasets.manifests import read_manifest
from storage.jobs.folder import Job, find_outcome, running
from storage.models.bundles import MODEL_FILE, write_bundle_files
from storage.models.versions import find_by_request, new_version, one_at_a_time
from storage.workspace import Workspace

if TYPE_CHECKING:
    from flows.finetuning.arms import Trained

logger = logging.getLogger(__name__)


FINETUNE_VERSION = 2  # raised when a change of ours gives another model for the same request
ID_LENGTH = 16


# ── before it runs ───────────────────────────────────────────────────────────────────────────────


def find_job(request: FinetuneRequest) -> JobPlan:
    """Name the job that a request means, and how it ended if it has. Loads nothing heavy.

    Raises
    ------
    NotFoundError
        When there is no head to start from.
    """
    workspace = Workspace.open(request.workspace)
    head = newest_head(workspace, request.name)
    manifest = read_manifest(workspace, request.name, head.record["data"]["fingerprint"])
    schedule = _schedule(request, manifest)
    identity = {"head": head.record["request"], "schedule": asdict(schedule), "version": FINETUNE_VERSION}
    job_id = fingerprint(identity)[:ID_LENGTH]
    asked = {
        "dataset": request.name,
        "fingerprint": manifest.fingerprint,
        "case": head.record["case"],
        "head_version": head.version,
        "epochs": schedule.epochs,
        "num_train": head.record["size"]["num_train"],
    }
    return JobPlan(job_id, asked, find_outcome(workspace, job_id), head)


def _schedule(request: FinetuneRequest, manifest: Manifest) -> Schedule:
    planned = plan_schedule(manifest, request.epochs)
    return replace(planned, layer_decay=request.layer_decay, unfreeze_epochs=request.unfreeze_epochs)


# ── the job ──────────────────────────────────────────────────────────────────────────────────────


def finetune(
    request: FinetuneRequest,
    progress: Progress | None = None,
    log: Log = logger.info,
    on_epoch: OnEpoch = lambda row: None,
) -> dict[str, Any]:
    """Run a job, or go on with it, or find how it ended; returns what `headstart finetune --json` prints.

    Raises
    ------
    CancelledError
        When somebody asked it to stop; started again it goes on.
    ConflictError
        When another process is running it.
    """
    job_plan = find_job(request)
    if job_plan.outcome is not None:
        return job_plan.outcome
    workspace = Workspace.open(request.workspace)
    with stopwatch.running(), running(workspace, job_plan.id, job_plan.asked) as job:
        if (outcome := job.find_outcome()) is None:  # it may have ended while we came here
            outcome = _run(request, job_plan, workspace, job, progress, log, on_epoch)
            job.write_outcome(outcome)
    return outcome


def _run(
    request: FinetuneRequest,
    job_plan: JobPlan,
    workspace: Workspace,
    job: Job,
    progress: Progress | None,
    log: Log,
    on_epoch: OnEpoch,
) -> dict[str, Any]:
    if made := find_by_request(workspace, request.name, job_plan.id):  # killed after the model, before the outcome
        with one_at_a_time(workspace, request.name):
            return _outcome(job_plan, made.record["finetune"], made, settle(workspace, made))
    ground = prepare(workspace, request.name, job_plan.head, progress)
    with stage("imports"):
        from flows.finetuning.arms import compare_with_head, fit_start, train_arms
    with stage("train"):
        head = fit_start(ground)
        schedule = _schedule(request, ground.manifest)
        trained = train_arms(ground, head, schedule, job, log, on_epoch, request.checkpoint_seconds)
        gate = compare_with_head(ground, trained.network, trained.recipe)
    last = trained.report["curve"][-1]
    remember_rate(workspace, ground.spec, "trained", last["epoch"] * len(ground.fit_on), last["seconds"])
    log(gate.reason)
    finetuned = {
        "started_from": {"version": job_plan.head.version, "taps": [part.tap for part in head.taps]},
        "num_fit": len(ground.fit_on),
        "num_validation": len(ground.validate_on),
        "schedule": asdict(schedule),
        "gate": asdict(gate),
        **trained.report,
    }
    if not gate.passed:
        return _outcome(job_plan, finetuned, None, None)
    with one_at_a_time(workspace, request.name):
        pin_serving(workspace, request.name)
        model = _deliver(ground, head, trained, job_plan, finetuned)
        verdict = settle(workspace, model)
    log(verdict.reason)
    return _outcome(job_plan, finetuned, model, verdict)


def _deliver(ground: Ground, head: Head, trained: Trained, job_plan: JobPlan, finetuned: dict[str, Any]) -> ModelRef:
    """Evaluate, certify and save a model that has passed its gate."""
    from pipeline.delivery.model import certify, write_model
    from pipeline.evaluation.classes import evaluate
    from pipeline.finetuning.scoring import predict_images
    from pipeline.report.page import render_report

    read = reader(ground.manifest)
    with stage("evaluate"):
        probabilities = predict_images(trained.network, ground.test_on, read, trained.recipe)
        metrics = evaluate(labels_of(ground.test_on), probabilities, ground.manifest.classes, ground.test_split)
    with new_version(ground.workspace, job_plan.asked["dataset"]) as bundle:
        with stage("save"):
            write_model(trained.delivered(), bundle.folder / MODEL_FILE)
        with stage("certify"):
            chosen = sample_images(ground.test_on, NUM_CERTIFIED)
            rows = [ground.test_on.index(image) for image in chosen]
            certificate = certify(bundle.folder / MODEL_FILE, chosen, read, trained.recipe, probabilities, rows)
        facts = {
            "request": job_plan.id,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "certificate": asdict(certificate),
            "features": features_part(ground.spec, ground.extracted),
            "finetune": finetuned,
            "seconds": stopwatch.seconds(),
            "versions": package_versions(),
        }
        spec = replace(ground.spec, recipe=trained.recipe)
        bundle.record = build_record(
            ground.manifest, ground.plan, spec, head, metrics, ground.extracted.rejected, facts
        )
        write_bundle_files(bundle.folder, ground.manifest.classes, trained.recipe, render_report(bundle.record))
    return bundle.ref


def _outcome(
    job_plan: JobPlan, finetuned: dict[str, Any], model: ModelRef | None, verdict: Verdict | None
) -> dict[str, Any]:
    """Say how a job ended: what is kept, and printed."""
    return {
        "schema_version": SCHEMA_VERSION,
        "job": job_plan.id,
        "dataset": job_plan.asked["dataset"],
        "case": job_plan.asked["case"],
        **finetuned,
        "model": {"name": model.name, "version": model.version, "path": model.path} if model else None,
        "metrics": {
            key: value for key, value in model.record["metrics"].items() if key not in ("per_class", "confusion")
        }
        if model
        else None,
        "serving": asdict(verdict) if verdict else None,
    }
