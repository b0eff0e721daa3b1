"""What is amiss on a Prefect server: who reaches it, its pools and workers, and what `headstart deploy` made there.

Heavy leaf: importing it loads Prefect.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from prefect.client.schemas.objects import Worker, WorkerStatus
from prefect.client.schemas.responses import GlobalConcurrencyLimitResponse

from flows.doctor.check import Check, or_ok, some, span
from flows.doctor.runs import check_runs
from flows.doctor.server_state import Access, ServerState, read_server
from flows.service.client import RUNS_AT_A_TIME
from flows.service.deploy import LOST_RUNS, POOLS, describe_schedule
from flows.settings import tells_nobody

DEPLOYMENTS = ("onboard", "refresh", "extract", "fine-tune", "predict-batch", "verify", "gc")  # flow and deployment
DEPLOY = "headstart deploy"
ACCESS = "access"
NEEDED_POOL = "cpu"  # without a worker of gpu, only fine-tuning waits
CLOCK_SECONDS = 30.0  # apart; runs are late or lost by comparing clocks
SETTLE = timedelta(minutes=2)  # the scheduler looks once a minute
FURTHEST = timedelta(days=100)  # ahead of which Prefect makes no runs
LEASE = timedelta(seconds=330)  # then a place that nobody holds has been free again
LISTENING = ("/proc/net/tcp", "/proc/net/tcp6")


def check_server(url: str) -> list[Check]:
    """Check a server that answers.

    Raises
    ------
    ConflictError
        It refuses, as where it wants credentials.
    ServerUnreachableError
        It went away.
    """
    return judge(read_server(url))


def judge(state: ServerState) -> list[Check]:
    """Say what is amiss on a server."""
    return [
        Check("server", "ok", f"It answers at {state.url}."),
        _check_access(state.url, state.access),
        _check_version(state.version),
        _check_clocks(state.access),
        _check_telemetry(state),
        *_check_pools(state),
        *or_ok(_check_deployments(state), "deployments", f"All {len(DEPLOYMENTS)} are of headstart {_ours()}."),
        *or_ok(_check_automations(state), "automations", "Lost runs are noticed."),
        *(_check_made(state) if state.deployments else ()),
        *check_runs(state),
    ]


# ── the server itself ────────────────────────────────────────────────────────────────────────────


def _check_access(url: str, access: Access) -> Check:
    if access.is_open is None:
        return Check(ACCESS, "skipped", "Whether it answers without credentials could not be asked.")
    if not access.is_open:
        return Check(ACCESS, "ok", "It wants credentials, and takes ours.")
    if is_loopback(url) and not _listens_outside(url):
        return Check(ACCESS, "ok", "It needs no credentials, and answers on this machine only.")
    advice = (
        "Start it with --host 127.0.0.1, or with PREFECT_SERVER_API_AUTH_STRING; clients set PREFECT_API_AUTH_STRING."
    )
    return Check(ACCESS, "warning", "Whoever reaches it over the network can run anything.", advice)


def is_loopback(url: str) -> bool:
    """Tell whether a URL can only mean this machine."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _listens_outside(url: str) -> bool:
    """Tell whether something on this machine listens on a URL's port at every address, as far as Linux says."""
    port = f"{urlsplit(url).port or 80:04X}"
    for path in map(Path, LISTENING):
        rows = path.read_text().splitlines()[1:] if path.exists() else []
        for fields in map(str.split, rows):  # number, local address:port, remote, state: 0A is listening
            address, _, listening = fields[1].partition(":")
            if fields[3] == "0A" and listening == port and not address.strip("0"):
                return True
    return False


def _check_version(found: str) -> Check:
    ours = version("prefect")
    if found == ours:
        return Check("server version", "ok", f"Prefect {found}, as here.")
    advice = f'Install the same on both sides; headstart was tested with this one: pip install "prefect=={ours}"'
    return Check("server version", "problem", f"Prefect {found} there, {ours} here.", advice)


def _check_clocks(access: Access) -> Check:
    apart = access.seconds_ahead
    if abs(apart) <= CLOCK_SECONDS:
        return Check("clocks", "ok", "The server's agrees with this machine's.")
    found = f"The server's is {span(abs(apart))} {'ahead of' if apart > 0 else 'behind'} this machine's."
    return Check("clocks", "warning", found, "Set both by NTP: runs are taken for late or lost by comparing clocks.")


def _check_telemetry(state: ServerState) -> Check:
    talks = {
        "the server (PREFECT_SERVER_ANALYTICS_ENABLED=false turns that off)": state.tells_usage,
        "commands started here (DO_NOT_TRACK=1 turns that off)": not tells_nobody(),
    }
    if not any(talks.values()):
        return Check("telemetry", "ok", "Off, on the server and for what is started here.")
    found = f"Prefect's makers are told about usage by {' and '.join(who for who, tells in talks.items() if tells)}."
    return Check("telemetry", "warning", found, "Set it where that is started, then start it anew.")


# ── pools and workers ────────────────────────────────────────────────────────────────────────────


def _check_pools(state: ServerState) -> Iterator[Check]:
    yield from _missing("pools", POOLS, state.pools)
    for name, pool in state.pools.items():
        if name not in POOLS:
            continue
        if pool.is_paused:
            found = f"{name}: it is paused, and none of its runs begins."
            yield Check("pools", "problem", found, f"Let it go on: prefect work-pool resume {name}")
        yield _check_workers(name, state.workers[name], state)


def _check_workers(pool: str, workers: list[Worker], state: ServerState) -> Check:
    online = [worker for worker in workers if worker.status is WorkerStatus.ONLINE]
    heard = max((worker.last_heartbeat_time for worker in workers if worker.last_heartbeat_time), default=None)
    ago = f"the last was heard of {span((state.access.now - heard).total_seconds())} ago" if heard else "none ever was"
    if online:
        return Check("workers", "ok", f"{pool}: {some(worker.name for worker in online)}; {ago}.")
    advice = f"Start one: prefect worker start --pool {pool} --limit {RUNS_AT_A_TIME.get(pool, 1)}"
    waits = "" if pool == NEEDED_POOL else " Fine-tuning waits; all else works."
    found = f"{pool}: none is online; {ago}.{waits}"
    return Check("workers", "problem" if pool == NEEDED_POOL else "warning", found, advice)


# ── what `headstart deploy` made ─────────────────────────────────────────────────────────────────


def _missing(name: str, wanted: Iterable[str], found: Iterable[str]) -> Iterator[Check]:
    """Name in one line what is not there."""
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
            told = f"{name}: it is of headstart {found.version or 'unknown'}, and {_ours()} is installed here."
            yield Check(
                "deployments", "warning", told, f"{DEPLOY}, and start the workers anew with the same headstart."
            )
        if found.paused:
            told = f"{name}: it is paused, and its schedules make no runs."
            yield Check("deployments", "warning", told, f"Resume it on its page in the UI, or: {DEPLOY}")


def _short(full_name: str) -> str:
    flow, _, name = full_name.partition("/")
    return name if flow == name else full_name


def _check_made(state: ServerState) -> Iterator[Check]:
    limits = "Each deployment has one; no place is held by a run that has ended."
    yield from or_ok(_check_limits(state), "limits", limits)
    yield from _check_schedules(state)


def _check_limits(state: ServerState) -> Iterator[Check]:
    for full_name, found in state.deployments.items():
        name, limit = _short(full_name), found.global_concurrency_limit
        if limit is None:
            yield Check("limits", "warning", f"{name}: any number may run at a time.", f"Make it: {DEPLOY}")
            continue
        if not limit.active:
            told = f"{name}: it is switched off, and then Prefect gives no run a place."
            yield Check("limits", "problem", told, f"Switch it on: prefect gcl update {limit.name} --enable")
        num_runs = sum(run.deployment_id == found.id for run in state.begun)
        if limit.active_slots > num_runs:
            yield _held(name, limit, num_runs, _has_settled(state, limit.updated, LEASE))


def _held(name: str, limit: GlobalConcurrencyLimitResponse, num_runs: int, has_settled: bool) -> Check:
    """Places that no run holds: a lease ends by itself, and what is still held then must be given back."""
    found = f"{name}: {limit.active_slots} of {limit.limit} places are held, by {num_runs} runs."
    if not has_settled:
        return Check("limits", "warning", found, "Places of lost runs come free after 5 minutes; look again then.")
    advice = f"Give them back: prefect gcl update {limit.name} --active-slots {num_runs}"
    return Check("limits", "problem", found, advice)


def _check_automations(state: ServerState) -> Iterator[Check]:
    names = [name for name, *_ in LOST_RUNS]
    yield from _missing("automations", names, state.automations)
    for name in names:
        if not state.automations.get(name, True):
            yield Check("automations", "problem", f"'{name}' is switched off.", f'prefect automation resume "{name}"')


def _check_schedules(state: ServerState) -> list[Check]:
    """Every schedule that is active must have made runs: a scheduler that fails says so nowhere but in its log."""
    names, findings = [], []
    for full_name, found in state.deployments.items():
        for schedule in found.schedules if not found.paused else ():
            if not schedule.active:
                continue
            name = f"{_short(full_name)} {describe_schedule(schedule.schedule)}"
            names.append(name)
            is_due = _has_settled(state, schedule.updated) and not _is_rare(schedule.schedule)
            if is_due and schedule.id not in state.scheduled:
                findings.append(_makes_no_runs(name))
    if not names:
        advice = "Switch one on in the UI, or write it into a copy of prefect.yaml: headstart deploy --file COPY"
        return [Check("schedules", "warning", "None is active: nothing runs by itself.", advice)]
    return or_ok(findings, "schedules", f"{len(names)} active, with runs to come: {some(names)}.")


def _makes_no_runs(schedule: str) -> Check:
    advice = (
        "The server's scheduler does not work. Install SQLAlchemy below 2.1 where the server runs "
        '(pip install "sqlalchemy<2.1"), see that its services are not switched off, and start it anew.'
    )
    return Check("schedules", "problem", f"{schedule}: it is active, and has no run to come.", advice)


def _is_rare(schedule: Any) -> bool:
    """Tell whether the next run may be further away than Prefect makes runs for."""
    if interval := getattr(schedule, "interval", None):
        return bool(interval >= FURTHEST)
    fields = str(getattr(schedule, "cron", "")).split()
    return len(fields) != len("mhdMw") or fields[3] != "*"  # of some months, or a rule of another kind


def _has_settled(state: ServerState, updated: datetime | None, after: timedelta = SETTLE) -> bool:
    return updated is None or state.access.now - updated > after
