"""What a Prefect server knows of us, read in a few requests that change nothing.

Heavy leaf: importing it loads Prefect.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterTags,
    FlowRunFilter,
    FlowRunFilterCreatedBy,
    FlowRunFilterEndTime,
    FlowRunFilterExpectedStartTime,
    FlowRunFilterState,
    FlowRunFilterStateType,
    FlowRunFilterTags,
)
from prefect.client.schemas.objects import FlowRun, StateType, Worker, WorkPool
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.sorting import FlowRunSort
from prefect.events.filters import EventFilter, EventNameFilter, EventOccurredFilter, EventResourceFilter

from flows.service.client import ANSWER_SECONDS, MOST_RUNS, TAG, explained, hide_password
from flows.service.deploy import HEARTBEAT, POOLS

FAILED_WITHIN = timedelta(days=1)
BEGUN = [StateType.RUNNING, StateType.PENDING, StateType.CANCELLING]  # they hold a place of their deployment's limit
REFUSED = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)
MOST_ASKED_FOR = 20  # running runs whose last heartbeat is asked for, one request each


@dataclass(frozen=True, slots=True)
class Access:
    """What a stranger sees of a server."""

    is_open: bool | None  # answers without credentials; None: could not be asked
    now: datetime  # by the server's clock
    seconds_ahead: float  # of the server's clock to ours; Prefect compares the two


@dataclass(frozen=True, slots=True)
class ServerState:
    """A server at one moment, of ours only."""

    url: str
    access: Access
    version: str  # of Prefect
    tells_usage: bool  # to Prefect's makers
    pools: Mapping[str, WorkPool]
    workers: Mapping[str, list[Worker]]  # by pool, also those long gone
    deployments: Mapping[str, DeploymentResponse]  # by flow/deployment
    automations: Mapping[str, bool]  # name -> whether it is enabled
    begun: list[FlowRun]  # and not ended
    due: list[FlowRun]  # scheduled for a time that is past
    failed: list[FlowRun]  # lately; the newest is the first
    heard: Mapping[UUID, datetime]  # running run -> its last heartbeat
    scheduled: frozenset[UUID]  # schedules of which a run is to come


def read_server(url: str) -> ServerState:
    """Read what there is to know.

    Raises
    ------
    ConflictError
        The server refuses, as where it wants credentials.
    ServerUnreachableError
        It went away.
    """
    access = read_access(url)
    with explained(url), get_client(sync_client=True) as client:
        version = client.api_version()  # the first that needs credentials
        pools = {pool.name: pool for pool in client.read_work_pools()}
        deployments = _read_deployments(client)
        begun = _runs(client, state=_of(BEGUN))
        return ServerState(
            url=hide_password(url),
            access=access,
            version=version,
            tells_usage=bool(client.request("GET", "/admin/settings").json()["server"]["analytics_enabled"]),
            pools=pools,
            workers={name: client.read_workers_for_work_pool(name) for name in POOLS if name in pools},
            deployments=deployments,
            automations={found.name: found.enabled for found in client.read_automations()},
            begun=begun,
            due=_runs(
                client, state=_of([StateType.SCHEDULED]), expected_start_time=_before(access.now), limit=MOST_RUNS
            ),
            failed=_runs(
                client,
                state=_of([StateType.FAILED, StateType.CRASHED]),
                end_time=FlowRunFilterEndTime(after_=_time(access.now - FAILED_WITHIN)),
            ),
            heard=_read_heartbeats(client, begun),
            scheduled=_read_scheduled(client, deployments.values(), access.now),
        )


def read_access(url: str) -> Access:
    """Ask as somebody who has no credentials. Not through Prefect, which would send ours."""
    here, is_open = datetime.now(UTC), None
    try:
        with urlopen(f"{hide_password(url).rstrip('/')}/admin/version", timeout=ANSWER_SECONDS) as answer:
            is_open, date = True, answer.headers["date"]
    except HTTPError as error:
        if error.code in REFUSED:
            is_open = False
        date = error.headers["date"]
        error.close()
    except (OSError, ValueError):  # a certificate that only Prefect's settings know
        date = None
    now = parsedate_to_datetime(date) if date else here
    return Access(is_open, now, (now - here).total_seconds())


def _read_deployments(client: SyncPrefectClient) -> dict[str, DeploymentResponse]:
    ours = DeploymentFilter(tags=DeploymentFilterTags(all_=[TAG]))
    flows = {flow.id: flow.name for flow in client.read_flows(deployment_filter=ours)}
    found = client.read_deployments(deployment_filter=ours)
    return {f"{flows.get(row.flow_id, '?')}/{row.name}": row for row in found}


def _runs(client: SyncPrefectClient, limit: int = MOST_RUNS, **wanted: Any) -> list[FlowRun]:
    ours = FlowRunFilter(tags=FlowRunFilterTags(all_=[TAG]), **wanted)
    return client.read_flow_runs(flow_run_filter=ours, sort=FlowRunSort.EXPECTED_START_TIME_DESC, limit=limit)


def _of(types: list[StateType]) -> FlowRunFilterState:
    return FlowRunFilterState(type=FlowRunFilterStateType(any_=types))


def _before(now: datetime) -> FlowRunFilterExpectedStartTime:
    return FlowRunFilterExpectedStartTime(before_=_time(now))


def _time(moment: datetime) -> Any:
    """Prefect's type of a time is another to a type checker on each Python."""
    return moment


def _read_heartbeats(client: SyncPrefectClient, begun: Iterable[FlowRun]) -> dict[UUID, datetime]:
    heard: dict[UUID, datetime] = {}
    running = [(run, run.start_time) for run in begun if run.state and run.state.is_running() and run.start_time]
    for run, began in running[:MOST_ASKED_FOR]:
        wanted = EventFilter(
            occurred=EventOccurredFilter(since=_time(began)),
            event=EventNameFilter(name=[HEARTBEAT]),
            resource=EventResourceFilter(id=[f"prefect.flow-run.{run.id}"]),
        )
        events = client.read_events(wanted, limit=1).events  # the newest is the first
        heard[run.id] = max((event.occurred for event in events), default=began)
    return heard


def _read_scheduled(
    client: SyncPrefectClient, deployments: Iterable[DeploymentResponse], now: datetime
) -> frozenset[UUID]:
    """Find the schedules that have made a run to come; each is asked for alone, as one may make hundreds."""
    active = [row.id for found in deployments for row in found.schedules if row.active]
    return frozenset(
        schedule
        for schedule in active
        if _runs(
            client,
            limit=1,
            state=_of([StateType.SCHEDULED]),
            created_by=FlowRunFilterCreatedBy(id_=[schedule]),
            expected_start_time=FlowRunFilterExpectedStartTime(after_=_time(now)),
        )
    )
