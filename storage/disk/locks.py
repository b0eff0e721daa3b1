"""Who has a space open, so that nothing in use is removed; whether a file is locked.

Every open store holds a shared lock on its space's folder, which ends with the process, however that ends; what
removes things takes the exclusive one, and leaves alone what it does not get.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pipeline.errors import ConflictError

log = logging.getLogger(__name__)


class Usage:
    """A shared lock on a folder, from `begin` until `end`, or until nothing refers to it any more."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._release: weakref.finalize[[int], Usage] | None = None

    def begin(self) -> None:
        """Lock the folder if it is there; waits while something is being removed from it."""
        while self._release is None:
            try:
                descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except OSError:  # nothing is stored yet; what cannot be opened fails at its first use
                return
            self._release = weakref.finalize(self, os.close, descriptor)
            _lock_shared(descriptor, self._folder)
            if not _is_still(descriptor, self._folder):  # removed while we waited
                self.end()

    def end(self) -> None:
        if self._release is not None:
            self._release()
            self._release = None


@contextmanager
def alone(folder: Path, wait: bool = False) -> Iterator[bool]:
    """Keep everybody else out of a folder; False where somebody is in it, unless told to `wait`.

    Raises
    ------
    ConflictError
        This file system has no locks, so that nobody can know.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            free = True
        except OSError as error:
            if error.errno != errno.EWOULDBLOCK:
                raise ConflictError(
                    f"Cannot lock {folder} ({error.strerror}), so what is in use cannot be known: nothing is removed. "
                    "Move the workspace to a file system with locks."
                ) from error
            free = False
        if wait and not free:
            log.warning("waiting until another process has ended its work in %s", folder)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            free = True
        yield free
    finally:
        os.close(descriptor)


def is_locked(path: Path) -> bool:
    """Tell whether some process keeps others out of a file."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _lock_shared(descriptor: int, folder: Path) -> None:
    with suppress(OSError):  # without locks on this file system nothing can be removed either
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            log.warning("waiting until what is not needed has been removed from %s", folder)
            fcntl.flock(descriptor, fcntl.LOCK_SH)


def _is_still(descriptor: int, folder: Path) -> bool:
    """Tell whether a folder's name still stands for what was opened."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(folder))
    except FileNotFoundError:
        return False
