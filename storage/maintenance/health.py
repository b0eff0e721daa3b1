"""Is the place where a workspace lies fit for it, and what do live and dead processes hold there?"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

from pipeline.fingerprint import DIGEST_BYTES
from storage.disk.atomic import explained, make_folder
from storage.disk.locks import is_locked
from storage.features.claims import STALE_SECONDS
from storage.workspace import Workspace

LOCKS_FILE = Path("/proc/locks")  # Linux; elsewhere nobody can be named
PROCESSES = Path("/proc")
MOST_LETTERS = 60  # of a command line


class Room(NamedTuple):
    """What a file system has left for us, and has in all."""

    free_bytes: int
    total_bytes: int
    free_files: int
    total_files: int  # 0 where the file system does not count them


class Holder(NamedTuple):
    """A process that holds a lock."""

    pid: int
    command: str
    is_stopped: bool  # by a signal: it holds what it holds until it goes on or ends


class ClaimState(NamedTuple):
    """A claim as it is on disk."""

    path: Path
    num_pictures: int
    is_held: bool  # a process lives that has it
    is_stale: bool  # it showed nothing for so long that nobody waits for it


def measure_room(folder: Path) -> Room:
    """Ask the file system of a folder, or of its nearest parent that is there, what it has left."""
    while not folder.exists():
        folder = folder.parent
    found = os.statvfs(folder)
    return Room(found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize, found.f_favail, found.f_files)


def locks_after_writing(workspace: Workspace) -> bool:
    """Write a file as all others are written, then remove it; returns whether a lock on it kept another out.

    Raises
    ------
    ConflictError
        It cannot be written.
    """
    fs, probe = workspace.stage.fs, workspace.staging / f".{uuid4().hex}.probe"
    with explained(probe):
        make_folder(workspace.staging, fs)
        descriptor = fs.open_exclusive(probe, 0o600)
        try:
            fs.write(descriptor, memoryview(b"probe"))
            fs.fsync(descriptor)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                return False
            return is_locked(probe)
        finally:
            os.close(descriptor)
            fs.unlink(probe)


def list_claims(workspace: Workspace) -> list[ClaimState]:
    """Every claim on pictures, also those that dead processes left; the next run over the same space removes these."""
    claims = []
    for path in sorted(workspace.root.glob("claims/*/*.claim")):
        with suppress(FileNotFoundError):  # given back just now
            status = path.stat()
            claims.append(
                ClaimState(
                    path=path,
                    num_pictures=status.st_size // DIGEST_BYTES,
                    is_held=is_locked(path),
                    is_stale=time.time() - status.st_mtime > STALE_SECONDS,
                )
            )
    return claims


def list_lockable(workspace: Workspace) -> list[Path]:
    """Everything in a workspace that a process locks for as long as it works with it."""
    found = [workspace.spaces.glob("*"), workspace.jobs.glob("*/lock"), workspace.root.glob("claims/*/*.claim")]
    return sorted(path for paths in found for path in paths)


def find_holders(paths: Collection[Path]) -> dict[Path, list[Holder]]:
    """Find the processes of this machine that hold a lock on one of the paths; a path that nobody holds is left out."""
    inodes: dict[int, Path] = {}
    for locked in paths:
        with suppress(OSError):
            inodes[locked.stat().st_ino] = locked
    found: dict[Path, dict[int, Holder]] = {}
    for pid, inode in _locks():
        if (path := inodes.get(inode)) and _has_open(pid, path):
            found.setdefault(path, {})[pid] = _describe(pid)
    return {path: list(holders.values()) for path, holders in found.items()}


def _locks() -> Iterator[tuple[int, int]]:
    """Yield process and inode of every lock that is held, as in `1: FLOCK ADVISORY WRITE 1234 fe:00:3270860 0 EOF`."""
    try:
        rows = LOCKS_FILE.read_text().splitlines()
    except OSError:
        return
    for row in rows:
        fields = row.split()
        if len(fields) >= 6 and fields[1] == "FLOCK":  # "->" is one that waits
            with suppress(ValueError):
                yield int(fields[4]), int(fields[5].rpartition(":")[2])


def _has_open(pid: int, path: Path) -> bool:
    """Tell whether a process has a path open: an inode's number is its own only within one file system."""
    try:
        files = list((PROCESSES / str(pid) / "fd").iterdir())
    except PermissionError:  # another user's; the number of the inode must do
        return True
    except OSError:
        return False
    for file in files:
        with suppress(OSError):
            if os.path.samestat(file.stat(), path.stat()):
                return True
    return False


def _describe(pid: int) -> Holder:
    command, state = "", ""
    with suppress(OSError):
        folder = PROCESSES / str(pid)
        words = (folder / "cmdline").read_bytes().decode("utf-8", "replace").split("\0")
        command = " ".join([Path(words[0]).name, *words[1:]]).strip()
        # the state follows the name, which stands in brackets and may hold anything
        state = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()[0]
    return Holder(pid, command if len(command) <= MOST_LETTERS else f"{command[: MOST_LETTERS - 1]}…", state in "Tt")
