"""The state of a Prefect server as far as headstart needs it, read in a few requests that change nothing.

Heavy leaf: importing it loads Prefect.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
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

from flows.service.client import ANSWER_SECONDS, MOST_RUNS, TAG, explained, hide_password
from flows.service.deploy import POOLS, read_deployments

FAILED_WITHIN = timedelta(days=1)
BEGUN = [StateType.RUNNING, StateType.PENDING, StateType.CANCELLING]
REFUSED = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)


@dataclass(frozen=True, slots=True)
class Access:
    """What a server answers to a request without credentials."""

    is_open: bool | None  # it answers the request; None: the request failed
    now: datetime  # by the server's clock
    seconds_ahead: float  # of the server's clock to this machine's


@dataclass(frozen=True, slots=True)
class ServerState:
    """A server at one moment; of its deployments and runs, those of headstart."""

    url: str
    access: Access
    version: str  # of Prefect
    tells_usage: bool  # to Prefect's makers
    pools: Mapping[str, WorkPool]
    workers: Mapping[str, list[Worker]]  # by pool, also those that stopped long ago
    deployments: Mapping[str, DeploymentResponse]  # by flow/deployment
    automations: Mapping[str, bool]  # name -> whether it is enabled
    begun: list[FlowRun]  # and not ended
    due: list[FlowRun]  # scheduled for a time that is past
    failed: list[FlowRun]  # in the last 24 hours; the newest is the first
    scheduled: frozenset[UUID]  # schedules that have made a future run


def read_server(url: str) -> ServerState:
    """Read everything that doctor judges.

    Raises
    ------
    ConflictError
        The server refuses, for example because it wants credentials.
    ServerUnreachableError
        It stopped answering.
    """
    access = read_access(url)
    with explained(url), get_client(sync_client=True) as client:
        version = client.api_version()  # the first that needs credentials
        pools = {pool.name: pool for pool in client.read_work_pools()}
        deployments = read_deployments(client)
        lately, now = _time(access.now - FAILED_WITHIN), _time(access.now)
        return ServerState(
            url=hide_password(url),
            access=access,
            version=version,
            tells_usage=bool(client.request("GET", "/admin/settings").json()["server"]["analytics_enabled"]),
            pools=pools,
            workers={name: client.read_workers_for_work_pool(name) for name in POOLS if name in pools},
            deployments=deployments,
            automations={found.name: found.enabled for found in client.read_automations()},
            begun=_runs(client, BEGUN),
            due=_runs(
                client,
                [StateType.SCHEDULED],
                expected_start_time=FlowRunFilterExpectedStartTime(before_=now),
            ),
            failed=_runs(client, [StateType.FAILED, StateType.CRASHED], end_time=FlowRunFilterEndTime(after_=lately)),
            scheduled=_read_scheduled(client, deployments.values(), now),
        )


def read_access(url: str) -> Access:
    """Ask without credentials. Not through Prefect's client, which would send them."""
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


def _runs(client: SyncPrefectClient, states: list[StateType], limit: int = MOST_RUNS, **wanted: Any) -> list[FlowRun]:
    ours = FlowRunFilter(
        tags=FlowRunFilterTags(all_=[TAG]),
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=states)),
        **wanted,
    )
    return client.read_flow_runs(flow_run_filter=ours, sort=FlowRunSort.EXPECTED_START_TIME_DESC, limit=limit)


def _time(moment: datetime) -> Any:
    """Hide the type of a time: Prefect declares another one for each Python."""
    return moment


def _read_scheduled(
    client: SyncPrefectClient, deployments: Collection[DeploymentResponse], now: Any
) -> frozenset[UUID]:
    """Find the schedules that have made a future run; one request each, because one schedule may make hundreds."""
    active = [row.id for found in deployments for row in found.schedules if row.active]
    return frozenset(
        schedule
        for schedule in active
        if _runs(
            client,
            [StateType.SCHEDULED],
            limit=1,
            created_by=FlowRunFilterCreatedBy(id_=[schedule]),
            expected_start_time=FlowRunFilterExpectedStartTime(after_=now),
        )
    )
