"""Doctor's findings about a Prefect server: access, workers, what `headstart deploy` made there, and runs.

Heavy leaf: importing it loads Prefect.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator
from datetime import timedelta
from importlib.metadata import version
from typing import Any
from urllib.parse import urlsplit

from prefect.client.schemas.objects import WorkerStatus

from flows.doctor.check import Check, or_ok, some, span
from flows.doctor.server_state import ServerState
from flows.service.client import RUNS_AT_A_TIME
from flows.service.deploy import POOLS, describe_schedule

DEPLOYMENTS = ("onboard", "refresh", "extract", "fine-tune", "predict-batch", "verify", "gc")  # flow and deployment
DEPLOY = "headstart deploy"
ACCESS = "access"
NEEDED_POOL = "cpu"  # without a worker for gpu, only fine-tuning waits
SETTLE = timedelta(minutes=2)  # the scheduler looks once a minute
FURTHEST = timedelta(days=100)  # Prefect makes no run that is further ahead
LATE_SECONDS = 600.0


def judge(state: ServerState) -> list[Check]:
    """Check what was read of a server that answers."""
    here = version("headstart")
    return [
        Check("server", "ok", f"It answers at {state.url}."),
        _check_access(state.url, state.is_open),
        _check_version(state.version),
        *_missing("pools", POOLS, state.pools),
        *_check_workers(state),
        *or_ok(_check_deployments(state, here), "deployments", f"All {len(DEPLOYMENTS)} are of headstart {here}."),
        *(_check_schedules(state) if state.deployments else ()),
        *or_ok(_check_late(state), "late runs", f"None has waited for longer than {span(LATE_SECONDS)}."),
        *or_ok(_check_failed(state), "failed runs", "None in the last 24 hours."),
    ]


def _check_access(url: str, is_open: bool | None) -> Check:
    if is_open is None:
        return Check(ACCESS, "skipped", "Whether it answers without credentials could not be asked.")
    if not is_open:
        return Check(ACCESS, "ok", "It wants credentials, and accepts the ones set here.")
    if _is_loopback(url):
        return Check(ACCESS, "ok", "It has no password. That is safe as long as it listens on 127.0.0.1 only.")
    advice = (
        "Start it with --host 127.0.0.1, or with PREFECT_SERVER_API_AUTH_STRING; clients set PREFECT_API_AUTH_STRING."
    )
    found = "It has no password: anyone who can reach it can run code on your workers."
    return Check(ACCESS, "warning", found, advice)


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _check_version(found: str) -> Check:
    here = version("prefect")
    if found == here:
        return Check("server version", "ok", f"Prefect {found}, the same as here.")
    advice = f'Install the same on both sides; headstart was tested with this one: pip install "prefect=={here}"'
    return Check("server version", "problem", f"Prefect {found} there, {here} here.", advice)


def _missing(name: str, wanted: Iterable[str], found: Iterable[str]) -> Iterator[Check]:
    """Name everything that is missing in one line."""
    known = set(found)
    if missing := [one for one in wanted if one not in known]:
        yield Check(name, "problem", f"Missing: {', '.join(missing)}.", f"Make them: {DEPLOY}")


def _check_workers(state: ServerState) -> Iterator[Check]:
    for pool, found in state.pools.items():
        if found.is_paused:
            told = f"{pool}: it is paused, so none of its runs starts."
            yield Check("pools", "problem", told, f"Resume it: prefect work-pool resume {pool}")
        heard = max((row.last_heartbeat_time for row in state.workers[pool] if row.last_heartbeat_time), default=None)
        ago = f"last heartbeat {span((state.now - heard).total_seconds())} ago" if heard else "none ever was"
        if online := _online(state, pool):
            yield Check("workers", "ok", f"{pool}: {some(online)}; {ago}.")
            continue
        advice = f"Start one: prefect worker start --pool {pool} --limit {RUNS_AT_A_TIME.get(pool, 1)}"
        waits = "" if pool == NEEDED_POOL else " Fine-tuning waits; everything else works."
        told = f"{pool}: no worker is online; {ago}.{waits}"
        yield Check("workers", "problem" if pool == NEEDED_POOL else "warning", told, advice)


def _online(state: ServerState, pool: str) -> list[str]:
    return [worker.name for worker in state.workers.get(pool, ()) if worker.status is WorkerStatus.ONLINE]


def _check_deployments(state: ServerState, here: str) -> Iterator[Check]:
    yield from _missing("deployments", DEPLOYMENTS, map(_short, state.deployments))
    for full_name, found in state.deployments.items():
        name = _short(full_name)
        if found.version != here:
            told = f"{name}: it is of headstart {found.version or 'unknown'}, but {here} is installed here."
            advice = f"{DEPLOY}, and restart the workers with the same headstart."
            yield Check("deployments", "warning", told, advice)
        if found.paused:
            told = f"{name}: it is paused, so its schedules make no runs."
            yield Check("deployments", "warning", told, f"Resume it on its page in the UI, or: {DEPLOY}")


def _short(full_name: str) -> str:
    flow, _, name = full_name.partition("/")
    return name if flow == name else full_name


def _check_schedules(state: ServerState) -> list[Check]:
    """Every active schedule must have made future runs: a scheduler that fails says so in its log only."""
    names, findings = [], []
    for full_name, found in state.deployments.items():
        for row in found.schedules if not found.paused else ():
            if row.active:
                name = f"{_short(full_name)} {describe_schedule(row.schedule)}"
                names.append(name)
                is_new = row.updated is not None and state.now - row.updated <= SETTLE
                if row.id not in state.scheduled and not is_new and not _is_rare(row.schedule):
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


def _check_late(state: ServerState) -> Iterator[Check]:
    """Find runs that wait. If their pool has a worker, it may be busy, which is a warning only."""
    late: dict[str, list[tuple[float, str]]] = {}
    for run in reversed(state.due):  # the oldest first
        waited = (state.now - run.next_scheduled_start_time).total_seconds() if run.next_scheduled_start_time else 0.0
        if waited > LATE_SECONDS:
            late.setdefault(run.work_pool_name or "none", []).append((waited, run.name))
    for pool, runs in late.items():
        names = some(name for _, name in runs)
        found = f"{len(runs)} of pool {pool} have waited for up to {span(max(runs)[0])}: {names}."
        if online := _online(state, pool):
            advice = f"If {some(online)} is busy, start another worker, or give it a higher --limit; else see its log."
            yield Check("late runs", "warning", found, advice)
        else:
            yield Check("late runs", "problem", found, f"Start a worker: prefect worker start --pool {pool}")


def _check_failed(state: ServerState) -> Iterator[Check]:
    if state.failed:
        names = some(f"{run.name} ({run.state.name if run.state else 'unknown'})" for run in state.failed)
        advice = f"The end of its log says why: prefect flow-run logs --tail {state.failed[0].id}"
        yield Check("failed runs", "warning", f"{len(state.failed)} in the last 24 hours: {names}.", advice)
