"""Is a workspace fit to work in: its disk, its locks, and what earlier processes left behind there?"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from shlex import quote

from flows.doctor.check import Check, of_error, or_ok, some, span
from flows.settings import workspace_root
from pipeline.errors import ConflictError, HeadstartError, NotFoundError
from storage.datasets.manifests import find_dataset, list_names
from storage.disk.atomic import abandoned
from storage.features.catalog import Catalog
from storage.features.spaces import list_spaces
from storage.jobs.folder import JobState, list_jobs
from storage.maintenance.health import (
    Holder,
    find_holders,
    list_claims,
    list_lockable,
    locks_after_writing,
    measure_room,
)
from storage.workspace import Workspace

GB = 1_000_000_000
# of the disk, free: below either of a pair it is a finding, unless there is room enough in any case
PROBLEM_BYTES, PROBLEM_SHARE = 1 * GB, 0.02
WARNING_BYTES, WARNING_SHARE = 5 * GB, 0.10
ENOUGH_BYTES = 50 * GB
DAY_SECONDS = 86_400.0
MEND = "headstart verify says what is damaged, and sets right what can be."
SILENT_SECONDS = 3_600.0  # of a running job, which writes a checkpoint every two minutes


def check_workspace(root: str) -> list[Check]:
    """Check the workspace; where there is none yet, only the disk it would lie on."""
    room = _guarded("disk", lambda: list(_check_room(root)))
    try:
        workspace = Workspace.open(root, create=False)
    except NotFoundError:
        advice = "It is made on first use: headstart onboard DIR. Or name another with --workspace or HEADSTART_HOME."
        return [Check("workspace", "warning", f"There is none at {root} yet.", advice), *room]
    except HeadstartError as error:
        return [of_error("workspace", error, MEND), *room]
    lockable = _guarded("workspace", lambda: _check_writing(workspace))
    return [
        *lockable,
        *room,
        *_guarded("catalog", lambda: or_ok(_check_catalog(workspace), "catalog", "It can be read.")),
        *_guarded("datasets", lambda: list(_check_datasets(workspace))),
        *_guarded("leftovers", lambda: or_ok(_check_leftovers(workspace), "leftovers", "Nothing was left behind.")),
        *_guarded("locks", lambda: list(_check_locks(workspace))),
        *_guarded("jobs", lambda: list(_check_jobs(workspace))),
    ]


def _guarded(name: str, examine: Callable[[], list[Check]]) -> list[Check]:
    """What cannot be looked at is a finding; the other checks go on."""
    try:
        return examine()
    except HeadstartError as error:
        return [of_error(name, error, MEND)]
    except OSError as error:
        found = f"Cannot read {error.filename}: {error.strerror}."
        return [Check(name, "problem", found, "See that whoever runs headstart may read and write it.")]


def _check_writing(workspace: Workspace) -> list[Check]:
    try:
        has_locks = locks_after_writing(workspace)
    except ConflictError as error:
        return [of_error("workspace", error, "Make it writable for whoever runs headstart.")]
    where = str(workspace.root)
    if not has_locks:
        advice = "Move it to a file system with locks (flock): what others are using cannot be known here."
        return [Check("workspace", "problem", f"The file system of {where} has no locks.", advice)]
    return [Check("workspace", "ok", f"{where} can be written, and has locks.")]


def _check_room(root: str) -> Iterator[Check]:
    room = measure_room(Path(root).absolute())
    share = room.free_bytes / max(1, room.total_bytes)
    found = f"{room.free_bytes / GB:,.1f} GB free, {share:.0%} of the disk."
    advice = "headstart gc --delete removes what nothing needs; --max-size SIZE keeps to a size."
    if room.free_bytes >= ENOUGH_BYTES:
        yield Check("disk", "ok", found)
    elif room.free_bytes < PROBLEM_BYTES or share < PROBLEM_SHARE:
        yield Check("disk", "problem", found, advice)
    elif room.free_bytes < WARNING_BYTES or share < WARNING_SHARE:
        yield Check("disk", "warning", found, advice)
    else:
        yield Check("disk", "ok", found)
    if room.total_files and room.free_files < PROBLEM_SHARE * room.total_files:
        files = f"{room.free_files:,} of {room.total_files:,} inodes are free."
        yield Check("disk", "problem", files, "Remove files of others from this disk, or move the workspace.")


def _check_catalog(workspace: Workspace) -> Iterator[Check]:
    catalog, spaces = Catalog(workspace), list_spaces(workspace)
    if not catalog.path.exists():
        if any(any(workspace.shards(space.id)) for space in spaces):
            advice = "The next run builds it anew from the shards; headstart verify does so now."
            yield Check("catalog", "warning", f"{catalog.path} is gone.", advice)
        return
    for space in spaces:
        catalog.state(space)  # raises where it cannot be read


def _check_datasets(workspace: Workspace) -> Iterator[Check]:
    known = list_names(workspace)
    num_gone = 0
    for name in known:
        ref = find_dataset(workspace, name)
        if ref and not Path(ref.root).exists():
            num_gone += 1
            advice = f"Mount it again, or say where it is now: headstart onboard DIR --name {name}{_where(workspace)}"
            yield Check("datasets", "warning", f"The pictures of {name} are gone: {ref.root}", advice)
    if not num_gone:
        found = f"{len(known)} known, and their pictures are where they were." if known else "None is known yet."
        yield Check("datasets", "ok", found)


# ── what others hold, and what they left ─────────────────────────────────────────────────────────


def _check_leftovers(workspace: Workspace) -> Iterator[Check]:
    delete = f"headstart gc --delete{_where(workspace)}"
    if damaged := sorted(path.name for path in workspace.quarantine.glob("*")):
        advice = f"headstart verify{_where(workspace)} says if more is damaged; {delete} removes what is a day old."
        found = f"{len(damaged)} damaged files are in {workspace.quarantine}: {some(damaged)}"
        yield Check("quarantine", "warning", found, advice)
    if left := list(abandoned(workspace.staging, DAY_SECONDS)):
        found = f"{len(left)} files in {workspace.staging} were left by processes that ended early, a day ago or more."
        yield Check("leftovers", "warning", found, f"Remove them: {delete}")
    if dead := [claim for claim in list_claims(workspace) if not claim.is_held]:
        num_pictures = sum(claim.num_pictures for claim in dead)
        found = f"{len(dead)} claims on {num_pictures:,} pictures are of processes that ended early."
        advice = "They hold nobody up; what was not computed is by the same command: headstart onboard DIR"
        yield Check("claims", "warning", found, advice)


def _check_locks(workspace: Workspace) -> Iterator[Check]:
    holders = find_holders(list_lockable(workspace))
    by_process: dict[Holder, list[str]] = {}
    for path, processes in holders.items():
        for holder in processes:
            by_process.setdefault(holder, []).append(_name(workspace, path))
    stale = {claim.path for claim in list_claims(workspace) if claim.is_held and claim.is_stale}
    stuck = {holder for path in stale for holder in holders.get(path, [])}
    for holder, names in by_process.items():
        who = f"Process {holder.pid} ({holder.command or 'name unknown'})"
        if holder.is_stopped:
            advice = f"Let it go on: kill -CONT {holder.pid}. Or end it: kill {holder.pid}"
            yield Check("locks", "warning", f"{who} is stopped and holds {some(names)}.", advice)
        elif holder in stuck:
            found = f"{who} has shown nothing for over 10 minutes and holds {some(names)}."
            yield Check("locks", "warning", found, f"See what it does; end it if it is stuck: kill {holder.pid}")
        else:
            yield Check("locks", "ok", f"{who} works with {some(names)}.")
    if unknown := sorted(_name(workspace, path) for path in stale - holders.keys()):
        found = f"Nothing was shown for over 10 minutes by whoever holds {some(unknown)}."
        yield Check("locks", "warning", found, "It runs on another machine or in another container: look there.")
    if not by_process and not stale:
        yield Check("locks", "ok", "Nothing is held.")


def _check_jobs(workspace: Workspace) -> Iterator[Check]:
    jobs = list_jobs(workspace)
    stopped = [job for job in jobs if job.outcome is None and not job.is_running]
    for job in stopped:
        yield _stopped(workspace, job)
    running = [job for job in jobs if job.is_running]
    for job in running:
        silent = time.time() - job.written
        holders = find_holders([workspace.job(job.id) / "lock"])
        who = some(f"process {holder.pid}" for found in holders.values() for holder in found) or "another machine"
        found = f"Job {job.id} of {job.asked.get('dataset')} is run by {who}"
        if silent > SILENT_SECONDS:
            advice = f"Stop it, then start it again; it goes on where it was: headstart jobs cancel {job.id}"
            yield Check("jobs", "warning", f"{found}, and has written nothing for {span(silent)}.", advice)
        else:
            yield Check("jobs", "ok", f"{found}.")
    if not stopped and not running:
        found = f"{len(jobs)} known, and all have ended." if jobs else "No fine-tuning was ever begun."
        yield Check("jobs", "ok", found)


def _stopped(workspace: Workspace, job: JobState) -> Check:
    """A job that has not ended and that nobody runs: it goes on, or is of no use any more."""
    dataset = str(job.asked.get("dataset"))
    ref = find_dataset(workspace, dataset) if dataset in list_names(workspace) else None
    ago = span(time.time() - job.written)
    found = f"Job {job.id} of {dataset} has not ended, and nobody has run it for {ago}."
    if ref is None or ref.fingerprint != job.asked.get("fingerprint"):
        advice = f"Its dataset has other pictures now; it may go: headstart gc --delete{_where(workspace)}"
    else:
        advice = f"Go on with it, with the options it had: headstart finetune {dataset}{_where(workspace)}"
    return Check("jobs", "warning", found, advice)


def _name(workspace: Workspace, path: Path) -> str:
    """Say what a lock is on."""
    parts = path.relative_to(workspace.root).parts
    what = {"spaces": "space", "jobs": "job", "claims": "a claim in space"}[parts[0]]
    return f"{what} {parts[1]}"


def _where(workspace: Workspace) -> str:
    """Spell out the workspace, unless it is the one that is meant anyway."""
    return "" if str(workspace.root) == str(workspace_root(None)) else f" --workspace {quote(str(workspace.root))}"
