"""Set up a Prefect server: work pools, deployments and automations, each made or brought up to date by its name.

Heavy leaf: importing it loads Prefect.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from importlib.metadata import version
from typing import Any

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy, StateType
from prefect.deployments.runner import DeploymentApplyError
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.exceptions import ObjectNotFound
from prefect.types.entrypoint import EntrypointType
from prefect.workers.process import ProcessWorker

from flows import jobs
from flows.server import FINETUNE, ONBOARD, explained
from pipeline.errors import ConflictError

TAG = "headstart"  # of our deployments and so of their runs: what is not ours is left alone
HEARTBEAT_SECONDS = 30  # the least that Prefect takes
SILENT_SECONDS = 3 * HEARTBEAT_SECONDS  # then a run is dead
BEGIN_SECONDS = 300  # a process takes 5 to 10 on a quiet machine, and Prefect keeps its place for so long

# What every run's process needs, here so that nobody must remember it when a worker is started.
ENVIRONMENT = {
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_SECONDS),
    "PREFECT_LOGGING_EXTRA_LOGGERS": "pipeline,storage,flows",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",  # threads of ours that know no run
    "PYTHONSAFEPATH": "1",  # Prefect runs a script beside a storage.py of its own, which would be taken for our package
}


@dataclass(frozen=True, slots=True)
class _Deployment:
    """A flow on a work pool."""

    flow: Any
    pool: str
    limit: int | None = None  # of runs at a time; others wait
    variables: Mapping[str, Any] = field(default_factory=dict)


POOLS = {
    "cpu": "Onboarding: features and heads.",
    "gpu": "Fine-tuning, one job at a time.",
}
DEPLOYMENTS = {
    ONBOARD: _Deployment(jobs.onboard, "cpu"),
    # a run that writes to its worker's terminal dies with the worker
    FINETUNE: _Deployment(jobs.finetune, "gpu", limit=1, variables={"stream_output": False}),
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


def deploy_all(url: str) -> dict[str, Any]:
    """Set a server up; returns what `headstart deploy --json` prints. Done again, it changes nothing.

    Raises
    ------
    ConflictError
        When the server refuses something.
    """
    with explained(url), get_client(sync_client=True) as client:
        return {
            "server": url,
            "pools": [_make_pool(client, name, description) for name, description in POOLS.items()],
            "deployments": [_apply(client, name, deployment) for name, deployment in DEPLOYMENTS.items()],
            "automations": [_put(client, _crashing(*row)) for row in LOST_RUNS],
        }


def _make_pool(client: SyncPrefectClient, name: str, description: str) -> dict[str, Any]:
    """Make a work pool of processes, unless there is one of the name: it may be of containers, or set up otherwise."""
    try:
        pool, done = client.read_work_pool(name), "found"
    except ObjectNotFound:
        template = ProcessWorker.get_default_base_job_template()
        wanted = WorkPoolCreate(name=name, type="process", description=description, base_job_template=template)
        pool, done = client.create_work_pool(wanted), "made"
    return {"name": pool.name, "type": pool.type, "done": done}


def _apply(client: SyncPrefectClient, name: str, wanted: _Deployment) -> dict[str, Any]:
    try:
        client.read_deployment_by_name(name)
        done = "updated"
    except ObjectNotFound:
        done = "made"
    limit = wanted.limit and ConcurrencyLimitConfig(
        limit=wanted.limit, collision_strategy=ConcurrencyLimitStrategy.ENQUEUE
    )
    deployment: Any = wanted.flow.to_deployment(
        name=name.partition("/")[2],
        description=wanted.flow.description,
        version=version("headstart"),
        tags=[TAG],
        work_pool_name=wanted.pool,
        concurrency_limit=limit,
        job_variables={"env": ENVIRONMENT, **wanted.variables},
        entrypoint_type=EntrypointType.MODULE_PATH,  # the worker's own installation, wherever that is
    )
    try:
        deployment.apply()
    except DeploymentApplyError as error:
        raise ConflictError(f"The server refused the deployment '{name}': {error}") from error
    return {"name": name, "pool": wanted.pool, "limit": wanted.limit, "done": done}


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
