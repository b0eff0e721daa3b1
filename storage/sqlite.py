"""A SQLite file: durable commits, one sentence per failure, damage set aside.

A rollback journal and not WAL, which can corrupt a database that two connections write before SQLite 3.51.3.
A database file is never opened but through SQLite: closing any other descriptor would drop its POSIX locks.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path

from pipeline.errors import ConflictError, DamagedError
from storage.disk.atomic import explained, make_folder
from storage.disk.locks import exclusive
from storage.workspace import Workspace

log = logging.getLogger(__name__)

BUSY_SECONDS = 60.0
PAGE_BYTES = 16384  # a shard's keys lie on 3 pages: checking and reading them takes two thirds of the time that 9 take


class Database:
    """A connection per operation, so that threads and forks share nothing."""

    def __init__(self, workspace: Workspace, path: Path, version: int, schema: tuple[str, ...]) -> None:
        self._workspace = workspace
        self.path = path
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
            self._set_aside(self._is_sound)
        if self.path.exists():
            with self.read() as connection:
                if self._found_version(connection) == self._version:
                    return
        with self.write(create=True) as connection:
            if self._found_version(connection) == 0:  # else another process was faster
                for statement in self._schema:
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {self._version}")

    def check(self) -> None:
        """Raise DamagedError unless every page is sound and the tables are those of this version."""
        with self.read() as connection:
            if fault := self._find_fault(connection, "integrity_check"):
                raise DamagedError(f"{self.path} is damaged: {fault}.")
            version = self._version_of(connection)
            if version != self._version and self._tables(connection) == set(self._schema):
                raise DamagedError(f"{self.path} is damaged: its version became {version}.")
            self._found_version(connection)

    def _find_fault(self, connection: sqlite3.Connection, pages: str) -> str | None:
        """Say what is wrong; `pages` is SQLite's check of them, of which the quick one leaves out the indices."""
        fault = str(connection.execute(f"PRAGMA {pages}(1)").fetchone()[0])
        if fault != "ok":
            return fault
        tables, version = self._tables(connection), self._version_of(connection)
        if version > self._version or not (tables or version):  # a newer headstart's, or nothing is in it yet
            return None
        return None if tables == set(self._schema) and version else "its tables are not those that were made"

    @staticmethod
    def _tables(connection: sqlite3.Connection) -> set[str]:
        query = "SELECT sql FROM sqlite_schema WHERE sql NOTNULL AND name NOT LIKE 'sqlite~_%' ESCAPE '~'"
        return {sql for (sql,) in connection.execute(query)}

    @staticmethod
    def _version_of(connection: sqlite3.Connection) -> int:
        return int(connection.execute("PRAGMA user_version").fetchone()[0])

    def check_writable(self) -> None:
        """Raise DamagedError where a flipped bit in the file's header forbids writing; begins to write, to see."""
        with self._connect("rw") as connection:
            connection.execute("PRAGMA journal_mode = TRUNCATE")
            connection.execute("BEGIN IMMEDIATE")
            connection.execute(f"PRAGMA user_version = {self._version}")
            connection.execute("ROLLBACK")

    def read(self) -> AbstractContextManager[sqlite3.Connection]:
        return self._connect("rw")

    @contextmanager
    def write(self, create: bool = False) -> Iterator[sqlite3.Connection]:
        """One transaction: committed and synced when the block ends, else as if it never was."""
        with self._connect("rwc" if create else "rw") as connection:
            connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")  # of a file that is empty yet
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
                    f"{self.path.as_uri()}?mode={mode}", uri=True, timeout=BUSY_SECONDS, isolation_level=None
                )
            ) as connection:
                yield connection
        except (sqlite3.Error, UnicodeDecodeError) as error:  # SQLite's messages quote what is damaged
            raise self._explain(error) from error

    def _explain(self, error: Exception) -> ConflictError:
        # without a code: Python could not make text of what is there; SQLITE_ERROR: a table or column is not there
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
        may_write = os.access(self.path, os.W_OK) and os.access(self.path.parent, os.W_OK)
        if code == sqlite3.SQLITE_READONLY and may_write:  # a flipped bit in the file's header
            return DamagedError(f"{self.path} is damaged: it forbids writing. Run `headstart verify`.")
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT, sqlite3.SQLITE_ERROR):
            return DamagedError(f"{self.path} is damaged ({error}). Run `headstart verify`: it is rebuilt then.")
        return ConflictError(f"Cannot use {self.path}: {error}. Check its permissions and the free space.")

    def _found_version(self, connection: sqlite3.Connection) -> int:
        version = self._version_of(connection)
        if version > self._version:
            raise ConflictError(
                f"{self.path} has version {version}; this headstart knows version {self._version}. "
                "Use the headstart that wrote it, or another workspace."
            )
        return version

    def _is_sound(self) -> bool:
        if not self.path.exists():
            return True
        try:
            with self.read() as connection:
                return self._find_fault(connection, "quick_check") is None
        except DamagedError:
            return False

    def replace(self, is_sound: Callable[[], bool]) -> None:
        """Make an empty file in the place of a damaged one."""
        self._set_aside(is_sound)
        self.prepare()

    def _set_aside(self, is_sound: Callable[[], bool]) -> None:
        """Move the file to quarantine, unless another process did so just now and it is sound again."""
        quarantine = self._workspace.quarantine
        with explained(quarantine):
            make_folder(quarantine, self._workspace.staging.fs)
        with exclusive(quarantine):
            if is_sound():  # another process was faster; what lies there now is its new one
                return
            journal = self.path.with_name(f"{self.path.name}-journal")
            for path in (journal, self.path):  # a journal left behind would be played into the new file
                if path.exists():
                    self._workspace.set_aside(path)
            log.warning("%s was damaged: moved to %s and rebuilt", self.path, quarantine)


def checksum(*columns: object) -> int:
    """CRC-32 of a row's values and types, for rows that no file on disk can confirm."""
    return zlib.crc32(repr(columns).encode("utf-8", "backslashreplace"))


def plain(text: str) -> str:
    """Spell out what SQLite refuses to store: lone surrogates of undecodable file names."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
