"""Locks between processes: every `flock` of the project. A lock ends with its process, however the process ends."""

from __future__ import annotations

import fcntl
import logging
import os
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pipeline.errors import ConflictError

log = logging.getLogger(__name__)


def try_lock(descriptor: int) -> bool:
    """Lock an open file for this process alone; False if another process holds a lock on it.

    Raises
    ------
    OSError
        This file system has no locks.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_locked(path: Path) -> bool:
    """Tell whether a process has locked a file for itself alone."""
    with open(path, "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def is_still(descriptor: int, path: Path) -> bool:
    """Tell whether a path still names the file that was opened: a lock on a removed file excludes no process."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Lock a folder for this process alone; waits. For work of milliseconds; OSError if there are no locks."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def alone(folder: Path, wait: bool = False) -> Iterator[bool]:
    """Lock a folder for this process alone; False if another process uses it, unless told to `wait`.

    Raises
    ------
    ConflictError
        This file system has no locks, so it is unknown whether another process uses the folder.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            free = try_lock(descriptor)
        except OSError as error:
            raise ConflictError(
                f"Cannot lock {folder} ({error.strerror}), so it is unknown what is in use: nothing is removed. "
                "Move the workspace to a file system with locks."
            ) from error
        if wait and not free:
            log.warning("waiting for another process to finish its work in %s", folder)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            free = True
        yield free
    finally:
        os.close(descriptor)


class Usage:
    """A shared lock on a folder, from `begin` until `end`, or until this object is garbage.

    Every open feature store holds one on its space; `alone` is False meanwhile, so nothing in use is removed.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._release: weakref.finalize[[int], Usage] | None = None

    def begin(self) -> None:
        """Lock the folder if it exists; waits while something is removed from it."""
        while self._release is None:
            try:
                descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except OSError:  # nothing is stored yet; what cannot be opened fails at its first use
                return
            self._release = weakref.finalize(self, os.close, descriptor)
            with suppress(OSError):  # without locks on this file system nothing can be removed either
                _lock_shared(descriptor, self._folder)
            if not is_still(descriptor, self._folder):  # removed while we waited
                self.end()

    def end(self) -> None:
        if self._release is not None:
            self._release()
            self._release = None


def _lock_shared(descriptor: int, folder: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        log.warning("waiting until what nothing needs has been removed from %s", folder)
        fcntl.flock(descriptor, fcntl.LOCK_SH)
