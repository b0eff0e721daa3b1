"""Doctor's checks of a workspace: its disk and locks, its catalog and datasets, stopped jobs, leftover files."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from shlex import quote

from flows.doctor.check import Check, of_error, or_ok, some, span
from flows.settings import workspace_root
from pipeline.errors import ConflictError, HeadstartError, NotFoundError
from storage.datasets.manifests import find_dataset, list_names
from storage.disk.staging import abandoned
from storage.features.catalog import Catalog
from storage.features.spaces import list_spaces
from storage.jobs.folder import JobState, list_jobs
from storage.maintenance.health import locks_after_writing, measure_room
from storage.workspace import Workspace

GB = 1_000_000_000
# free space: less than either of a pair is a finding, unless ENOUGH_BYTES are free
PROBLEM_BYTES, PROBLEM_SHARE = 1 * GB, 0.02
WARNING_BYTES, WARNING_SHARE = 5 * GB, 0.10
ENOUGH_BYTES = 50 * GB
DAY_SECONDS = 86_400.0
MEND = "headstart verify says what is damaged, and repairs what can be repaired."
SILENT_SECONDS = 3_600.0  # of a running job, which writes a checkpoint every two minutes


def check_workspace(root: str) -> list[Check]:
    """Check the workspace; if there is none yet, only the disk that it would be on."""
    room = _guarded("disk", lambda: list(_check_room(root)))
    try:
        workspace = Workspace.open(root, create=False)
    except NotFoundError:
        advice = "It is made on first use: headstart onboard DIR. Or name another with --workspace or HEADSTART_HOME."
        return [Check("workspace", "warning", f"There is no workspace at {root} yet.", advice), *room]
    except HeadstartError as error:
        return [of_error("workspace", error, MEND), *room]
    return [
        *_guarded("workspace", lambda: [_check_writing(workspace)]),
        *room,
        *_guarded("catalog", lambda: or_ok(_check_catalog(workspace), "catalog", "It can be read.")),
        *_guarded("datasets", lambda: list(_check_datasets(workspace))),
        *_guarded("leftovers", lambda: or_ok(_check_leftovers(workspace), "leftovers", "Nothing was left behind.")),
        *_guarded("jobs", lambda: list(_check_jobs(workspace))),
    ]


def _guarded(name: str, examine: Callable[[], list[Check]]) -> list[Check]:
    """Run a check; if it cannot read something, that is its finding, and the other checks still run."""
    try:
        return examine()
    except HeadstartError as error:
        return [of_error(name, error, MEND)]
    except OSError as error:
        found = f"Cannot read {error.filename}: {error.strerror}."
        return [Check(name, "problem", found, "Let the user that runs headstart read and write it.")]


def _check_writing(workspace: Workspace) -> Check:
    try:
        has_locks = locks_after_writing(workspace)
    except ConflictError as error:
        return of_error("workspace", error, "Make it writable for the user that runs headstart.")
    if not has_locks:
        advice = "Move it to a file system with locks (flock): without them, gc cannot know what is in use."
        return Check("workspace", "problem", f"The file system of {workspace.root} has no locks.", advice)
    return Check("workspace", "ok", f"{workspace.root} can be written, and has locks.")


def _check_room(root: str) -> Iterator[Check]:
    room = measure_room(Path(root).absolute())
    free, share = room.free_bytes, room.free_bytes / max(1, room.total_bytes)
    found = f"{free / GB:,.1f} GB free, {share:.0%} of the disk."
    advice = "headstart gc --delete removes what nothing needs; --max-size SIZE keeps to a size."
    if free < ENOUGH_BYTES and (free < PROBLEM_BYTES or share < PROBLEM_SHARE):
        yield Check("disk", "problem", found, advice)
    elif free < ENOUGH_BYTES and (free < WARNING_BYTES or share < WARNING_SHARE):
        yield Check("disk", "warning", found, advice)
    else:
        yield Check("disk", "ok", found)
    if room.total_files and room.free_files < PROBLEM_SHARE * room.total_files:
        files = f"{room.free_files:,} of {room.total_files:,} inodes are free."
        yield Check("disk", "problem", files, "Remove other files from this disk, or move the workspace.")


def _check_catalog(workspace: Workspace) -> Iterator[Check]:
    catalog, spaces = Catalog(workspace), list_spaces(workspace)
    if not catalog.path.exists():
        if any(any(workspace.shards(space.id)) for space in spaces):
            advice = "The next run rebuilds it from the shards; headstart verify does so now."
            yield Check("catalog", "warning", f"{catalog.path} is missing.", advice)
        return
    for space in spaces:
        catalog.state(space)  # raises if it cannot be read


def _check_datasets(workspace: Workspace) -> Iterator[Check]:
    known = list_names(workspace)
    num_gone = 0
    for name in known:
        ref = find_dataset(workspace, name)
        if ref and not Path(ref.root).exists():
            num_gone += 1
            advice = f"Mount it again, or say where it is now: headstart onboard DIR --name {name}{_where(workspace)}"
            yield Check("datasets", "warning", f"The pictures of {name} are missing: {ref.root}", advice)
    if not num_gone:
        found = f"{len(known)} known; their folders are there." if known else "No dataset is known yet."
        yield Check("datasets", "ok", found)


def _check_leftovers(workspace: Workspace) -> Iterator[Check]:
    delete = f"headstart gc --delete{_where(workspace)}"
    if damaged := sorted(path.name for path in workspace.quarantine.glob("*")):
        advice = f"headstart verify{_where(workspace)} says if more is damaged; {delete} removes what is a day old."
        found = f"{len(damaged)} damaged files are in {workspace.quarantine}: {some(damaged)}"
        yield Check("quarantine", "warning", found, advice)
    if left := list(abandoned(workspace.staging.folder, DAY_SECONDS)):
        found = f"{len(left)} files in {left[0].parent} are from processes that ended early, a day ago or more."
        yield Check("leftovers", "warning", found, f"Remove them: {delete}")


def _check_jobs(workspace: Workspace) -> Iterator[Check]:
    jobs = list_jobs(workspace)
    open_jobs = [job for job in jobs if job.outcome is None or job.is_running]
    for job in open_jobs:
        silent = time.time() - job.written
        found = f"Job {job.id} of {job.asked.get('dataset')} is running"
        if not job.is_running:
            yield _stopped(workspace, job)
        elif silent > SILENT_SECONDS:
            advice = f"Stop it, then start it again; it continues from its checkpoint: headstart jobs cancel {job.id}"
            yield Check("jobs", "warning", f"{found}, but has written nothing for {span(silent)}.", advice)
        else:
            yield Check("jobs", "ok", f"{found}.")
    if not open_jobs:
        found = f"{len(jobs)} known; all have ended." if jobs else "No fine-tuning was started yet."
        yield Check("jobs", "ok", found)


def _stopped(workspace: Workspace, job: JobState) -> Check:
    """Say what to do with a job that has not ended and that no process runs: continue it, or remove it."""
    dataset = str(job.asked.get("dataset"))
    ref = find_dataset(workspace, dataset) if dataset in list_names(workspace) else None
    ago = span(time.time() - job.written)
    found = f"Job {job.id} of {dataset} has not ended, and no process has run it for {ago}."
    if ref is None or ref.fingerprint != job.asked.get("fingerprint"):
        advice = f"Its dataset has other pictures now. Remove the job: headstart gc --delete{_where(workspace)}"
    else:
        advice = f"Continue it with the same options: headstart finetune {dataset}{_where(workspace)}"
    return Check("jobs", "warning", found, advice)


def _where(workspace: Workspace) -> str:
    """Return the option that names the workspace, empty if it is the default one."""
    return "" if str(workspace.root) == str(workspace_root(None)) else f" --workspace {quote(str(workspace.root))}"
