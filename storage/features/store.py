"""The feature store: features by image content, computed once, kept for good.

`storage.features.shards` is imported inside the functions that read or write rows: it loads HDF5, and a run that finds
everything stored needs to know only that.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np

from pipeline.errors import DamagedError, NotFoundError, UnknownNameError
from pipeline.fingerprint import DIGEST_BYTES, fingerprint
from pipeline.types import Array, Digest, FeatureBlock, Space
from storage.disk.atomic import write_once, write_whole
from storage.disk.committing import CommittedAtEnd
from storage.disk.locks import Usage
from storage.features.catalog import Catalog, ShardRow, State
from storage.features.index import Indices, KeyIndex
from storage.features.spaces import check_space, write_space
from storage.workspace import Workspace

if TYPE_CHECKING:
    from storage.features.shards import Rows, Shard

log = logging.getLogger(__name__)

SHARD_ROWS = 1024  # a commit costs 15 ms, below 0.1 % of computing that many rows
COMMIT_SECONDS = 30.0  # the most work that a crash can cost

Answer = TypeVar("Answer")


class _Pending(NamedTuple):
    """Rows that are computed but not committed."""

    digests: tuple[Digest, ...]
    taps: dict[str, Rows]
    rejected: tuple[tuple[Digest, str], ...]


class FeatureStore(CommittedAtEnd):
    """The features of one space. Any number of processes may write; an object belongs to one thread.

    As long as it lives, nothing is removed from its space.

    As a context manager it commits what is complete when the block ends, also on an error or Ctrl-C.
    """

    def __init__(self, workspace: Workspace, space: Space, clock: Callable[[], float] = time.monotonic) -> None:
        self._usage = Usage(workspace.space(space.id))
        self._usage.begin()
        check_space(workspace, space)
        self.space = space
        self._workspace = workspace
        self._clock = clock
        # whether a picture can be decoded is the same in all its views
        self._recipe = fingerprint(asdict(replace(space.recipe, view="original")))
        self._index = KeyIndex()
        self._state = State(0, 0)
        self._shards: dict[str, Shard] = {}
        self._pending: list[_Pending] = []
        self._pending_since = 0.0

    @cached_property
    def _catalog(self) -> Catalog:
        catalog = Catalog(self._workspace)
        catalog.recover(self.space)
        return catalog

    # ── what is there ────────────────────────────────────────────────────────────────────────────

    @property
    def num_stored(self) -> int:
        """Distinct images whose features are committed."""
        self._refresh()
        return self._index.num_distinct()

    @property
    def num_bytes(self) -> int:
        """Size of all committed shards."""
        return self._ask(lambda catalog: catalog.num_bytes(self.space))

    def missing(self, digests: Sequence[Digest]) -> list[Digest]:
        """Return what must be computed: neither stored nor rejected; in order, each once."""
        self._refresh()
        wanted = list(dict.fromkeys(digests))
        shard, _ = self._index.find(wanted)
        absent = [wanted[place] for place in np.flatnonzero(shard < 0).tolist()]
        rejected = self.rejects(absent) if absent else {}
        return [digest for digest in absent if digest not in rejected]

    def rejects(self, digests: Sequence[Digest]) -> dict[Digest, str]:
        """Return why pictures could not be decoded, for those that were tried under this recipe."""
        return self._ask(lambda catalog: catalog.rejects(self._recipe, digests))

    def _refresh(self) -> None:
        """Learn what this or another process has committed or removed since the last look."""
        self._ask(self._read_new)

    def _read_new(self, catalog: Catalog) -> None:
        state = catalog.state(self.space)
        if state == self._state:
            return
        if state.num_shards < self._state.num_shards:
            catalog.recover(self.space)  # perhaps another process is just building the catalog anew
            state = catalog.state(self.space)
        self._read_shards(catalog, after=self._state.last_sequence, state=state)
        if len(self._index.shards) != state.num_shards:  # some were removed
            self._index = KeyIndex()
            self._read_shards(catalog, after=0, state=state)
        if len(self._index.shards) != state.num_shards:
            raise DamagedError(f"{catalog.path} is damaged: it holds other shards than it counts.")
        self._state = state

    def _read_shards(self, catalog: Catalog, after: int, state: State) -> None:
        self._index.reserve(SHARD_ROWS * state.num_shards)
        for shard in catalog.shards(self.space, after, state.last_sequence):
            self._index.add(shard.name, shard.keys)

    def _ask(self, question: Callable[[Catalog], Answer]) -> Answer:
        """Use the catalog; if it turns out to be damaged, it is built anew from the shards and asked again."""
        try:
            return question(self._catalog)
        except DamagedError as error:
            self._index, self._state = KeyIndex(), State(0, 0)
            self._catalog.rebuild(self.space, error)
            return question(self._catalog)

    # ── writing ──────────────────────────────────────────────────────────────────────────────────

    def append(self, block: FeatureBlock) -> None:
        """Take rows over; they are durable after the commit that follows every 1,024 rows or 30 seconds.

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

    # ── reading ──────────────────────────────────────────────────────────────────────────────────

    def read(self, digests: Sequence[Digest], tap: str) -> Array:
        """Read one tap of the given images.

        Returns
        -------
        (len(digests), dim) float32, in the order of `digests`

        Raises
        ------
        NotFoundError
            Some images have no features here.
        DamagedError
            Some rows are not what was written. Their shards are now in quarantine and their images missing:
            extract again and all is well.
        """
        from storage.features.shards import to_float32

        dims = {tap.name: tap.dim for tap in self.space.taps}
        if tap not in dims:
            raise UnknownNameError("tap", tap, dims)
        self._refresh()
        shard_of, row_of = self._index.find(digests)
        if num_absent := int(np.count_nonzero(shard_of < 0)):
            raise NotFoundError(
                f"{num_absent} of {len(digests)} images have no features of {self.space.backbone}. "
                "Run `headstart extract` for this dataset."
            )
        keys = np.frombuffer(b"".join(digests), np.uint8).reshape(-1, DIGEST_BYTES)
        features = np.empty((len(digests), dims[tap]), np.float32)
        damaged = []
        for number, places in _by_shard(shard_of, row_of):
            name = self._index.shards[number]
            try:
                features[_slice(places)] = to_float32(self._open(name).read_rows(tap, row_of[places], keys[places]))
            except DamagedError as error:
                log.warning("%s", error)
                damaged.append(name)
        if damaged:
            raise self._set_aside(damaged)
        return features

    def _open(self, name: str) -> Shard:
        from storage.features.shards import open_shard

        if name not in self._shards:
            self._shards[name] = open_shard(self._workspace.shard(self.space.id, name), self.space)
        return self._shards[name]

    def _set_aside(self, names: list[str]) -> DamagedError:
        """Take damaged shards out of use; return the error that says what that means."""
        before = self.num_stored
        for name in names:
            self._shards.pop(name, None)
        # Forgotten shards are orphans: recovery examines every byte of them. One that is whole after all is
        # adopted again (the catalog was wrong about what is in it), the others go to quarantine.
        self._ask(lambda catalog: catalog.remove(self.space, names))
        self._catalog.recover(self.space)
        return DamagedError(
            f"{len(names)} shards of {self.space.backbone} did not hold what was written; damaged ones are in "
            f"{self._workspace.quarantine}. Run again: {before - self.num_stored} images will be recomputed."
        )

    # ── canary ───────────────────────────────────────────────────────────────────────────────────

    def read_canary(self) -> FeatureBlock | None:
        """Return the features of the built-in pictures as the first machine computed them."""
        from storage.features.shards import open_shard, read_all

        path = self._workspace.canary(self.space.id)
        return read_all(open_shard(path, self.space)) if path.exists() else None

    def write_canary(self, block: FeatureBlock) -> None:
        """Keep the canary unless there is one; of several writers the first wins."""
        from storage.features.shards import encode_shard, to_stored

        image = encode_shard(self.space, block.digests, to_stored(self.space, block))
        write_space(self._workspace, self.space)
        self._usage.begin()  # the folder is there now
        write_once(self._workspace.canary(self.space.id), image, self._workspace.staging, mode=0o444)


def read_together(stores: Sequence[FeatureStore], digests: Sequence[Digest], tap: str) -> Array:
    """Read the same images from several stores, one after the other: (stores x images, dim)."""
    parts = [store.read(digests, tap) for store in stores]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


class StoredTaps(Mapping[str, Array]):
    """The taps of given images, each read when it is asked for and kept by nobody: all together may not fit in memory.

    A tap is (stores x images, dim), store after store.
    """

    def __init__(self, stores: Sequence[FeatureStore], digests: Sequence[Digest], taps: Sequence[str]) -> None:
        self._stores, self._digests, self._taps = stores, digests, taps

    def __getitem__(self, tap: str) -> Array:
        if tap not in self._taps:
            raise KeyError(tap)
        return read_together(self._stores, self._digests, tap)

    def __iter__(self) -> Iterator[str]:
        return iter(self._taps)

    def __len__(self) -> int:
        return len(self._taps)


def _by_shard(shard_of: Indices, row_of: Indices) -> Iterator[tuple[int, Indices]]:
    """Yield each shard with the places of its images, by row, so that the file is read forwards."""
    order = np.lexsort((row_of, shard_of))
    starts = np.flatnonzero(np.diff(shard_of[order])) + 1
    for places in np.split(order, starts):
        if len(places):
            yield int(shard_of[places[0]]), places


def _slice(places: Indices) -> Indices | slice:
    """Consecutive places as a slice, which numpy copies to many times faster."""
    start, stop = int(places[0]), int(places[-1]) + 1
    return slice(start, stop) if (np.diff(places) == 1).all() else places
