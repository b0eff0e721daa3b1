"""Which shard and row holds an image: sorted digests in memory, looked up many at a time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.fingerprint import DIGEST_BYTES
from pipeline.types import Digest

Indices = NDArray[np.intp]

# numpy pads such strings with NULs on the right and ignores those in comparisons: all keys are equally
# long, so that distinct keys stay distinct
_KEY = np.dtype(f"S{DIGEST_BYTES}")


class KeyIndex:
    """Digest -> (shard number, row). Where two shards hold the same image the first one added wins."""

    def __init__(self) -> None:
        self.shards: list[str] = []  # names, by shard number
        self._starts: list[int] = [0]  # rows in all shards before each one
        self._keys: list[bytes] = []
        self._sorted = np.empty(0, _KEY)
        self._order: Indices = np.empty(0, np.intp)  # sorted position -> row over all shards

    def add(self, shard: str, keys: bytes) -> None:
        self.shards.append(shard)
        self._keys.append(keys)
        self._starts.append(self._starts[-1] + len(keys) // DIGEST_BYTES)

    def find(self, digests: Sequence[Digest]) -> tuple[Indices, Indices]:
        """Return the shard number (-1 where there is none) and the row within it, one per digest."""
        self._sort()
        if not len(self._sorted):
            return np.full(len(digests), -1, np.intp), np.zeros(len(digests), np.intp)
        wanted = np.frombuffer(b"".join(digests), _KEY)
        place = np.minimum(np.searchsorted(self._sorted, wanted), len(self._sorted) - 1)
        row = self._order[place]
        starts = np.asarray(self._starts)
        shard = np.searchsorted(starts, row, side="right") - 1
        row -= starts[shard]
        shard[self._sorted[place] != wanted] = -1
        return shard, row

    def num_distinct(self) -> int:
        self._sort()
        return int(np.count_nonzero(self._sorted[1:] != self._sorted[:-1])) + bool(len(self._sorted))

    def _sort(self) -> None:
        if len(self._sorted) == self._starts[-1]:
            return
        keys = np.frombuffer(b"".join(self._keys), _KEY)
        self._order = np.argsort(keys, kind="stable")  # stable: the first of equal keys stays first
        self._sorted = keys[self._order]
