"""One SQLite file of ours: durable commits, one sentence per failure, damage set aside.

A rollback journal and not WAL, which can corrupt a database that two connections write before SQLite 3.51.3.
A database file is never opened but through SQLite: closing any other descriptor would drop its POSIX locks.
"""

from __future__ import annotations

import fcntl
import logging
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from pipeline.errors import ConflictError, DamagedError
from storage.atomic import explained, make_folder
from storage.workspace import Workspace

log = logging.getLogger(__name__)

BUSY_SECONDS = 60.0


class Database:
    """A connection per operation, so that threads and forks share nothing."""

    def __init__(self, workspace: Workspace, path: Path, version: int, schema: tuple[str, ...]) -> None:
        self._workspace = workspace
        self._path = path
        self._version = version
        self._schema = schema

    def prepare(self) -> None:
        """Create what is missing; a damaged file moves to quarantine and an empty one takes its place.

        Raises
        ------
        ConflictError
            The file is of a newer version, or cannot be read or written.
        """
        if not self._is_sound():
            self._set_aside()
        if self._path.exists():
            with self.read() as connection:
                if self._found_version(connection) == self._version:
                    return
        with self.write(create=True) as connection:
            if self._found_version(connection) == 0:  # else another process was faster
                for statement in self._schema:
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {self._version}")

    @contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        with self._connect("rw") as connection:
            yield connection

    @contextmanager
    def write(self, create: bool = False) -> Iterator[sqlite3.Connection]:
        """One transaction: committed and synced when the block ends, else as if it never was."""
        with self._connect("rwc" if create else "rw") as connection:
            connection.execute("PRAGMA journal_mode = TRUNCATE")
            connection.execute("PRAGMA synchronous = EXTRA")
            connection.execute("BEGIN IMMEDIATE")
            yield connection
            connection.execute("COMMIT")  # without it, closing the connection rolls back

    @contextmanager
    def _connect(self, mode: str) -> Iterator[sqlite3.Connection]:
        try:
            with closing(
                sqlite3.connect(
                    f"{self._path.as_uri()}?mode={mode}", uri=True, timeout=BUSY_SECONDS, isolation_level=None
                )
            ) as connection:
                yield connection
        except sqlite3.Error as error:
            raise self._explain(error) from error

    def _explain(self, error: sqlite3.Error) -> ConflictError:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            return DamagedError(f"{self._path} is damaged ({error}). Run again: it will be built anew.")
        return ConflictError(f"Cannot use {self._path}: {error}. Check its permissions and the free space.")

    def _found_version(self, connection: sqlite3.Connection) -> int:
        version = int(connection.execute("PRAGMA user_version").fetchone()[0])
        if version > self._version:
            raise ConflictError(
                f"{self._path} has version {version}; this headstart knows version {self._version}. "
                "Use the headstart that wrote it, or another workspace."
            )
        return version

    def _is_sound(self) -> bool:
        if not self._path.exists():
            return True
        try:
            with self.read() as connection:
                return bool(connection.execute("PRAGMA quick_check(1)").fetchone()[0] == "ok")
        except DamagedError:
            return False

    def _set_aside(self) -> None:
        quarantine = self._workspace.quarantine
        with explained(quarantine):
            make_folder(quarantine, self._workspace.stage.fs)
            lock = os.open(quarantine, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if self._is_sound():  # another process was faster; what lies there now is its new one
                return
            journal = self._path.with_name(f"{self._path.name}-journal")
            for path in (journal, self._path):  # a journal left behind would be played into the new file
                if path.exists():
                    self._workspace.set_aside(path)
            log.warning("%s was damaged: moved to %s and built anew", self._path, quarantine)
        finally:
            os.close(lock)


def plain(text: str) -> str:
    """Spell out what SQLite refuses to store: lone surrogates of undecodable file names."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
