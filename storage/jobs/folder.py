"""Fine-tuning jobs: one folder each, from the first request to the outcome.

jobs/<id>/job.json              what was asked
jobs/<id>/status.json           where it is
jobs/<id>/outcome.json          how it ended; a job that has one never runs again
jobs/<id>/lock                  held by the process that runs it, and let go by its death
jobs/<id>/cancel                asks that process to stop
jobs/<id>/checkpoints/<arm>/    see `storage.jobs.checkpoints`
jobs/<id>/pixels/<key>.u8       decoded pictures; derived
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.decision.finetuned import JobAsked
from pipeline.errors import ConflictError, DamagedError, NotFoundError
from pipeline.jsonable import from_json, to_json
from storage.disk.atomic import Fs, explained, make_folder, write_whole
from storage.disk.documents import read_value, write_json
from storage.disk.locks import is_locked, is_still, try_lock
from storage.disk.staging import remove_at_once
from storage.jobs.pixels import find_pixels
from storage.workspace import Workspace

if TYPE_CHECKING:
    from storage.jobs.checkpoints import Checkpoints

log = logging.getLogger(__name__)

FORMATS = {"job": "headstart.job", "status": "headstart.job-status", "outcome": "headstart.job-outcome"}
VERSION = 1
SHORTEST = 4  # letters of an id that are enough to name a job
PATIENCE_SECONDS = 1.0  # a process that looks at a job, or removes it, holds its lock for a moment


@dataclass(frozen=True, slots=True)
class JobState:
    """A job as it is on disk."""

    id: str
    asked: JobAsked
    status: Mapping[str, Any] | None
    outcome: dict[str, Any] | None
    is_running: bool  # some process holds its lock
    written: float  # seconds since 1970, when it was last heard of


class Job:
    """A job that this process runs."""

    def __init__(self, workspace: Workspace, job_id: str) -> None:
        self.id = job_id
        self._workspace, self._folder = workspace, workspace.job(job_id)

    def is_cancelled(self) -> bool:
        return (self._folder / "cancel").exists()

    def write_status(self, status: Mapping[str, Any]) -> None:
        _write(self._workspace, self.id, "status", status)

    def write_outcome(self, outcome: Mapping[str, Any]) -> None:
        """Say how the job ended; what only served to continue it is removed."""
        _write(self._workspace, self.id, "outcome", outcome)
        for folder in self._workspace.job_leftovers(self.id):
            with suppress(OSError):  # what stays is found by `gc`
                self._workspace.staging.fs.remove_tree(folder)

    def checkpoints(self, arm: str) -> Checkpoints:
        from storage.jobs.checkpoints import Checkpoints

        return Checkpoints(self._workspace, self._folder / "checkpoints" / arm)

    def pixels(self, key: str, shape: tuple[int, ...], fill: Callable[[Any], None]) -> Any:
        """Return decoded pictures as `storage.jobs.pixels.find_pixels` does."""
        return find_pixels(self._folder / "pixels" / f"{key}.u8", shape, fill, self._workspace.staging.fs)


@contextmanager
def _locked(workspace: Workspace, job_id: str, patience_seconds: float = 0.0) -> Iterator[bool]:
    """Hold a job's lock; False if another process holds it for longer than the patience."""
    folder = workspace.job(job_id)
    end = time.monotonic() + patience_seconds
    with explained(folder):
        while (descriptor := _lock(folder, workspace.staging.fs)) is None and time.monotonic() < end:
            time.sleep(PATIENCE_SECONDS / 50)
    try:
        yield descriptor is not None
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _lock(folder: Path, fs: Fs) -> int | None:
    make_folder(folder, fs)
    with suppress(FileNotFoundError), ExitStack() as undo:
        descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        undo.callback(os.close, descriptor)
        if try_lock(descriptor) and is_still(descriptor, folder / "lock"):
            undo.pop_all()
            return descriptor
    return None


@contextmanager
def run_exclusively(workspace: Workspace, job_id: str, asked: JobAsked) -> Iterator[Job]:
    """Run a job, here and nowhere else at the same time.

    Raises
    ------
    ConflictError
        When another process runs it.
    """
    with _locked(workspace, job_id, PATIENCE_SECONDS) as free:
        if not free:
            raise ConflictError(
                f"Job {job_id} is running in another process. Watch it with `headstart jobs`, or stop it: "
                f"headstart jobs cancel {job_id}"
            )
        cancel = workspace.job(job_id) / "cancel"
        with explained(cancel):
            cancel.unlink(missing_ok=True)  # it was meant for an earlier attempt
        if _find(workspace, job_id, "job") is None:
            _write(workspace, job_id, "job", to_json(asked))
        yield Job(workspace, job_id)


def remove_job(workspace: Workspace, path: Path, written: float) -> None:
    """Remove a job's folder, or one in it, whole; not while the job runs, or if it was written to after `written`."""
    if not path.exists():
        return
    with _locked(workspace, path.relative_to(workspace.jobs).parts[0]) as free, explained(path):
        if free and last_written(path) <= written:
            remove_at_once(path, workspace.staging)


def request_cancel(workspace: Workspace, job_id: str) -> bool:
    """Ask the process that runs a job to stop; returns whether there is one."""
    state = get_job(workspace, job_id)
    if state.is_running:
        write_whole(workspace.job(state.id) / "cancel", b"", workspace.staging)
    return state.is_running


def list_folders(workspace: Workspace) -> list[Path]:
    """The folder of every job, readable or not."""
    return sorted(path for path in workspace.jobs.glob("*") if path.is_dir())


def list_jobs(workspace: Workspace) -> list[JobState]:
    """Every readable job, the one last heard of first."""
    states = []
    for path in workspace.jobs.glob("*/job.json"):
        try:
            states.append(_state(workspace, path.parent.name))
        except (NotFoundError, FileNotFoundError):
            pass  # removed meanwhile
        except (ConflictError, OSError) as error:  # one damaged job must not hide the others
            log.warning("left out: %s", error)
    return sorted(states, key=lambda state: state.written, reverse=True)


def get_job(workspace: Workspace, text: str) -> JobState:
    """Find a job by its id, or by the beginning of it.

    Raises
    ------
    NotFoundError
        When there is none, or more than one.
    """
    states = list_jobs(workspace)
    found = [state for state in states if state.id == text]
    found = found or [state for state in states if len(text) >= SHORTEST and state.id.startswith(text)]
    if len(found) == 1:
        return found[0]
    known = ", ".join(state.id for state in found or states) or "none yet"
    raise NotFoundError(f"{'More than one job begins with' if found else 'There is no job'} '{text}'. Known: {known}.")


def find_outcome(workspace: Workspace, job_id: str) -> dict[str, Any] | None:
    """Return how a job ended, None if it has not."""
    return _find(workspace, job_id, "outcome")


def read_document(path: Path) -> dict[str, Any]:
    """Read `job.json`, `status.json` or `outcome.json`; raises as `read_json` does."""
    return read_value(path, FORMATS[path.stem], VERSION)


def read_asked(folder: Path) -> JobAsked:
    """Read what a job was asked to do.

    Raises
    ------
    NotFoundError
        The job ended before it had begun, or is gone.
    ConflictError
        As `read_json` raises it.
    """
    path = folder / "job.json"
    document = read_document(path)
    try:
        return from_json(JobAsked, document)
    except DamagedError as error:
        raise DamagedError(f"{path} is damaged. {error}") from error


def last_written(folder: Path) -> float:
    """When anything of a job, or of a folder in it, was written last, in seconds since 1970; its lock is not."""
    times = []
    for path in [folder, *folder.rglob("*")]:
        with suppress(FileNotFoundError):  # the job is running
            if path.name != "lock" and not path.is_dir():
                times.append(path.stat().st_mtime)
    return max(times) if times else folder.stat().st_mtime


def _state(workspace: Workspace, job_id: str) -> JobState:
    folder = workspace.job(job_id)
    return JobState(
        id=job_id,
        asked=read_asked(folder),
        status=_find(workspace, job_id, "status"),
        outcome=_find(workspace, job_id, "outcome"),
        is_running=is_running(workspace, job_id),
        written=last_written(folder),
    )


def is_running(workspace: Workspace, job_id: str) -> bool:
    """Tell whether some process holds a job's lock."""
    try:
        return is_locked(workspace.job(job_id) / "lock")
    except FileNotFoundError:
        return False


def _write(workspace: Workspace, job_id: str, document: str, value: Mapping[str, Any]) -> None:
    path = workspace.job(job_id) / f"{document}.json"
    write_json(path, {"value": dict(value)}, FORMATS[document], VERSION, workspace.staging)


def _find(workspace: Workspace, job_id: str, document: str) -> dict[str, Any] | None:
    return workspace.find_intact(workspace.job(job_id) / f"{document}.json", read_document)
