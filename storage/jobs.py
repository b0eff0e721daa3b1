"""Fine-tuning jobs: one folder each, from the first request to the outcome.

jobs/<id>/job.json              what was asked
jobs/<id>/status.json           where it is
jobs/<id>/outcome.json          how it ended; a job that has one never runs again
jobs/<id>/lock                  held by the process that runs it, and let go by its death
jobs/<id>/cancel                asks that process to stop
jobs/<id>/checkpoints/<arm>/    see `storage.checkpoints`
jobs/<id>/pixels/<key>.u8       decoded pictures; derived
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np

from pipeline.errors import ConflictError, DamagedError, NotFoundError
from storage.atomic import explained, make_folder, read_json, write_json, write_whole
from storage.workspace import Workspace

if TYPE_CHECKING:
    from storage.checkpoints import Checkpoints

log = logging.getLogger(__name__)

FORMATS = {"job": "headstart.job", "status": "headstart.job-status", "outcome": "headstart.job-outcome"}
VERSION = 1
SPARE_BYTES = 1 << 30  # of the disk, that decoded pictures leave free
SHORTEST = 4  # letters of an id that are enough to name a job


@dataclass(frozen=True, slots=True)
class JobState:
    """A job as it is on disk."""

    id: str
    asked: Mapping[str, Any]
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

    def find_outcome(self) -> dict[str, Any] | None:
        return find_outcome(self._workspace, self.id)

    def write_outcome(self, outcome: Mapping[str, Any]) -> None:
        """Say how the job ended; what only served to go on with it is removed."""
        _write(self._workspace, self.id, "outcome", outcome)
        for folder in self._workspace.job_leftovers(self.id):
            shutil.rmtree(folder, ignore_errors=True)  # what stays is found by `gc`

    def checkpoints(self, arm: str) -> Checkpoints:
        from storage.checkpoints import Checkpoints

        return Checkpoints(self._workspace, self._folder / "checkpoints" / arm)

    def pixels(self, key: str, shape: tuple[int, ...], fill: Callable[[Any], None]) -> Any:
        """Return decoded pictures as a read-only array on disk, made by `fill` if it is not there.

        None when the disk has no room for it.
        """
        folder = self._folder / "pixels"
        path = folder / f"{key}.u8"
        num_bytes = int(np.prod(shape))
        if not (path.is_file() and path.stat().st_size == num_bytes):
            make_folder(folder, self._workspace.stage.fs)
            with suppress(FileNotFoundError):
                path.unlink()
            if shutil.disk_usage(folder).free < num_bytes + SPARE_BYTES or not _fill(path, shape, fill):
                log.info("the disk has no room for %d decoded pictures: they are decoded in every epoch", shape[0])
                return None
        return np.memmap(path, np.uint8, "r", shape=shape)


def _fill(path: Path, shape: tuple[int, ...], fill: Callable[[Any], None]) -> bool:
    """Make a file of decoded pictures, whole or not at all; False where there is no room for it."""
    ready = path.with_name(f".{uuid4().hex}.part")
    try:
        with open(ready, "xb") as file, suppress(OSError):
            os.posix_fallocate(file.fileno(), 0, int(np.prod(shape)))  # a full disk must not be found by a map
        if ready.stat().st_size < np.prod(shape):
            return False
        pixels = np.memmap(ready, np.uint8, "r+", shape=shape)
        fill(pixels)
        pixels.flush()
        os.replace(ready, path)
        return True
    finally:
        ready.unlink(missing_ok=True)


# ── running ──────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def _locked(workspace: Workspace, job_id: str) -> Iterator[bool]:
    """Hold a job's lock, without waiting; False where another process holds it."""
    descriptor = os.open(workspace.job(job_id) / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            free = True
        except BlockingIOError:
            free = False
        yield free
    finally:
        os.close(descriptor)


@contextmanager
def running(workspace: Workspace, job_id: str, asked: Mapping[str, Any]) -> Iterator[Job]:
    """Run a job, here and nowhere else at the same time.

    Raises
    ------
    ConflictError
        When another process runs it.
    """
    folder = workspace.job(job_id)
    with explained(folder):
        make_folder(folder, workspace.stage.fs)
    with _locked(workspace, job_id) as free:
        if not free:
            raise ConflictError(
                f"Job {job_id} is running in another process. Watch it with `headstart jobs`, or stop it: "
                f"headstart jobs cancel {job_id}"
            )
        with suppress(FileNotFoundError):
            (folder / "cancel").unlink()  # it was meant for an earlier attempt
        if not (folder / "job.json").is_file():
            _write(workspace, job_id, "job", asked)
        yield Job(workspace, job_id)


def remove_job(workspace: Workspace, path: Path) -> None:
    """Remove a job's folder, or something in it; not while the job runs."""
    job_id = path.relative_to(workspace.jobs).parts[0]
    with suppress(FileNotFoundError), _locked(workspace, job_id) as free:
        if free:
            workspace.stage.fs.remove_tree(path)


def request_cancel(workspace: Workspace, job_id: str) -> bool:
    """Ask whoever runs a job to stop; returns whether anybody does."""
    state = get_job(workspace, job_id)
    if state.is_running:
        write_whole(workspace.job(state.id) / "cancel", b"", workspace.stage)
    return state.is_running


# ── looking ──────────────────────────────────────────────────────────────────────────────────────


def list_jobs(workspace: Workspace) -> list[JobState]:
    """Every readable job, the one last heard of first."""
    states = []
    for path in workspace.jobs.glob("*/job.json"):
        try:
            states.append(_state(workspace, path.parent.name))
        except (DamagedError, ConflictError) as error:  # one damaged job must not hide the others
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
    value: dict[str, Any] = read_json(path, FORMATS[path.stem], VERSION)["value"]
    return value


def _state(workspace: Workspace, job_id: str) -> JobState:
    folder = workspace.job(job_id)
    asked = read_document(folder / "job.json")
    times = [(folder / name).stat().st_mtime for name in os.listdir(folder)]
    return JobState(
        id=job_id,
        asked=asked,
        status=_find(workspace, job_id, "status"),
        outcome=_find(workspace, job_id, "outcome"),
        is_running=is_running(workspace, job_id),
        written=max(times),
    )


def is_running(workspace: Workspace, job_id: str) -> bool:
    """Tell whether some process holds a job's lock."""
    try:
        descriptor = os.open(workspace.job(job_id) / "lock", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _write(workspace: Workspace, job_id: str, document: str, value: Mapping[str, Any]) -> None:
    path = workspace.job(job_id) / f"{document}.json"
    write_json(path, {"value": dict(value)}, FORMATS[document], VERSION, workspace.stage)


def _find(workspace: Workspace, job_id: str, document: str) -> dict[str, Any] | None:
    """Read a document that need not be there; a damaged one is set aside."""
    path = workspace.job(job_id) / f"{document}.json"
    try:
        return read_document(path)
    except NotFoundError:
        return None
    except (DamagedError, KeyError) as error:
        log.warning("%s It moved to %s.", error, workspace.set_aside(path))
        return None
