"""The catalog: which shards there are and which images they hold, in one SQLite file.

Derived: the shards are the truth. What the catalog does not know is adopted from disk, what it knows and the
disk does not is forgotten, and a catalog that is lost or damaged grows again that way.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pipeline.errors import ConflictError, DamagedError
from pipeline.fingerprint import DIGEST_BYTES
from pipeline.types import Digest, Space
from storage.disk.atomic import explained
from storage.disk.staging import sweep
from storage.sqlite import Database, checksum, plain
from storage.workspace import Workspace

if TYPE_CHECKING:
    from storage.features.shards import Shard

log = logging.getLogger(__name__)

VERSION = 1
MAX_SEQUENCE = 2**63 - 1  # of SQLite
SCHEMA = (
    """CREATE TABLE shards (
        sequence INTEGER PRIMARY KEY AUTOINCREMENT, -- never used twice
        space TEXT NOT NULL,
        name TEXT NOT NULL, -- SHA-256 of the file
        num_rows INTEGER NOT NULL,
        num_bytes INTEGER NOT NULL,
        keys BLOB NOT NULL, -- 32 bytes a row, in the shard's order
        UNIQUE (space, name)
    )""",
    """CREATE TABLE rejects (
        recipe TEXT NOT NULL, -- fingerprint: whether a file can be decoded depends on nothing else
        digest BLOB NOT NULL,
        reason TEXT NOT NULL,
        checksum INTEGER NOT NULL, -- of the three: no file on disk could tell that one of them changed
        PRIMARY KEY (recipe, digest)
    ) WITHOUT ROWID""",
)


class ShardRow(NamedTuple):
    name: str
    num_rows: int
    num_bytes: int
    keys: bytes

    @classmethod
    def of(cls, path: Path, shard: Shard) -> ShardRow:
        return cls(path.stem, shard.num_rows, shard.num_bytes, shard.keys.tobytes())

    def find_fault(self) -> str | None:
        """Say why no catalog can have written this row, if so; SQLite puts any type into any column."""
        types = tuple(type(value) for value in self)
        if types != (str, int, int, bytes):
            return "has columns of other types"
        return None if len(self.keys) == DIGEST_BYTES * self.num_rows else "has another number of keys than rows"


class State(NamedTuple):
    """Changes whenever a shard comes or goes."""

    last_sequence: int
    num_shards: int


class Catalog:
    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self.database = Database(workspace, workspace.catalog, VERSION, SCHEMA)

    def recover(self, space: Space) -> None:
        """Make catalog, disk and staging agree; takes milliseconds if they do.

        A damaged catalog moves to quarantine; a new one adopts all shards of the space.
        """
        self.database.prepare()
        try:
            self._agree(space)
        except DamagedError as error:
            self.rebuild(space, error)

    def rebuild(self, space: Space, error: DamagedError) -> None:
        """Make a new catalog, unless another process has replaced the damaged one meanwhile."""
        log.warning("%s", error)
        self.database.replace(self._is_sound)
        self._agree(space)

    def _is_sound(self) -> bool:
        try:
            self.check(lambda _, row: row.find_fault())
        except DamagedError:
            return False
        return True

    def _agree(self, space: Space) -> None:
        sweep(self._workspace.staging)
        with self.database.read() as connection:
            rows = connection.execute("SELECT name FROM shards WHERE space = ?", (space.id,))
            known = {name for (name,) in rows}
        # listed after the catalog was read: a shard that another process registers meanwhile is no loss
        on_disk = dict(self._workspace.shards(space.id))
        if vanished := known - on_disk.keys():
            log.warning("%d shards of space %s are gone from disk", len(vanished), space.id)
            self.remove(space, vanished)
        orphans = [on_disk[name] for name in sorted(on_disk.keys() - known)]
        adopted = [row for path in orphans if (row := self._examine(path, space))]
        if adopted:
            log.info("adopted %d shards that the catalog did not know", len(adopted))
            for folder in {path.parent for path in orphans}:  # their writer may have died before syncing it
                with explained(folder):
                    self._workspace.staging.fs.fsync_path(folder)
            self.add(space, adopted)

    def _examine(self, path: Path, space: Space) -> ShardRow | None:
        """Describe an orphan; one that is damaged goes to quarantine, one of another version stays."""
        # Deferred: loads HDF5, which a run that finds everything in order does not need.
        from storage.features.shards import is_named_after_content, open_shard

        try:
            if not is_named_after_content(path):
                raise DamagedError(f"{path} is damaged: its content does not match its name.")
            shard = open_shard(path, space)
        except DamagedError as error:
            log.warning("%s It moved to %s.", error, self._workspace.set_aside(path))
            return None
        except ConflictError as error:
            log.warning("not used: %s", error)
            return None
        return ShardRow.of(path, shard)

    def add(
        self,
        space: Space,
        shards: Iterable[ShardRow],
        recipe: str = "",
        rejects: Iterable[tuple[Digest, str]] = (),
    ) -> None:
        """Register shards and rejects in one commit; what is already there stays as it is."""
        with self.database.write() as connection:
            connection.executemany(
                "INSERT OR IGNORE INTO shards (space, name, num_rows, num_bytes, keys) VALUES (?, ?, ?, ?, ?)",
                [(space.id, *shard) for shard in shards],
            )
            connection.executemany(
                "INSERT OR REPLACE INTO rejects (recipe, digest, reason, checksum) VALUES (?, ?, ?, ?)",
                [(*row, checksum(*row)) for row in ((recipe, digest, plain(reason)) for digest, reason in rejects)],
            )

    def remove(self, space: Space, names: Iterable[str]) -> None:
        with self.database.write() as connection:
            connection.executemany(
                "DELETE FROM shards WHERE space = ? AND name = ?", [(space.id, name) for name in names]
            )

    def check(self, find_fault: Callable[[str, ShardRow], str | None]) -> None:
        """Check everything; `find_fault` compares a space's row with the shard on disk.

        Raises
        ------
        DamagedError
            Something is not as it was written.
        """
        self.database.check_writable()
        self.database.check()
        with self.database.read() as connection:
            for space, *row in connection.execute("SELECT space, name, num_rows, num_bytes, keys FROM shards"):
                if fault := find_fault(space, ShardRow(*row)):
                    raise DamagedError(f"{self.database.path} is damaged: its shard {row[0]!r} {fault}.")
            for *columns, sum_ in connection.execute("SELECT recipe, digest, reason, checksum FROM rejects"):
                if checksum(*columns) != sum_:
                    raise DamagedError(
                        f"{self.database.path} is damaged: a picture that was rejected fails its checksum."
                    )

    def state(self, space: Space) -> State:
        with self.database.read() as connection:
            query = "SELECT ifnull(max(sequence), 0), count(*) FROM shards WHERE space = ?"
            return State(*connection.execute(query, (space.id,)).fetchone())

    def shards(self, space: Space, after: int = 0, until: int = MAX_SEQUENCE) -> Iterator[ShardRow]:
        """Yield the shards registered after a sequence number and until another, in that order.

        Raises
        ------
        DamagedError
            There is a row that no catalog can have written.
        """
        with self.database.read() as connection:
            # "+": walk the table, of which each row is read once, not the index of names, after which they are sorted
            rows = connection.execute(
                "SELECT name, num_rows, num_bytes, keys FROM shards "
                "WHERE +space = ? AND sequence > ? AND sequence <= ? ORDER BY sequence",
                (space.id, after, until),
            )
            for row in map(ShardRow._make, rows):
                if fault := row.find_fault():
                    raise DamagedError(f"{self.database.path} is damaged: its shard {row.name!r} {fault}.")
                yield row

    def num_bytes(self, space: Space) -> int:
        with self.database.read() as connection:
            query = "SELECT ifnull(sum(num_bytes), 0) FROM shards WHERE space = ?"
            return int(connection.execute(query, (space.id,)).fetchone()[0])

    def rejects(self, recipe: str, digests: Sequence[Digest]) -> dict[Digest, str]:
        with self.database.read() as connection:
            rows = connection.execute("SELECT digest, reason, checksum FROM rejects WHERE recipe = ?", (recipe,))
            known: dict[Digest, str] = {row[0]: row[1] for row in rows if checksum(recipe, *row[:2]) == row[2]}
        return {digest: known[digest] for digest in digests if digest in known}
