"""Doctor's findings about a Prefect server: access, pools and workers, and what `headstart deploy` made there.

Heavy leaf: importing it loads Prefect.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator
from datetime import timedelta
from importlib.metadata import version
from typing import Any
from urllib.parse import urlsplit

from prefect.client.schemas.objects import Worker, WorkerStatus

from flows.doctor.check import Check, or_ok, some, span
from flows.doctor.runs import check_runs
from flows.doctor.server_state import Access, ServerState, read_server
from flows.service.client import RUNS_AT_A_TIME
from flows.service.deploy import LOST_RUNS, POOLS, describe_schedule
from flows.settings import tells_nobody

DEPLOYMENTS = ("onboard", "refresh", "extract", "fine-tune", "predict-batch", "verify", "gc")  # flow and deployment
DEPLOY = "headstart deploy"
ACCESS = "access"
NEEDED_POOL = "cpu"  # without a worker for gpu, only fine-tuning waits
SETTLE = timedelta(minutes=2)  # the scheduler looks once a minute
FURTHEST = timedelta(days=100)  # Prefect makes no run that is further ahead
CLOCK_SECONDS = 30.0  # apart; the server calls runs late or lost by comparing clocks


def check_server(url: str) -> list[Check]:
    """Check a server that answers.

    Raises
    ------
    ConflictError
        It refuses, for example because it wants credentials.
    ServerUnreachableError
        It stopped answering.
    """
    return judge(read_server(url))


def judge(state: ServerState) -> list[Check]:
    """Check what was read of a server."""
    return [
        Check("server", "ok", f"It answers at {state.url}."),
        _check_access(state.url, state.access),
        _check_version(state.version),
        _check_clocks(state.access),
        _check_telemetry(state),
        *_check_pools(state),
        *or_ok(_check_deployments(state), "deployments", f"All {len(DEPLOYMENTS)} are of headstart {_ours()}."),
        *or_ok(_check_automations(state), "automations", "Those that end lost runs are on."),
        *(_check_schedules(state) if state.deployments else ()),
        *check_runs(state),
    ]


def _check_access(url: str, access: Access) -> Check:
    if access.is_open is None:
        return Check(ACCESS, "skipped", "Whether it answers without credentials could not be asked.")
    if not access.is_open:
        return Check(ACCESS, "ok", "It wants credentials, and accepts the ones set here.")
    if is_loopback(url):
        return Check(ACCESS, "ok", "It has no password. That is safe as long as it listens on 127.0.0.1 only.")
    advice = (
        "Start it with --host 127.0.0.1, or with PREFECT_SERVER_API_AUTH_STRING; clients set PREFECT_API_AUTH_STRING."
    )
    found = "It has no password: anyone who can reach it can run code on your workers."
    return Check(ACCESS, "warning", found, advice)


def is_loopback(url: str) -> bool:
    """Tell whether a URL can only mean this machine."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _check_version(found: str) -> Check:
    ours = version("prefect")
    if found == ours:
        return Check("server version", "ok", f"Prefect {found}, the same as here.")
    advice = f'Install the same on both sides; headstart was tested with this one: pip install "prefect=={ours}"'
    return Check("server version", "problem", f"Prefect {found} there, {ours} here.", advice)


def _check_clocks(access: Access) -> Check:
    apart = access.seconds_ahead
    if abs(apart) <= CLOCK_SECONDS:
        return Check("clocks", "ok", "The server's agrees with this machine's.")
    found = f"The server's is {span(abs(apart))} {'ahead of' if apart > 0 else 'behind'} this machine's."
    return Check("clocks", "warning", found, "Set both by NTP: the server calls runs late or lost by comparing clocks.")


def _check_telemetry(state: ServerState) -> Check:
    talks = {
        "the server (PREFECT_SERVER_ANALYTICS_ENABLED=false turns that off)": state.tells_usage,
        "commands started here (DO_NOT_TRACK=1 turns that off)": not tells_nobody(),
    }
    if not any(talks.values()):
        return Check("telemetry", "ok", "Off, on the server and for what is started here.")
    found = f"Usage is reported to Prefect's makers by {' and '.join(who for who, tells in talks.items() if tells)}."
    return Check("telemetry", "warning", found, "Set it where that is started, then start it again.")


def _check_pools(state: ServerState) -> Iterator[Check]:
    yield from _missing("pools", POOLS, state.pools)
    for name, pool in state.pools.items():
        if name not in POOLS:
            continue
        if pool.is_paused:
            found = f"{name}: it is paused, so none of its runs starts."
            yield Check("pools", "problem", found, f"Resume it: prefect work-pool resume {name}")
        yield _check_workers(name, state.workers[name], state)


def _check_workers(pool: str, workers: list[Worker], state: ServerState) -> Check:
    online = [worker for worker in workers if worker.status is WorkerStatus.ONLINE]
    heard = max((worker.last_heartbeat_time for worker in workers if worker.last_heartbeat_time), default=None)
    ago = f"last heartbeat {span((state.access.now - heard).total_seconds())} ago" if heard else "none ever was"
    if online:
        return Check("workers", "ok", f"{pool}: {some(worker.name for worker in online)}; {ago}.")
    advice = f"Start one: prefect worker start --pool {pool} --limit {RUNS_AT_A_TIME.get(pool, 1)}"
    waits = "" if pool == NEEDED_POOL else " Fine-tuning waits; everything else works."
    found = f"{pool}: no worker is online; {ago}.{waits}"
    return Check("workers", "problem" if pool == NEEDED_POOL else "warning", found, advice)


def _missing(name: str, wanted: Iterable[str], found: Iterable[str]) -> Iterator[Check]:
    """Name everything that is missing in one line."""
    known = set(found)
    if missing := [one for one in wanted if one not in known]:
        yield Check(name, "problem", f"Missing: {', '.join(missing)}.", f"Make them: {DEPLOY}")


def _ours() -> str:
    return version("headstart")


def _check_deployments(state: ServerState) -> Iterator[Check]:
    yield from _missing("deployments", DEPLOYMENTS, map(_short, state.deployments))
    for full_name, found in state.deployments.items():
        name = _short(full_name)
        if found.version != _ours():
            told = f"{name}: it is of headstart {found.version or 'unknown'}, but {_ours()} is installed here."
            advice = f"{DEPLOY}, and restart the workers with the same headstart."
            yield Check("deployments", "warning", told, advice)
        if found.paused:
            told = f"{name}: it is paused, so its schedules make no runs."
            yield Check("deployments", "warning", told, f"Resume it on its page in the UI, or: {DEPLOY}")
        if (limit := found.global_concurrency_limit) and not limit.active:
            told = f"{name}: its limit is switched off, and then Prefect starts none of its runs."
            yield Check("deployments", "problem", told, f"Switch it on: prefect gcl update {limit.name} --enable")


def _short(full_name: str) -> str:
    flow, _, name = full_name.partition("/")
    return name if flow == name else full_name


def _check_automations(state: ServerState) -> Iterator[Check]:
    names = [name for name, *_ in LOST_RUNS]
    yield from _missing("automations", names, state.automations)
    for name in names:
        if not state.automations.get(name, True):
            yield Check("automations", "problem", f"'{name}' is switched off.", f'prefect automation resume "{name}"')


def _check_schedules(state: ServerState) -> list[Check]:
    """Every active schedule must have made future runs: a scheduler that fails says so in its log only."""
    names, findings = [], []
    for full_name, found in state.deployments.items():
        for schedule in found.schedules if not found.paused else ():
            if not schedule.active:
                continue
            name = f"{_short(full_name)} {describe_schedule(schedule.schedule)}"
            names.append(name)
            is_new = schedule.updated is not None and state.access.now - schedule.updated <= SETTLE
            is_due = not is_new and not _is_rare(schedule.schedule)
            if is_due and schedule.id not in state.scheduled:
                findings.append(_makes_no_runs(name))
    if not names:
        advice = "Switch one on in the UI, or write it into a copy of prefect.yaml: headstart deploy --file COPY"
        return [Check("schedules", "warning", "None is active, so nothing runs by itself.", advice)]
    return or_ok(findings, "schedules", f"{len(names)} active, each with future runs: {some(names)}.")


def _makes_no_runs(schedule: str) -> Check:
    advice = (
        "The server's scheduler does not work. Install headstart's constraints.txt where the server runs (Prefect 3.8 "
        "makes no runs with SQLAlchemy 2.1), check that its services are not switched off, and restart it."
    )
    return Check("schedules", "problem", f"{schedule}: it is active, but has no future run.", advice)


def _is_rare(schedule: Any) -> bool:
    """Tell whether the next run may be further ahead than Prefect makes runs."""
    if interval := getattr(schedule, "interval", None):
        return bool(interval >= FURTHEST)
    fields = str(getattr(schedule, "cron", "")).split()
    return len(fields) != len("mhdMw") or fields[3] != "*"  # in some months only, or another kind of rule
