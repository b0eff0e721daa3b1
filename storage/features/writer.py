"""Writing to the feature store: rows are collected, and become durable a shard at a time."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pipeline.types import Digest, FeatureBlock, Space
from storage.disk.atomic import write_once, write_whole
from storage.disk.committing import CommittedAtEnd
from storage.features.catalog import ShardRow
from storage.features.spaces import write_space
from storage.features.store import SHARD_ROWS, FeatureStore
from storage.workspace import Workspace

if TYPE_CHECKING:
    from storage.features.shards import Rows

COMMIT_SECONDS = 30.0  # the most work that a crash can cost


class _Pending(NamedTuple):
    """Rows that are computed but not committed."""

    digests: tuple[Digest, ...]
    taps: dict[str, Rows]
    rejected: tuple[tuple[Digest, str], ...]


class FeatureWriter(CommittedAtEnd, FeatureStore):
    """A feature store that can be added to.

    As a context manager it commits what is complete when the block ends, also on an error or Ctrl-C, and closes.
    """

    def __init__(self, workspace: Workspace, space: Space, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(workspace, space)
        self._clock = clock
        self._pending: list[_Pending] = []
        self._pending_since = 0.0

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        try:
            super().__exit__(kind, error, trace)
        finally:
            self.close()

    def append(self, block: FeatureBlock) -> None:
        """Add rows; they are durable after the commit that follows every 1,024 rows or 30 seconds.

        Raises
        ------
        NumericsError
            A value is not finite, or too large for the space's dtype; the block is not taken.
        ConflictError
            A commit failed: the disk is full, or cannot be written.
        """
        from storage.features.shards import to_stored

        taps = to_stored(self.space, block)
        if not self._pending:
            self._pending_since = self._clock()
        for start in range(0, max(len(block.digests), 1), SHARD_ROWS):
            part = slice(start, start + SHARD_ROWS)
            self._pending.append(
                _Pending(
                    digests=block.digests[part],
                    taps={name: rows[part] for name, rows in taps.items()},
                    rejected=() if start else block.rejected,
                )
            )
            if sum(len(pending.digests) for pending in self._pending) >= SHARD_ROWS:
                self.commit()
        if self._pending and self._clock() - self._pending_since >= COMMIT_SECONDS:
            self.commit()

    def commit(self) -> None:
        """Make everything appended so far durable. After a failure it can be called again."""
        if not self._pending:
            return
        self._ask(lambda catalog: None)  # before anything is written: recovery would adopt it as an orphan
        digests = tuple(digest for pending in self._pending for digest in pending.digests)
        rejects = [reject for pending in self._pending for reject in pending.rejected]
        shards = [self._write_shard(digests)] if digests else []
        self._ask(lambda catalog: catalog.add(self.space, shards, self._recipe, rejects))
        self._pending.clear()

    def _write_shard(self, digests: tuple[Digest, ...]) -> ShardRow:
        from storage.features.shards import encode_shard

        taps = {
            tap.name: np.concatenate([pending.taps[tap.name] for pending in self._pending]) for tap in self.space.taps
        }
        image = encode_shard(self.space, digests, taps)
        name = hashlib.sha256(image).hexdigest()
        write_space(self._workspace, self.space)
        self._usage.begin()  # the folder is there now
        write_whole(self._workspace.shard(self.space.id, name), image, self._workspace.staging, mode=0o444)
        return ShardRow(name, len(digests), len(image), b"".join(digests))

    def write_canary(self, block: FeatureBlock) -> None:
        """Keep the canary unless there is one; of several writers the first wins."""
        from storage.features.shards import encode_shard, to_stored

        image = encode_shard(self.space, block.digests, to_stored(self.space, block))
        write_space(self._workspace, self.space)
        self._usage.begin()  # the folder is there now
        write_once(self._workspace.canary(self.space.id), image, self._workspace.staging, mode=0o444)
