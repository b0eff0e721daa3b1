"""Output of the service's commands on a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flows.cli.render import say, table
from flows.service.client import RUNS_AT_A_TIME

if TYPE_CHECKING:
    from flows.doctor.check import DoctorReport
    from flows.onboarding.refresh import RefreshResult
    from flows.service.deploy import DeployResult
    from flows.versions.promote import Promoted

STATE_STYLES = {"ok": "", "warning": "yellow", "problem": "bold red", "skipped": "dim"}


def deployed(result: DeployResult) -> None:
    """Print what a server has now, and how its workers are started."""
    for pool in result.pools:
        say(f"pool {pool.name}: {pool.done}")
    for row in result.deployments:
        limit = f", {row.limit} at a time" if row.limit else ""
        say(f"deployment {row.name} on {row.pool}{limit}: {row.done}")
        for schedule in row.schedules:
            say(f"  schedule {schedule.slug}: {schedule.when}{'' if schedule.active else ', paused'}")
    for name in result.deleted_schedules:
        say(f"schedule {name}: deleted, because it is no longer in the file")
    for automation in result.automations:
        say(f"automation {automation.name}: {automation.done}")
    for pool in result.pools:
        say(f"next: prefect worker start --pool {pool.name} --limit {RUNS_AT_A_TIME.get(pool.name, 1)}")


def refreshed(result: RefreshResult) -> None:
    """Print a line for each dataset: what changed, and what was done."""
    for row in result.datasets:
        say(str(row))
    if not result.datasets:
        say("There is no dataset yet. Next: headstart onboard DIR")


def promoted(result: Promoted) -> None:
    """Print which version serves now, and which did."""
    before = f"; before it was version {result.previous}" if result.previous else ""
    say(f"{result.model} is version {result.version} now{before}", style="bold")


def examined(report: DoctorReport) -> None:
    """Print a row for each check; the advice has a line of its own, so that commands are not broken."""
    rows = []
    for check in report.checks:
        advice = (f"→ {check.advice}",) if check.advice else ()
        rows.append((check.name, check.state, (check.found, *advice)))
    states = [check.state for check in report.checks]
    table("doctor", ("check", "state", "found"), rows, [STATE_STYLES[state] for state in states])
    say(f"problems: {states.count('problem')}, warnings: {states.count('warning')}", style="bold")
