"""The file system of a workspace: free space, write access and locks."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

from storage.disk.atomic import explained, make_folder
from storage.disk.locks import is_locked, try_lock
from storage.workspace import Workspace


class Room(NamedTuple):
    """What a file system has left for us, and has in all."""

    free_bytes: int
    total_bytes: int
    free_files: int
    total_files: int  # 0 where the file system does not count them


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
    fs, probe = workspace.staging.fs, workspace.staging.folder / f".{uuid4().hex}.probe"
    with explained(probe):
        make_folder(workspace.staging.folder, fs)
        descriptor = fs.open_exclusive(probe, 0o600)
        try:
            fs.write(descriptor, memoryview(b"probe"))
            fs.fsync(descriptor)
            try:
                return try_lock(descriptor) and is_locked(probe)
            except OSError:
                return False
        finally:
            os.close(descriptor)
            fs.unlink(probe)
