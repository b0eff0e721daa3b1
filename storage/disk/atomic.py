"""Files and folders that appear whole or not at all.

The protocol is always the same: make the thing ready under a name nobody looks at, sync it, rename it, sync
the folder that holds the new name. POSIX only: the locks on staging files are `flock`.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from pipeline.errors import ConflictError, DamagedError, NotFoundError
from pipeline.fingerprint import fingerprint

log = logging.getLogger(__name__)

# A dead process leaves at most one staging file; an hour is longer than any live one needs between
# creating it and locking it, and harmless where a network file system does not carry the lock.
GRACE_SECONDS = 3600.0


class Fs:
    """The only calls of ours that change a disk; tests substitute one that records, fails or dies."""

    def open_exclusive(self, path: Path, mode: int) -> int:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)

    def write(self, descriptor: int, data: memoryview) -> int:
        return os.write(descriptor, data)

    def fsync(self, descriptor: int) -> None:
        os.fsync(descriptor)

    def fsync_path(self, path: Path) -> None:
        """Sync a folder's names, or a file that somebody else wrote."""
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
class Stage:
    """Where things are made ready, on the same file system as their final place."""

    folder: Path | None = None  # None: a hidden sibling of the final path
    fs: Fs = REAL


BESIDE = Stage()


# ── files ────────────────────────────────────────────────────────────────────────────────────────


def write_whole(path: Path, data: bytes, stage: Stage = BESIDE, mode: int = 0o644) -> None:
    """Write a file, or replace it; after a crash at any point it holds the old bytes or the new ones."""
    write_stream(path, [data], stage, mode)


def write_stream(path: Path, chunks: Iterable[bytes | memoryview], stage: Stage = BESIDE, mode: int = 0o644) -> None:
    """Write a file that need not fit in memory, as `write_whole` does; what the chunks raise ends it."""
    with explained(path):
        make_folder(path.parent, stage.fs)
        with _staged(chunks, stage.folder or path.parent, mode, stage.fs) as ready:
            stage.fs.rename(ready, path)
        stage.fs.fsync_path(path.parent)


def write_once(path: Path, data: bytes, stage: Stage = BESIDE, mode: int = 0o644) -> bool:
    """Write a file unless it exists; of several writers the first wins. True for the one that wrote it."""
    with explained(path):
        make_folder(path.parent, stage.fs)
        with _staged([data], stage.folder or path.parent, mode, stage.fs) as ready:
            try:
                stage.fs.link(ready, path)
                created = True
            except FileExistsError:
                created = False
            stage.fs.unlink(ready)
        stage.fs.fsync_path(path.parent)
    return created


def to_json(value: Mapping[str, Any], format: str, version: int) -> bytes:
    """Encode a document that names its format and vouches for itself; ASCII, so that undecodable names survive."""
    document = sealed(value, format, version)
    return (json.dumps(document, indent=1, allow_nan=False) + "\n").encode("ascii")


def sealed(value: Mapping[str, Any], format: str, version: int) -> dict[str, Any]:
    """Add format, version and the checksum of all that to a document."""
    if taken := {"format", "version", "checksum"} & value.keys():
        raise ValueError(f"{taken} of a document are not the caller's to set")
    document = {"format": format, "version": version, **value}
    return {**document, "checksum": _checksum(document)}


def _checksum(document: Mapping[str, Any]) -> str:
    return fingerprint(json.loads(json.dumps(document, allow_nan=False)))  # as a reader will see it


def write_json(path: Path, value: Mapping[str, Any], format: str, version: int, stage: Stage = BESIDE) -> None:
    write_whole(path, to_json(value, format, version), stage)


def read_json(path: Path, format: str, version: int) -> dict[str, Any]:
    """Read a document that `write_json` wrote.

    Raises
    ------
    NotFoundError
        There is no such file.
    DamagedError
        It is not JSON of this format.
    ConflictError
        It is of this format in a version that cannot be read here, or the file cannot be opened.
    """
    try:
        document = parse_json(path.read_bytes(), path)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFoundError(f"There is no {path}.") from error
    except OSError as error:
        raise ConflictError(f"Cannot read {path}: {error.strerror}.") from error
    return unsealed(document, format, version, path)


def unsealed(document: Mapping[str, Any], format: str, version: int, path: Path) -> dict[str, Any]:
    """Check what `sealed` added; returns the document without its checksum."""
    content = {key: value for key, value in document.items() if key != "checksum"}
    if "checksum" in document and document["checksum"] != fingerprint(content):
        raise DamagedError(f"{path} is damaged: it does not hold what its checksum says.")
    check_format(content, format, version, path)
    if "checksum" not in document:
        raise DamagedError(f"{path} is damaged: its checksum is gone.")
    return content


def parse_json(data: bytes, path: Path) -> dict[str, Any]:
    try:
        document = json.loads(data)
    except ValueError as error:  # also bytes that are no UTF-8
        raise DamagedError(f"{path} is damaged: it is not JSON ({error}).") from error
    if not isinstance(document, dict):
        raise DamagedError(f"{path} is damaged: it holds no JSON object.")
    return document


def check_format(found: Mapping[str, Any], format: str, version: int, path: Path) -> None:
    """Refuse what another program, or another version of this one, has written."""
    if found.get("format") != format:
        raise DamagedError(f"{path} has format {found.get('format')!r}; wanted {format!r}.")
    if not isinstance(found.get("version"), int):
        raise DamagedError(f"{path} is damaged: it names no version of {format}.")
    if found["version"] != version:
        raise ConflictError(
            f"{path} has {format} version {found['version']}; this headstart reads version {version}. "
            "Use the headstart that wrote it, or another workspace."
        )


@contextmanager
def _staged(chunks: Iterable[bytes | memoryview], folder: Path, mode: int, fs: Fs) -> Iterator[Path]:
    """Yield a complete, synced file; it is removed again if the block fails."""
    make_folder(folder, fs)
    path = folder / f".{uuid4().hex}.part"
    descriptor = fs.open_exclusive(path, mode)
    try:
        _lock(descriptor)
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


# ── folders ──────────────────────────────────────────────────────────────────────────────────────


def make_folder(folder: Path, fs: Fs) -> None:
    """Make a folder and its parents, durably: nothing is put into a folder before its own name was synced."""
    if not folder.is_dir():
        make_folder(folder.parent, fs)
        with suppress(FileExistsError):  # another process was faster; a file in the way fails at its first use
            fs.mkdir(folder)
    elif any(folder.iterdir()):  # an empty one may be by a process that died before it could sync
        return
    with suppress(PermissionError):  # a parent that we may pass through but not list
        fs.fsync_path(folder.parent)


@contextmanager
def scratch_folder(staging: Path, fs: Fs) -> Iterator[Path]:
    """Yield an empty folder to fill; what `publish_folder` did not take is removed."""
    folder = staging / f".{uuid4().hex}.part"
    with explained(folder):
        make_folder(staging, fs)
        fs.mkdir(folder)
        descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _lock(descriptor)
        yield folder
    finally:
        os.close(descriptor)
        if folder.exists():
            with suppress(OSError):
                fs.remove_tree(folder)


def write_folder(final: Path, files: Iterable[tuple[str, bytes]], stage: Stage) -> None:
    """Write a folder of (path within it, content) that appears whole; one that exists stays as it is."""
    with scratch_folder(stage.folder or final.parent, stage.fs) as scratch:
        for path, data in files:
            make_folder((scratch / path).parent, stage.fs)
            (scratch / path).write_bytes(data)
        publish_folder(scratch, final, stage.fs)


def publish_folder(scratch: Path, final: Path, fs: Fs) -> bool:
    """Sync a filled scratch folder and give it its name; False, and nothing done, if the name is taken."""
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


def remove_at_once(path: Path, staging: Path, fs: Fs) -> None:
    """Remove a folder, or a file, that is never seen in part: it loses its name first."""
    going = staging / f".{uuid4().hex}.part"  # swept there, if this process ends early
    make_folder(staging, fs)
    fs.rename(path, going)
    with suppress(FileNotFoundError):  # swept
        fs.remove_tree(going)


def sweep(staging: Path, fs: Fs, grace_seconds: float = GRACE_SECONDS) -> None:
    """Remove what dead processes left in staging."""
    for path in abandoned(staging, grace_seconds):
        with suppress(OSError):  # it can wait for the next sweep
            (fs.remove_tree if path.is_dir() else fs.unlink)(path)
            log.info("removed %s, left behind by a process that ended early", path)


def abandoned(staging: Path, grace_seconds: float) -> Iterator[Path]:
    """Yield what is old and locked by nobody; it stays locked until the next one is asked for."""
    try:
        leftovers = sorted(staging.iterdir())
    except FileNotFoundError:
        return
    for path in leftovers:
        with suppress(OSError):  # somebody else removed it, or it lives
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                if time.time() - os.fstat(descriptor).st_mtime < grace_seconds:
                    continue
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                yield path
            finally:
                os.close(descriptor)


def _lock(descriptor: int) -> None:
    """Show a sweeper that the owner lives; it ends with the process, however that ends."""
    with suppress(OSError):  # without locks on this file system the grace period alone protects
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


# ── errors ───────────────────────────────────────────────────────────────────────────────────────

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def explained(path: Path, advice: str = "Make it writable, or choose another place.") -> Iterator[None]:
    """Turn the operating system's refusal to write into one sentence."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno in _FULL:
            advice = "Free some space and run again; what was committed before is kept."
        raise ConflictError(f"Cannot write {path}: {reason}. {advice}") from error
