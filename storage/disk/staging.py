"""Folders that appear whole or not at all, and what ended processes left in a staging folder."""

from __future__ import annotations

import errno
import logging
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from storage.disk.atomic import Staging, explained, make_folder, show_alive
from storage.disk.locks import try_lock

log = logging.getLogger(__name__)

# A process that dies leaves at most one staging file. An hour is longer than any live process needs between creating
# the file and locking it, and does no harm if a network file system does not carry the lock.
GRACE_SECONDS = 3600.0


@contextmanager
def scratch_folder(staging: Staging) -> Iterator[Path]:
    """Yield an empty folder to fill; it is removed at the end unless `publish_folder` gave it its final name."""
    folder = staging.folder / f".{uuid4().hex}.part"
    with explained(folder):
        make_folder(staging.folder, staging.fs)
        staging.fs.mkdir(folder)
        descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        show_alive(descriptor)
        yield folder
    finally:
        os.close(descriptor)
        if folder.exists():
            with suppress(OSError):
                staging.fs.remove_tree(folder)


def write_folder(final: Path, files: Iterable[tuple[str, bytes]], staging: Staging) -> None:
    """Write a folder of (path within it, content) that appears whole; one that exists stays as it is."""
    with scratch_folder(staging) as scratch:
        for path, data in files:
            make_folder((scratch / path).parent, staging.fs)
            (scratch / path).write_bytes(data)
        publish_folder(scratch, final, staging)


def publish_folder(scratch: Path, final: Path, staging: Staging) -> bool:
    """Sync a filled scratch folder and give it its name; False, and nothing done, if the name is taken."""
    fs = staging.fs
    with explained(final):
        for folder, _, names in os.walk(scratch):
            for name in names:
                fs.fsync_path(Path(folder, name))
            fs.fsync_path(Path(folder))
        make_folder(final.parent, fs)
        try:
            fs.rename(scratch, final)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                return False
            raise
        fs.fsync_path(final.parent)
    return True


def remove_at_once(path: Path, staging: Staging) -> None:
    """Remove a folder, or a file, that is never seen in part: it loses its name first."""
    going = staging.folder / f".{uuid4().hex}.part"  # swept there, if this process ends early
    make_folder(staging.folder, staging.fs)
    staging.fs.rename(path, going)
    with suppress(FileNotFoundError):  # swept
        staging.fs.remove_tree(going)


def sweep(staging: Staging, grace_seconds: float = GRACE_SECONDS) -> None:
    """Remove what ended processes left in staging."""
    for path in abandoned(staging.folder, grace_seconds):
        with suppress(OSError):  # it can wait for the next sweep
            (staging.fs.remove_tree if path.is_dir() else staging.fs.unlink)(path)
            log.info("removed %s, which a process that ended early left behind", path)


def abandoned(folder: Path, grace_seconds: float) -> Iterator[Path]:
    """Yield what is old and not locked by any process; it stays locked until the next one is asked for."""
    try:
        leftovers = sorted(folder.iterdir())
    except FileNotFoundError:
        return
    for path in leftovers:
        with suppress(OSError):  # another process removed it, or there are no locks
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                if time.time() - os.fstat(descriptor).st_mtime >= grace_seconds and try_lock(descriptor):
                    yield path
            finally:
                os.close(descriptor)
