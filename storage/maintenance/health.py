"""The file system of a workspace: write access and locks."""

from __future__ import annotations

import os
from uuid import uuid4

from storage.disk.atomic import explained, make_folder
from storage.disk.locks import is_locked, try_lock
from storage.workspace import Workspace


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
