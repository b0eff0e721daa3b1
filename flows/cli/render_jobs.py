"""Jobs, audits, and runs on a server, as a terminal shows them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flows.cli.render import say, table, values
from flows.documents import FinetuneRun, FinishedJob, SavedModel, SubmittedJob, SubmittedRun, UnscheduledJob
from flows.finetuning.epochs import rows_of, table_of

if TYPE_CHECKING:
    from flows.finetuning.results import FinetuneResult
    from flows.service.control import Cancellation, JobList
    from pipeline.decision.audited import AuditList, AuditResult, Refit


def submitted(run: SubmittedRun | SubmittedJob) -> None:
    """Print where a run was submitted."""
    say(f"run {run.name} ({run.run}) is {run.state} on {run.server}")


def ended(run: SubmittedRun | SubmittedJob) -> None:
    """Print how a run ended."""
    say(f"run {run.name} is {run.state}: {run.message}", style="bold")


def scheduled(found: FinetuneRun) -> None:
    """Print whether a fine-tuning job was submitted, is already finished, or is left for later."""
    job = f"fine-tuning job {found.job}" if found.job else "fine-tuning"
    if isinstance(found, FinishedJob):
        say(f"{job} has ended: {_verdict(found.passed, found.model)}")
        return
    if isinstance(found, UnscheduledJob):
        say(f"{job} is {found.state}: {found.reason}")
    else:
        say(f"{job}, attempt {found.attempt}:")
        submitted(found)
    if found.next:
        say(f"next: {found.next}")


def finetuned(result: FinetuneResult) -> None:
    """Print a finished fine-tuning: its curve, the gate's comparison, and the saved model if there is one."""
    curve = table_of(rows_of(result))
    table("curve", list(curve[0]) if curve else [], [list(row.values()) for row in curve])
    say(result.gate.reason)
    if metrics := result.metrics:
        low, high = metrics.accuracy_interval
        say(
            f"accuracy {metrics.accuracy:.3f} (95 %: {low:.3f} to {high:.3f}) on {metrics.num_images:,} "
            f"{metrics.split} pictures"
        )
    say(_verdict(result.gate.passed, result.model), style="bold")
    if result.serving and not result.serving.promoted:
        say(f"version {result.serving.version} serves: {result.serving.reason}")


def audited(result: AuditResult) -> None:
    """Print what every strategy reached, and what the plan's choice cost and saved."""
    rows = [
        (
            row.strategy,
            f"{row.accuracy:.3f}",
            f"{result.constant_policies[row.strategy].naive_points:.1f}",
            f"{row.multiply_adds:.2g}",
            f"{row.seconds:,.0f}",
            "delivered" if row.strategy == result.delivered else "",
        )
        for row in result.strategies
    ]
    columns = ("strategy", "accuracy", "below the best (points)", "multiply-adds", "seconds", "")
    table(f"strategies on {result.num_test:,} {result.test_split} pictures", columns, rows)
    regret, compute = result.regret, result.compute
    say(result.gate.reason)
    say(
        f"the plan chose {result.chosen} and delivers {regret.chosen}: regret {regret.points:+.1f} points by split "
        f"halves, {regret.naive_points:.1f} ± {regret.standard_error:.1f} against {regret.best}, the best on the same "
        "pictures",
        style="bold",
    )
    say(
        f"it spent {compute.share_of_finetuning:.0%} of the multiply-adds of fine-tuning, "
        f"{compute.share_of_everything:.0%} of trying everything (budget: {result.budget_epochs} epochs)"
    )


def audits(found: AuditList) -> None:
    """Print a row for each audit, and the thresholds refitted from them."""
    strategies = list(dict.fromkeys(row.strategy for audit in found.audits for row in audit.strategies))
    rows = []
    for audit in found.audits:
        reached = {row.strategy: f"{row.accuracy:.3f}" for row in audit.strategies}
        accuracies = [reached.get(name) for name in strategies]
        regret = f"{audit.regret.points:.1f}"
        rows.append((audit.dataset, audit.signals.num_train, audit.case, *accuracies, audit.delivered, regret))
    table("audits", ("dataset", "pictures", "case", *strategies, "delivered", "regret"), rows)
    for refit in found.thresholds if rows else ():
        say(_refit(refit))


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def _refit(refit: Refit) -> str:
    known = f"{refit.what} data: {_count(refit.num_audits, 'audit')} of {_count(refit.num_datasets, 'dataset')}"
    current = f"large from {refit.current:,} pictures on (regret and compute {refit.current_cost:.2f} points)"
    if refit.held_out_cost is None:
        return f"{known}, too few to refit the threshold; now {current}"
    threshold = f"large from {refit.refitted:,} pictures on" if refit.refitted else "never large"
    return (
        f"{known}; best would be {threshold} ({refit.refitted_cost:.2f}; {refit.held_out_cost:.2f} on datasets held "
        f"out); now {current}"
    )


def jobs(found: JobList) -> None:
    """Print a row for each fine-tuning job, and for each of the latest runs on the server."""
    from flows.service.control import Nothing

    rows = []
    for job in found.jobs:
        status = None if isinstance(job.status, Nothing) else job.status
        epoch = f"{status.arm} {status.epoch} of {status.num_epochs}" if status else None
        gate = {True: "passed", False: "not passed", None: None}[job.passed]
        run = job.run_state and f"{job.run_state} (attempt {job.attempt}, {job.run})"
        rows.append((job.job, job.dataset, job.state, epoch, gate, job.written, run))
    table("jobs", ("job", "dataset", "state", "epoch", "gate", "last heard of", "run"), rows)
    if found.server:
        values(f"latest runs on {found.server}", found.runs)


def cancelled(done: Cancellation) -> None:
    """Print what was asked to stop."""
    if done.was_running:
        say(f"job {done.job} is running here and stops at its next step; finished work is saved")
    for run in done.runs:
        say(f"run {run.name} ({run.run}) is {run.state}")
    if not done.was_running and not done.runs:
        say(f"job {done.job} is not running, so there is nothing to stop")


def _verdict(passed: bool, model: SavedModel | None) -> str:
    if model:
        return f"model {model} in {model.path}"
    return "it passed" if passed else "the head stays the model"
