"""An index from digest to shard and row: one sorted array, in which many digests are looked up at a time.

An entry is 32 bits of a digest and the row's number; the whole digest is compared before a row counts as found.
Memory: 40 bytes a row.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.fingerprint import DIGEST_BYTES
from pipeline.types import Digest

Indices = NDArray[np.intp]
_Words = NDArray[np.uint64]

_WORDS = DIGEST_BYTES // 8
_ROW = np.uint64(2**32 - 1)  # of an entry, the row's number
_HEAD = ~_ROW  # of an entry, what it shares with its digest


class KeyIndex:
    """Digest -> (shard number, row). If two shards hold the same image, the first one added wins."""

    def __init__(self) -> None:
        self.shards: list[str] = []  # names, by shard number
        self._starts: list[int] = [0]  # first row of each shard, and of the next one
        self._words: _Words = np.empty((0, _WORDS), np.uint64)  # (rows, 4), digests; with room for more
        self._entries: _Words = np.empty(0, np.uint64)  # sorted

    def reserve(self, num_rows: int) -> None:
        """Make room for this many rows in all, and as many again; memory that is not touched is not taken."""
        if num_rows > len(self._words):
            words = np.empty((2 * num_rows, _WORDS), np.uint64)
            words[: self._starts[-1]] = self._words[: self._starts[-1]]
            self._words = words

    def add(self, shard: str, keys: bytes) -> None:
        """Enter a shard: its digests, one after the other, in the order of its rows."""
        start = self._starts[-1]
        end = start + len(keys) // DIGEST_BYTES
        self.reserve(end)
        self._words[start:end] = np.frombuffer(keys, np.uint64).reshape(-1, _WORDS)
        self.shards.append(shard)
        self._starts.append(end)

    def find(self, digests: Sequence[Digest]) -> tuple[Indices, Indices]:
        """Return the shard number (-1 if there is none) and the row within it, one per digest."""
        self._sort()
        wanted = np.frombuffer(b"".join(digests), np.uint64).reshape(-1, _WORDS)
        heads = wanted[:, 0] & _HEAD
        found: Indices = np.full(len(wanted), -1, np.intp)
        places = np.searchsorted(self._entries, heads)
        left = np.arange(len(wanted))  # neither found nor known to be absent
        while len(left):
            left = left[places[left] < len(self._entries)]
            entries = self._entries[places[left]]
            alike = entries & _HEAD == heads[left]
            left, rows = left[alike], entries[alike] & _ROW
            same = (self._words[rows] == wanted[left]).all(axis=1)
            found[left[same]] = rows[same]
            left = left[~same]
            places[left] += 1  # the next digest that begins with the same 32 bits
        starts = np.asarray(self._starts)
        shard = np.searchsorted(starts, found, side="right") - 1
        return shard, found - starts[shard]

    def num_distinct(self) -> int:
        self._sort()
        heads = self._entries & _HEAD
        alike = np.flatnonzero(heads[1:] == heads[:-1])
        rows = self._entries[np.union1d(alike, alike + 1)] & _ROW
        return len(self._entries) - len(rows) + len(np.unique(self._words[rows], axis=0))

    def _sort(self) -> None:
        """Enter the rows that were added since the last time."""
        first, end = len(self._entries), self._starts[-1]
        if first < end:
            added = np.sort(self._words[first:end, 0] & _HEAD | np.arange(first, end, dtype=np.uint64))
            self._entries = np.insert(self._entries, np.searchsorted(self._entries, added), added) if first else added
