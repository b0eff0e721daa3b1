"""The start of fine-tuning jobs and audits: the newest head, its data, and a job's folder to work in."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Generic, Literal, TypeVar

from flows import stopwatch
from flows.documents import to_document
from flows.features.backbone import get_recorded_backbone
from flows.features.extraction import Extracted, extract, read_taps
from flows.features.forward import reader
from flows.stopwatch import stage
from flows.versions.promote import list_heads
from pipeline.dataset.split import held_out, split_validation
from pipeline.decision.finetuned import JobAsked, JobStatus
from pipeline.decision.schedule import Schedule
from pipeline.errors import DataError, NotFoundError, UsageError
from pipeline.finetuning.inputs import FinetuneInputs
from pipeline.fingerprint import fingerprint
from pipeline.images.views import ORIGINAL
from pipeline.jsonable import from_json, to_json
from pipeline.report.record import ModelRef
from pipeline.types import Manifest, Progress
from storage.datasets.manifests import DatasetRef, read_manifest
from storage.jobs.folder import Job, find_outcome, run_exclusively
from storage.models.versions import list_models
from storage.workspace import Workspace

if TYPE_CHECKING:
    from pipeline.finetuning.arms import ArmContext

ID_LENGTH = 16
VERSIONS = {"finetune": 2, "audit": 1}  # raised when a change of the code gives another result for the same request
STARTS_FROM = {"finetune": "head", "audit": "audit"}  # what an identity calls the request of the head

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Listeners:
    """Who hears about a job while it runs."""

    progress: Progress | None
    log: Callable[[str], None]
    on_epoch: Callable[[JobStatus], None]


@dataclass(frozen=True, slots=True)
class JobPlan(Generic[Result]):
    """A job before it runs."""

    workspace: Workspace
    id: str  # digest of everything that determines the result
    asked: JobAsked
    schedule: Schedule
    head: ModelRef  # that the job starts from, and that the network has to beat
    manifest: Manifest  # of the head's data
    result: type[Result]
    outcome: Result | None  # how the job ended, if it has


def plan_job(
    workspace_root: str,
    name: str,
    what: Literal["finetune", "audit"],
    choose: Callable[[int], Schedule],
    result: type[Result],
) -> JobPlan[Result]:
    """Name the job that a request means, and find how it ended if it has.

    Parameters
    ----------
    choose
        From the number of training pictures to the schedule.

    Raises
    ------
    NotFoundError
        There is no head to start from.
    UsageError
        Its labels do not exclude each other.
    """
    workspace = Workspace.open(workspace_root)
    head = _newest_head(workspace, name)
    manifest = read_manifest(workspace, name, head.record.data.fingerprint)
    schedule = choose(len(manifest.of_split("train")))
    identity = {STARTS_FROM[what]: head.record.request, "schedule": asdict(schedule), "version": VERSIONS[what]}
    job_id = fingerprint(identity)[:ID_LENGTH]
    asked = JobAsked(
        what=what,
        dataset=name,
        fingerprint=manifest.fingerprint,
        case=head.record.plan.case,
        head_version=head.version,
        epochs=schedule.epochs,
        num_train=head.record.plan.size.num_train,
    )
    outcome = find_outcome(workspace, job_id)
    ended = None if outcome is None else from_json(result, outcome)
    return JobPlan(workspace, job_id, asked, schedule, head, manifest, result, ended)


def run_job(plan: JobPlan[Result], work: Callable[[Job], Result]) -> Result:
    """Run a job, continue it, or find how it ended.

    Raises
    ------
    CancelledError
        The job was asked to stop. Start it again to continue.
    ConflictError
        Another process is running it.
    """
    if plan.outcome is not None:
        return plan.outcome
    with stopwatch.timed(), run_exclusively(plan.workspace, plan.id, plan.asked) as job:
        if (
            outcome := find_outcome(plan.workspace, plan.id)
        ) is not None:  # another process has ended it in the meantime
            return from_json(plan.result, outcome)
        ended = work(job)
        job.write_outcome(to_document(ended))
    return ended


def _newest_head(workspace: Workspace, name: str) -> ModelRef:
    """Return the newest version of a model that is a head on frozen features; raises as `plan_job` does."""
    heads = list_heads(workspace, name)
    if not heads:
        known = ", ".join(sorted({ref.name for ref in list_models(workspace)})) or "none yet"
        raise NotFoundError(
            f"There is no model '{name}' to start from. Known: {known}. Train its head first: headstart onboard DIR"
        )
    if not heads[-1].record.data.exclusive:
        raise UsageError(
            f"The labels of '{name}' do not exclude each other. Fine-tuning does not support such labels yet. "
            "The head stays the model."
        )
    return heads[-1]


def prepare(plan: JobPlan[Result], progress: Progress | None) -> tuple[FinetuneInputs, Extracted]:
    """Find what a head was made from; features that are gone are computed again.

    Raises
    ------
    DataError
        The pictures are gone, or are too few.
    """
    workspace, manifest, name = plan.workspace, plan.manifest, plan.asked.dataset
    if not os.path.isdir(manifest.root):
        raise DataError(
            f"{manifest.root} is gone, but its pictures are needed. Bring it back, or onboard its new place."
        )
    spec = get_recorded_backbone(workspace, plan.head.record)
    dataset = DatasetRef(name, manifest.root, manifest.fingerprint)
    extracted = extract(workspace, dataset, spec, 0, progress)
    left_out = {item.path for item in extracted.rejected}
    images = [image for image in manifest.images if image.path not in left_out]
    test_on, test_split = held_out(images)
    fit_on, validate_on = split_validation(images, test_split)
    if not fit_on or not validate_on:
        raise DataError(
            f"{len(fit_on)} pictures to train on and {len(validate_on)} to validate on are too few for fine-tuning. "
            "Add pictures; the head stays the model."
        )
    inputs = FinetuneInputs(
        manifest=manifest,
        spec=spec,
        plan=plan.head.record.plan,
        fit_on=fit_on,
        validate_on=validate_on,
        test_on=test_on,
        test_split=test_split,
        read=reader(manifest),
        read_taps=lambda images, taps: read_taps(workspace, spec, (ORIGINAL,), images, taps),
    )
    return inputs, extracted


def open_arms(inputs: FinetuneInputs, job: Job, listeners: Listeners, checkpoint_seconds: float) -> ArmContext:
    """Let training use a job's folder. Loads TensorFlow."""
    with stage("imports"):
        from pipeline.finetuning.arms import ArmContext
        from pipeline.finetuning.checkpoint import Keeper

    def on_epoch(status: JobStatus) -> None:
        job.write_status(to_json(status))
        listeners.on_epoch(status)

    def get_keeper(arm: str) -> Keeper:
        kept = job.checkpoints(arm)
        return Keeper(kept.read, kept.write, job.is_cancelled, checkpoint_seconds)

    return ArmContext(inputs, get_keeper, job.pixels, listeners.log, on_epoch)
