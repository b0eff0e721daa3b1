"""The state of a Prefect server as far as headstart needs it, read in a few requests that change nothing.

Heavy leaf: importing it loads Prefect.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
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


@dataclass(frozen=True, slots=True)
class ServerState:
    """A server at one moment; of its deployments and runs, those of headstart."""

    url: str
    is_open: bool | None  # it answers a request without credentials; None: that request failed
    now: datetime
    version: str  # of Prefect
    pools: Mapping[str, WorkPool]
    workers: Mapping[str, list[Worker]]  # by pool, also those that stopped long ago
    deployments: Mapping[str, DeploymentResponse]  # by flow/deployment
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
    now: Any = datetime.now(UTC)  # Prefect declares another type of time for each Python
    past, future = FlowRunFilterExpectedStartTime(before_=now), FlowRunFilterExpectedStartTime(after_=now)
    lately = FlowRunFilterEndTime(after_=now - FAILED_WITHIN)
    with explained(url), get_client(sync_client=True) as client:
        version = client.api_version()  # the first that needs credentials
        pools = {pool.name: pool for pool in client.read_work_pools() if pool.name in POOLS}
        deployments = read_deployments(client)
        active = [row.id for found in deployments.values() for row in found.schedules if row.active]
        scheduled = [  # one request for each, because one schedule may make hundreds of runs
            schedule
            for schedule in active
            if _runs(
                client,
                StateType.SCHEDULED,
                limit=1,
                created_by=FlowRunFilterCreatedBy(id_=[schedule]),
                expected_start_time=future,
            )
        ]
        return ServerState(
            url=hide_password(url),
            is_open=_answers_without_credentials(url),
            now=now,
            version=version,
            pools=pools,
            workers={name: client.read_workers_for_work_pool(name) for name in pools},
            deployments=deployments,
            due=_runs(client, StateType.SCHEDULED, expected_start_time=past),
            failed=_runs(client, StateType.FAILED, StateType.CRASHED, end_time=lately),
            scheduled=frozenset(scheduled),
        )


def _answers_without_credentials(url: str) -> bool | None:
    """Ask without Prefect's client, which would send them."""
    try:
        urlopen(f"{hide_password(url).rstrip('/')}/admin/version", timeout=ANSWER_SECONDS).close()
        return True
    except HTTPError as error:
        return False if error.code in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN) else None
    except (OSError, ValueError):  # a certificate that only Prefect's settings know
        return None


def _runs(client: SyncPrefectClient, *states: StateType, limit: int = MOST_RUNS, **wanted: Any) -> list[FlowRun]:
    of_headstart = FlowRunFilter(
        tags=FlowRunFilterTags(all_=[TAG]),
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=list(states))),
        **wanted,
    )
    return client.read_flow_runs(flow_run_filter=of_headstart, sort=FlowRunSort.EXPECTED_START_TIME_DESC, limit=limit)
