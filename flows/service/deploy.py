"""Setting up a Prefect server: work pools, the deployments of `prefect.yaml`, and automations.

Each is found by its name, and made or updated.

Heavy leaf: importing it loads Prefect.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Collection
from dataclasses import dataclass
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path
from shlex import quote
from typing import Any, Literal
from uuid import UUID

import yaml
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterTags
from prefect.client.schemas.objects import StateType
from prefect.client.schemas.responses import DeploymentResponse
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.exceptions import ObjectNotFound
from prefect.workers.process import ProcessWorker

from flows.service.client import TAG, explained, hide_password
from flows.settings import environment_with
from pipeline.errors import ConflictError, NotFoundError

FILE = "prefect.yaml"
OLD_MODULE, MODULE = "flows.jobs.", "flows.service.flows."  # of the entry points, before and now
HEARTBEAT_SECONDS = 30  # the least that Prefect takes
SILENT_SECONDS = 3 * HEARTBEAT_SECONDS  # then a run is dead
BEGIN_SECONDS = 300  # a process takes 5 to 10 on a quiet machine, and Prefect keeps its place this long

Slugs = dict[tuple[str, str], set[str]]  # of the schedules of a deployment, by its entrypoint and name
BY_HAND = "ui-"  # the slug of a schedule that was made in the UI begins with it

POOLS = {
    "cpu": "Onboarding, refreshing, predicting, and maintenance of the workspace.",
    "gpu": "Fine-tuning, one job at a time.",
}

# Prefect does not notice that a run's process was lost together with its worker, nor that the worker was lost before
# the process began. Each row: name, message; after which events, which others must come, and within how many seconds.
HEARTBEAT = "prefect.flow-run.heartbeat"
ENDED = {f"prefect.flow-run.{state}" for state in ("Completed", "Failed", "Cancelled", "Crashed")}
TAKEN = {f"prefect.flow-run.{state}" for state in ("Pending", "Submitting")}
BEGUN_OR_PUT_BACK = {f"prefect.flow-run.{state}" for state in ("Running", "AwaitingConcurrencySlot", "Scheduled")}
LOST_RUNS = [
    (
        "headstart: lost runs",
        f"No heartbeat for {SILENT_SECONDS} s: its process or its machine was lost.",
        ({HEARTBEAT}, {HEARTBEAT, *ENDED}, SILENT_SECONDS),
    ),
    (
        "headstart: runs that never began",
        f"A worker took it, but it did not begin within {BEGIN_SECONDS} s: the worker was lost.",
        (TAKEN, {*BEGUN_OR_PUT_BACK, *ENDED}, BEGIN_SECONDS),
    ),
]


@dataclass(frozen=True, slots=True)
class PoolRow:
    """A work pool."""

    name: str
    type: str
    done: Literal["found", "made"]


@dataclass(frozen=True, slots=True)
class ScheduleRow:
    """A schedule of a deployment."""

    slug: str | None
    when: str  # for people
    active: bool


@dataclass(frozen=True, slots=True)
class DeploymentRow:
    """A deployment of headstart."""

    name: str  # flow/deployment
    pool: str | None
    limit: int | None  # of its runs at a time
    schedules: tuple[ScheduleRow, ...]
    done: Literal["updated", "made"]


@dataclass(frozen=True, slots=True)
class AutomationRow:
    """An automation."""

    name: str
    done: Literal["updated", "made"]


@dataclass(frozen=True, slots=True)
class DeployResult:
    """What `headstart deploy` made or found on a server."""

    server: str
    file: str
    pools: tuple[PoolRow, ...]
    deployments: tuple[DeploymentRow, ...]
    deleted_schedules: tuple[str, ...]  # deployment/slug
    automations: tuple[AutomationRow, ...]


def deploy_all(url: str, file: str | None = None) -> DeployResult:
    """Set up a server. A second time, it changes nothing.

    Parameters
    ----------
    file
        A `prefect.yaml`; by default the one that came with headstart.

    Raises
    ------
    NotFoundError
        There is no such file.
    ConflictError
        The file cannot be used, and nothing was done; or the server refuses something.
    """
    path = _find_file(file)
    slugs = _read_slugs(path)
    with explained(url), get_client(sync_client=True) as client:
        pools = tuple(_make_pool(client, name, description) for name, description in POOLS.items())
        before = {found.id for found in read_deployments(client).values()}
        _name_schedules(client)
        _apply(url, path)
        gone = _delete_dropped_schedules(client, slugs)
        return DeployResult(
            server=hide_password(url),
            file=str(path),
            pools=pools,
            deployments=tuple(_row(name, found, before) for name, found in read_deployments(client).items()),
            deleted_schedules=tuple(gone),
            automations=tuple(_put(client, _crashing(*row)) for row in LOST_RUNS),
        )


def _find_file(file: str | None) -> Path:
    """Find the file: the one asked for, else inside the installed package, else at the top of the repository."""
    here = Path(__file__).resolve().parents[1]
    places = [Path(file).absolute()] if file else [here / FILE, here.parent / FILE]
    for place in places:
        if place.is_file():
            return place
    raise NotFoundError(f"There is no file {places[-1]}. Name one with --file; see {FILE} of headstart.")


def _read_slugs(path: Path) -> Slugs:
    """Read the slugs of each deployment's schedules."""
    try:
        rows = yaml.safe_load(path.read_text(encoding="utf-8"))["deployments"]
        slugs = {
            (row["entrypoint"], row["name"]): {schedule["slug"] for schedule in row.get("schedules") or []}
            for row in rows
        }
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConflictError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise ConflictError(
            f"{path} cannot be deployed ({type(error).__name__}: {error}). Wanted: `deployments`, each with `name` and "
            f"`entrypoint`, and with a `slug` in each of its `schedules`, as in the {FILE} of headstart."
        ) from error
    if any(entrypoint.startswith(OLD_MODULE) for entrypoint, _ in slugs):
        change = f"s/{OLD_MODULE}/{MODULE}/".replace(".", r"\.", 2)
        raise ConflictError(
            f"{path} names the entry points of an older headstart, {OLD_MODULE}*. Change them, then deploy again: "
            f"sed --in-place '{change}' {quote(str(path))}"
        )
    return slugs


def _apply(url: str, path: Path) -> None:
    """Let Prefect's own command read the file, so that it means the same to both."""
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(path)]
    environment = environment_with(
        PREFECT_API_URL=url, HEADSTART_VERSION=version("headstart"), NO_COLOR="1", PYTHONSAFEPATH="1", COLUMNS="200"
    )
    done = subprocess.run(command, env=environment, cwd=path.parent, capture_output=True, text=True, check=False)
    if done.returncode:
        said = " ".join(re.sub(r"[^\x20-\x7e]+", " ", f"{done.stdout} {done.stderr}").split())
        raise ConflictError(f"Prefect could not deploy {path}: {said[-600:]}")


def _name_schedules(client: SyncPrefectClient) -> None:
    """Give the schedules that were made in the UI a slug: if one has none, Prefect's own command deletes them all."""
    for found in read_deployments(client).values():
        for schedule in found.schedules:
            if not schedule.slug:
                client.request(
                    "PATCH",
                    "/deployments/{id}/schedules/{schedule_id}",
                    path_params={"id": found.id, "schedule_id": schedule.id},
                    # parameters that are not sent are removed
                    json={"slug": f"{BY_HAND}{schedule.id.hex[:8]}", "parameters": schedule.parameters},
                )


def _delete_dropped_schedules(client: SyncPrefectClient, slugs: Slugs) -> list[str]:
    """Delete schedules that were taken out of the file; Prefect's own command keeps them."""
    gone = []
    for found in read_deployments(client).values():
        kept = slugs.get((found.entrypoint or "", found.name))
        for schedule in found.schedules:
            slug = schedule.slug or BY_HAND
            if kept is not None and slug not in kept and not slug.startswith(BY_HAND):
                client.delete_deployment_schedule(found.id, schedule.id)
                gone.append(f"{found.name}/{slug}")
    return gone


def read_deployments(client: SyncPrefectClient) -> dict[str, DeploymentResponse]:
    """Read the deployments of headstart, by flow/deployment; the oldest is the first."""
    of_headstart = DeploymentFilter(tags=DeploymentFilterTags(all_=[TAG]))
    flows = {flow.id: flow.name for flow in client.read_flows(deployment_filter=of_headstart)}
    found = sorted(client.read_deployments(deployment_filter=of_headstart), key=lambda row: str(row.created))
    return {f"{flows.get(row.flow_id, '?')}/{row.name}": row for row in found}


def _row(name: str, found: DeploymentResponse, before: Collection[UUID]) -> DeploymentRow:
    limit = found.global_concurrency_limit
    return DeploymentRow(
        name=name,
        pool=found.work_pool_name,
        limit=limit.limit if limit else None,
        schedules=tuple(ScheduleRow(row.slug, describe_schedule(row.schedule), row.active) for row in found.schedules),
        done="updated" if found.id in before else "made",
    )


def describe_schedule(schedule: Any) -> str:
    """Say when a schedule makes runs."""
    zone = f" ({schedule.timezone})" if schedule.timezone else ""
    if interval := getattr(schedule, "interval", None):
        return f"every {str(interval).removesuffix(', 0:00:00')}{zone}"
    return f"{getattr(schedule, 'cron', None) or schedule.rrule}{zone}"


def _make_pool(client: SyncPrefectClient, name: str, description: str) -> PoolRow:
    """Make a work pool of processes. One that exists is kept: it may be of containers, or set up in another way."""
    try:
        found = client.read_work_pool(name)
        return PoolRow(found.name, found.type, "found")
    except ObjectNotFound:
        template = ProcessWorker.get_default_base_job_template()
        wanted = WorkPoolCreate(name=name, type="process", description=description, base_job_template=template)
        made = client.create_work_pool(wanted)
        return PoolRow(made.name, made.type, "made")


def _crashing(name: str, message: str, condition: tuple[set[str], set[str], float]) -> AutomationCore:
    """Describe an automation that ends a run of headstart as crashed if the expected event does not come."""
    after, expect, seconds = condition
    return AutomationCore(
        name=name,
        description=message,
        trigger=EventTrigger(
            after=after,
            expect=expect,
            match={"prefect.resource.id": "prefect.flow-run.*"},
            match_related={"prefect.resource.role": "tag", "prefect.resource.id": f"prefect.tag.{TAG}"},
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=seconds),
        ),
        actions=[ChangeFlowRunState(name=None, state=StateType.CRASHED, message=message, force=False)],
    )


def _put(client: SyncPrefectClient, automation: AutomationCore) -> AutomationRow:
    if found := client.read_automations_by_name(automation.name):
        client.update_automation(found[0].id, automation)
        return AutomationRow(automation.name, "updated")
    client.create_automation(automation)
    return AutomationRow(automation.name, "made")
