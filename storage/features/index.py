"""Which shard and row holds an image: digests in a cascade of hash tables, entered and looked up many at a time.

A table has one row number per slot. Of the rows that want a slot the first one gets it, and the others go on to the
next table, where other bits of their digests choose. Each step treats all rows of a batch in a few numpy calls: 10
million rows take half the time that sorting their first 8 bytes would, and a row that comes later moves no other.
Memory: 32 bytes of digest a row, and 6 to 11 of tables.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.fingerprint import DIGEST_BYTES
from pipeline.types import Digest

Indices = NDArray[np.intp]
_Words = NDArray[np.uint64]  # (rows, 4), digests
_Rows = NDArray[np.uint32]  # counted from 1 over all shards; 0 stands for none
_Table = NDArray[np.uint32]  # (a power of two,), the row in each slot

_WORDS = DIGEST_BYTES // 8
_GOLDEN = 0x9E3779B97F4A7C15  # 2^64 / golden ratio, odd (Knuth, The Art of Computer Programming, vol. 3, 6.4)


class KeyIndex:
    """Digest -> (shard number, row). Where two shards hold the same image the first one added wins."""

    def __init__(self) -> None:
        self.shards: list[str] = []  # names, by shard number
        self._starts: list[int] = [1]  # first row of each shard, and the one that comes next
        self._words: _Words = np.empty((1, _WORDS), np.uint64)  # by row, with room for more
        self._tables: list[_Table] = []
        self._num_placed = 0  # rows that went through the tables
        self._num_distinct = 0  # of those

    def reserve(self, num_rows: int) -> None:
        """Make room for so many rows in all, and for as many again; memory that is not touched is not taken."""
        end = self._starts[-1]
        if num_rows > len(self._words):
            words = np.empty((2 * num_rows, _WORDS), np.uint64)
            words[:end] = self._words[:end]
            self._words = words

    def add(self, shard: str, keys: bytes) -> None:
        start = self._starts[-1]
        end = start + len(keys) // DIGEST_BYTES
        if end > len(self._words):
            self.reserve(end)
        self._words[start:end] = np.frombuffer(keys, np.uint64).reshape(-1, _WORDS)
        self.shards.append(shard)
        self._starts.append(end)

    def find(self, digests: Sequence[Digest]) -> tuple[Indices, Indices]:
        """Return the shard number (-1 where there is none) and the row within it, one per digest."""
        self._place()
        wanted = np.frombuffer(b"".join(digests), np.uint64).reshape(-1, _WORDS)
        found: _Rows = np.zeros(len(wanted), np.uint32)
        places = np.arange(len(wanted))  # of the digests that are neither found nor known to be absent
        for level, table in enumerate(self._tables):
            holders = table[_slots(table, level, wanted[places, level % _WORDS])]
            places, holders = places[holders > 0], holders[holders > 0]
            same = (self._words[holders] == wanted[places]).all(axis=1)
            found[places[same]] = holders[same]
            places = places[~same]
        starts = np.asarray(self._starts)
        shard = np.searchsorted(starts, found, side="right") - 1
        return shard, found - starts[shard]

    def num_distinct(self) -> int:
        self._place()
        return self._num_distinct

    def _place(self) -> None:
        """Enter the rows that were added since the last time."""
        num_rows = self._starts[-1] - 1
        if self._tables and num_rows > 2 * len(self._tables[0]):  # most would go on from table to table
            self._tables.clear()
            self._num_placed = self._num_distinct = 0
        rows: _Rows = np.arange(self._num_placed + 1, num_rows + 1, dtype=np.uint32)
        self._num_placed = num_rows
        self._num_distinct += len(rows)
        level = 0
        while len(rows):
            is_new = level == len(self._tables)
            if is_new:
                # a sixteenth of all rows at least, so that rows that come a few at a time need few tables
                self._tables.append(np.zeros(1 << max(len(rows), num_rows // 16, 15).bit_length(), np.uint32))
            rows = self._enter(self._tables[level], level, rows, is_new)
            level += 1

    def _enter(self, table: _Table, level: int, rows: _Rows, is_empty: bool) -> _Rows:
        """Put rows in the slots that are free; return those that must go on."""
        slots = _slots(table, level, self._words[rows, level % _WORDS])
        if is_empty:
            table[slots[::-1]] = rows[::-1]  # the last one written stays: the first row
        else:
            free = np.flatnonzero(table[slots] == 0)[::-1]
            table[slots[free]] = rows[free]
        holders = table.take(slots)
        lost = np.flatnonzero(holders != rows)
        rows, holders = rows[lost], holders[lost]
        same = self._words[rows, 0] == self._words[holders, 0]
        same[same] = (self._words[rows[same]] == self._words[holders[same]]).all(axis=1)
        self._num_distinct -= int(np.count_nonzero(same))  # images that are here already
        others: _Rows = rows[~same]
        return others


def _slots(table: _Table, level: int, words: _Words) -> Indices:
    """Choose slots by one of the digests' words, stirred in another way at each level."""
    stir = np.uint64(pow(_GOLDEN, level + 1, 1 << 64))
    shift = np.uint64(65 - len(table).bit_length())
    slots: Indices = (words * stir >> shift).view(np.int64)
    return slots
