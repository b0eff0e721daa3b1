"""An index from digest to shard and row: one sorted array, in which many digests are looked up at a time.

Memory: 40 bytes a row; about 100 while new rows are sorted in.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.fingerprint import DIGEST_BYTES
from pipeline.types import Digest

Indices = NDArray[np.intp]

_KEY = f"S{DIGEST_BYTES}"


class KeyIndex:
    """Digest -> (shard number, row). If two shards hold the same image, the first one added wins."""

    def __init__(self) -> None:
        self.shards: list[str] = []  # names, by shard number
        self._starts: list[int] = [0]  # first row of each shard, and of the next one
        self._added: list[NDArray[np.bytes_]] = []  # digests that are not sorted yet, by shard
        self._keys: NDArray[np.bytes_] = np.empty(0, _KEY)  # sorted
        self._rows: Indices = np.empty(0, np.intp)  # of each key, counted over all shards

    def add(self, shard: str, keys: bytes) -> None:
        """Enter a shard: its digests, one after the other, in the order of its rows."""
        added = np.frombuffer(keys, _KEY)
        self.shards.append(shard)
        self._starts.append(self._starts[-1] + len(added))
        self._added.append(added)

    def find(self, digests: Sequence[Digest]) -> tuple[Indices, Indices]:
        """Return the shard number (-1 if no shard holds it) and the row within it, one per digest."""
        self._sort()
        wanted = np.frombuffer(b"".join(digests), _KEY)
        places = np.searchsorted(self._keys, wanted)
        held = np.flatnonzero(places < len(self._keys))
        held = held[self._keys[places[held]] == wanted[held]]
        found: Indices = np.full(len(wanted), -1, np.intp)
        found[held] = self._rows[places[held]]
        starts = np.asarray(self._starts)
        shard = np.searchsorted(starts, found, side="right") - 1
        return shard, found - starts[shard]

    def num_distinct(self) -> int:
        self._sort()
        return len(self._keys) - int(np.count_nonzero(self._keys[1:] == self._keys[:-1]))

    def _sort(self) -> None:
        """Enter the digests that were added since the last time, equal ones in the order of their rows."""
        if self._added:
            added: NDArray[Any] = np.concatenate(self._added)
            self._added = []  # their memory is free before more is taken
            order = np.argsort(added, kind="stable")
            added = added[order]
            places = np.searchsorted(self._keys, added, side="right")
            self._rows = np.insert(self._rows, places, order + len(self._keys))
            self._keys = np.insert(self._keys, places, added)
