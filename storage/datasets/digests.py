"""A memory of user files, so that they need not be read again: path, size and time to digest.

It is trusted for a file that has the same size and modification time, and whose last change is
clearly older than the moment it was read: a file that changes twice within one tick of the clock keeps its
time, so one that was young when it was read is read again (git calls this "racily clean").
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from functools import cached_property

from pipeline.errors import DamagedError
from pipeline.types import Digest, FileEntry
from storage.sqlite import Database, checksum, plain
from storage.workspace import Workspace

VERSION = 1
SCHEMA = (
    """CREATE TABLE files (
        path BLOB PRIMARY KEY, -- absolute, as the file system spells it
        size_bytes INTEGER NOT NULL,
        mtime_ns INTEGER NOT NULL,
        seen_ns INTEGER NOT NULL, -- when reading began
        digest BLOB, -- SHA-256 of the content, or NULL and
        reason TEXT, -- why it is no picture
        checksum INTEGER NOT NULL -- of the other columns
    ) WITHOUT ROWID""",
)
TICK_NS = 2_000_000_000  # FAT, the coarsest file system in use, keeps times to 2 s


class DigestMemory:
    def __init__(self, workspace: Workspace) -> None:
        self.database = Database(workspace, workspace.digests, VERSION, SCHEMA)

    @cached_property
    def _prepared(self) -> Database:
        self.database.prepare()
        return self.database

    def recall(self, root: str, entries: Iterable[FileEntry], rehash: bool = False) -> dict[str, Digest | str]:
        """Return path -> digest, or the reason why it is no picture, for files that need not be read.

        With `rehash` there are none: a file can be changed on purpose without changing its size and time.
        """
        if rehash:
            return {}
        prefix = _prefix(root)
        with self._prepared.read() as connection:
            rows = connection.execute(
                "SELECT * FROM files WHERE path >= ? AND path < ?",
                (prefix, prefix[:-1] + b"0"),  # "0" follows "/"
            )
            known = {path: rest for path, *rest, sum_ in rows if checksum(path, *rest) == sum_}
        found: dict[str, Digest | str] = {}
        for entry in entries:
            if row := known.get(prefix + os.fsencode(entry.path)):
                size_bytes, mtime_ns, seen_ns, digest, reason = row
                unchanged = (size_bytes, mtime_ns) == (entry.size_bytes, entry.mtime_ns)
                if unchanged and mtime_ns + TICK_NS <= seen_ns:
                    found[entry.path] = reason if digest is None else digest
        return found

    def remember(self, root: str, learned: Mapping[str, tuple[FileEntry, Digest | str]], seen_ns: int) -> None:
        """Keep what reading files showed.

        Parameters
        ----------
        learned
            Path -> the file as it was listed before reading, and its digest or the reason it is no picture.
        seen_ns
            Wall clock before the first of them was read.
        """
        prefix = _prefix(root)
        rows = [
            (prefix + os.fsencode(path), entry.size_bytes, entry.mtime_ns, seen_ns, *_columns(found))
            for path, (entry, found) in learned.items()
        ]
        with self._prepared.write() as connection:
            connection.executemany(
                "INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?, ?)", [(*row, checksum(*row)) for row in rows]
            )

    def check(self) -> None:
        """Raise DamagedError unless everything is as it was written."""
        self.database.check_writable()
        self.database.check()
        with self.database.read() as connection:
            num_wrong = sum(checksum(*rest) != sum_ for *rest, sum_ in connection.execute("SELECT * FROM files"))
        if num_wrong:
            raise DamagedError(f"{self.database.path} is damaged: {num_wrong} rows fail their checksum.")


def _prefix(root: str) -> bytes:
    return os.path.join(os.fsencode(os.path.realpath(root)), b"")


def _columns(found: Digest | str) -> tuple[Digest | None, str | None]:
    return (found, None) if isinstance(found, bytes) else (None, plain(found))
