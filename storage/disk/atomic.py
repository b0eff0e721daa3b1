"""Files that appear whole or not at all.

The protocol is always the same: write under a name that nothing reads, sync, rename, sync the folder that holds the
new name.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from pipeline.errors import ConflictError, HeadstartError
from storage.disk.locks import try_lock

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Fs:
    """The only calls of headstart that change a disk; tests substitute one that records, fails or dies."""

    def open_exclusive(self, path: Path, mode: int) -> int:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)

    def write(self, descriptor: int, data: memoryview) -> int:
        return os.write(descriptor, data)

    def fsync(self, descriptor: int) -> None:
        os.fsync(descriptor)

    def fsync_path(self, path: Path) -> None:
        """Sync a folder's names, or a file that other code wrote."""
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        os.replace(source, target)

    def link(self, source: Path, target: Path) -> None:
        os.link(source, target)

    def unlink(self, path: Path) -> None:
        os.unlink(path)

    def mkdir(self, folder: Path) -> None:
        os.mkdir(folder)

    def remove_tree(self, folder: Path) -> None:
        shutil.rmtree(folder)


REAL = Fs()


@dataclass(frozen=True, slots=True)
class Staging:
    """A folder to prepare files in, on the same file system as their final place."""

    folder: Path
    fs: Fs = REAL


def write_whole(path: Path, data: bytes, staging: Staging | None = None, mode: int = 0o644) -> None:
    """Write a file, or replace it; after a crash at any point it holds the old bytes or the new ones.

    Parameters
    ----------
    staging
        Where to prepare it; None: a hidden file beside it.

    Raises
    ------
    ConflictError
        It cannot be written.
    """
    write_stream(path, [data], staging, mode)


def write_stream(
    path: Path, chunks: Iterable[bytes | memoryview], staging: Staging | None = None, mode: int = 0o644
) -> None:
    """Write a file that need not fit in memory, as `write_whole` does; an error of the chunks stops it."""
    staging = staging or Staging(path.parent)
    with explained(path):
        make_folder(path.parent, staging.fs)
        with _staged(chunks, staging.folder, mode, staging.fs) as ready:
            staging.fs.rename(ready, path)
        staging.fs.fsync_path(path.parent)


def write_once(path: Path, data: bytes, staging: Staging | None = None, mode: int = 0o644) -> bool:
    """Write a file unless it exists; of several writers the first wins. True for the one that wrote it."""
    staging = staging or Staging(path.parent)
    with explained(path):
        make_folder(path.parent, staging.fs)
        with _staged([data], staging.folder, mode, staging.fs) as ready:
            try:
                staging.fs.link(ready, path)
                created = True
            except FileExistsError:
                created = False
            staging.fs.unlink(ready)
        staging.fs.fsync_path(path.parent)
    return created


@contextmanager
def _staged(chunks: Iterable[bytes | memoryview], folder: Path, mode: int, fs: Fs) -> Iterator[Path]:
    """Yield a complete, synced file; it is removed again if the block fails."""
    make_folder(folder, fs)
    path = folder / f".{uuid4().hex}.part"
    descriptor = fs.open_exclusive(path, mode)
    try:
        show_alive(descriptor)
        for chunk in chunks:
            rest = memoryview(chunk)
            while rest:
                rest = rest[fs.write(descriptor, rest) :]
        fs.fsync(descriptor)
        yield path
    except BaseException:
        with suppress(OSError):
            fs.unlink(path)
        raise
    finally:
        os.close(descriptor)


def show_alive(descriptor: int) -> None:
    """Lock something in staging, so that `staging.sweep` sees that its owner lives."""
    with suppress(OSError):  # without locks on this file system the grace period alone protects it
        try_lock(descriptor)


def make_folder(folder: Path, fs: Fs) -> None:
    """Make a folder and its parents, durably: nothing is put into a folder before its own name was synced."""
    if not folder.is_dir():
        make_folder(folder.parent, fs)
        with suppress(FileExistsError):  # another process was faster; a file in the way fails at its first use
            fs.mkdir(folder)
    elif any(folder.iterdir()):  # an empty one may be from a process that died before it could sync
        return
    with suppress(PermissionError):  # a parent that we may pass through but not list
        fs.fsync_path(folder.parent)


@contextmanager
def explained(path: Path, advice: str = "Make it writable, or choose another place.") -> Iterator[None]:
    """Turn the operating system's refusal to write into one sentence."""
    try:
        yield
    except HeadstartError:
        raise
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno in _FULL:
            advice = "Free some space and run again; what was committed before is kept."
        raise ConflictError(f"Cannot write {path}: {reason}. {advice}") from error
