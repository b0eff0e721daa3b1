"""Set up a Prefect server: work pools, the deployments of `prefect.yaml`, and automations; each made or brought up to
date by its name.

Heavy leaf: importing it loads Prefect.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterable
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

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
HEARTBEAT_SECONDS = 30  # the least that Prefect takes
SILENT_SECONDS = 3 * HEARTBEAT_SECONDS  # then a run is dead
BEGIN_SECONDS = 300  # a process takes 5 to 10 on a quiet machine, and Prefect keeps its place for so long

Slugs = dict[tuple[str, str], set[str]]  # of the schedules of a deployment, by its entrypoint and name
BY_HAND = "ui-"  # how the slug begins of a schedule that was made in the UI

POOLS = {
    "cpu": "Onboarding, refreshing, predicting, and the care of the workspace.",
    "gpu": "Fine-tuning, one job at a time.",
}

# Prefect notices by itself neither that a run's process was lost together with its worker, nor that the worker was lost
# before the process began. Each row: name, what it says; after which events the next ones must come, within how long.
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


def deploy_all(url: str, file: str | None = None) -> dict[str, Any]:
    """Set a server up; returns what `headstart deploy --json` prints. Done again, it changes nothing.

    Parameters
    ----------
    file
        A `prefect.yaml`; by default the one that came with headstart.

    Raises
    ------
    NotFoundError
        There is no such file.
    ConflictError
        The file is not as it should be, and nothing was done; or the server refuses something.
    """
    path = _find_file(file)
    slugs = _read_slugs(path)
    with explained(url), get_client(sync_client=True) as client:
        pools = [_make_pool(client, name, description) for name, description in POOLS.items()]
        before = {deployment.id for deployment in _our_deployments(client)}
        _name_schedules(client)
        _apply(url, path)
        gone = _delete_dropped_schedules(client, slugs)
        return {
            "server": hide_password(url),
            "file": str(path),
            "pools": pools,
            "deployments": [_row(client, deployment, before) for deployment in _our_deployments(client)],
            "deleted_schedules": gone,
            "automations": [_put(client, _crashing(*row)) for row in LOST_RUNS],
        }


def _find_file(file: str | None) -> Path:
    """Find the deployments: as asked, else inside the installed package, else at the top of the repository."""
    here = Path(__file__).resolve().parents[1]
    places = [Path(file).absolute()] if file else [here / FILE, here.parent / FILE]
    for place in places:
        if place.is_file():
            return place
    raise NotFoundError(f"There is no file {places[-1]}. Name one with --file; see {FILE} of headstart.")


def _read_slugs(path: Path) -> Slugs:
    """Read how the schedules of every deployment are called in a file."""
    try:
        rows = yaml.safe_load(path.read_text(encoding="utf-8"))["deployments"]
        slugs = {
            (row["entrypoint"], row["name"]): {schedule["slug"] for schedule in row.get("schedules") or []}
            for row in rows
        }
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConflictError(f"{path} is no YAML: {' '.join(str(error).split())}") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise ConflictError(
            f"{path} cannot be deployed ({type(error).__name__}: {error}). Wanted: `deployments`, each with `name` and "
            f"`entrypoint`, and with a `slug` in each of its `schedules`, as in the {FILE} of headstart."
        ) from error
    return slugs


def _apply(url: str, path: Path) -> None:
    """Have Prefect's own command read the file, so that it means here what it means to everybody."""
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
    for found in _our_deployments(client):
        for schedule in found.schedules:
            if not schedule.slug:
                client.request(
                    "PATCH",
                    "/deployments/{id}/schedules/{schedule_id}",
                    path_params={"id": found.id, "schedule_id": schedule.id},
                    # parameters that are not sent become none
                    json={"slug": f"{BY_HAND}{schedule.id.hex[:8]}", "parameters": schedule.parameters},
                )


def _delete_dropped_schedules(client: SyncPrefectClient, slugs: Slugs) -> list[str]:
    """Delete the schedules of the file's deployments that the file has no more, which Prefect's own command keeps."""
    gone = []
    for found in _our_deployments(client):
        kept = slugs.get((found.entrypoint or "", found.name))
        for schedule in found.schedules:
            slug = schedule.slug or BY_HAND
            if kept is not None and slug not in kept and not slug.startswith(BY_HAND):
                client.delete_deployment_schedule(found.id, schedule.id)
                gone.append(f"{found.name}/{slug}")
    return gone


def _our_deployments(client: SyncPrefectClient) -> list[DeploymentResponse]:
    ours = DeploymentFilter(tags=DeploymentFilterTags(all_=[TAG]))
    return sorted(client.read_deployments(deployment_filter=ours), key=lambda found: str(found.created))


def _row(client: SyncPrefectClient, found: DeploymentResponse, before: Iterable[Any]) -> dict[str, Any]:
    limit = found.global_concurrency_limit
    return {
        "name": f"{client.read_flow(found.flow_id).name}/{found.name}",
        "pool": found.work_pool_name,
        "limit": limit.limit if limit else None,
        "schedules": [
            {"slug": row.slug, "when": describe_schedule(row.schedule), "active": row.active} for row in found.schedules
        ],
        "done": "updated" if found.id in before else "made",
    }


def describe_schedule(schedule: Any) -> str:
    """Say when a schedule makes runs."""
    zone = f" ({schedule.timezone})" if schedule.timezone else ""
    if interval := getattr(schedule, "interval", None):
        return f"every {str(interval).removesuffix(', 0:00:00')}{zone}"
    return f"{getattr(schedule, 'cron', None) or schedule.rrule}{zone}"


def _make_pool(client: SyncPrefectClient, name: str, description: str) -> dict[str, Any]:
    """Make a work pool of processes, unless there is one of the name: it may be of containers, or set up otherwise."""
    try:
        pool, done = client.read_work_pool(name), "found"
    except ObjectNotFound:
        template = ProcessWorker.get_default_base_job_template()
        wanted = WorkPoolCreate(name=name, type="process", description=description, base_job_template=template)
        pool, done = client.create_work_pool(wanted), "made"
    return {"name": pool.name, "type": pool.type, "done": done}


def _crashing(name: str, message: str, condition: tuple[set[str], set[str], float]) -> AutomationCore:
    """Describe an automation that crashes a run of ours of which nothing was heard."""
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


def _put(client: SyncPrefectClient, automation: AutomationCore) -> dict[str, Any]:
    found = client.read_automations_by_name(automation.name)
    if found:
        client.update_automation(found[0].id, automation)
    else:
        client.create_automation(automation)
    return {"name": automation.name, "done": "updated" if found else "made"}
