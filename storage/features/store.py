"""Reading the feature store: features by image content, computed once and kept.

`storage.features.shards` is imported inside the functions that read or write rows: it loads HDF5, and a run that finds
everything stored needs to know only that.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, replace
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from pipeline.errors import DamagedError, NotFoundError, UnknownNameError
from pipeline.fingerprint import DIGEST_BYTES, fingerprint
from pipeline.types import Array, Digest, FeatureBlock, Space
from storage.disk.locks import Usage
from storage.features.catalog import Catalog, State
from storage.features.index import Indices, KeyIndex
from storage.features.spaces import check_space
from storage.workspace import Workspace

if TYPE_CHECKING:
    from storage.features.shards import Shard

log = logging.getLogger(__name__)

SHARD_ROWS = 1024  # a commit costs 15 ms, below 0.1 % of computing that many rows

Answer = TypeVar("Answer")


@contextmanager
def open_features(workspace: Workspace, space: Space) -> Iterator[FeatureStore]:
    """Open the features of a space to read them; until the block ends, nothing is removed from the space.

    Raises
    ------
    DamagedError
        The folder of this space describes another one.
    """
    with closing(FeatureStore(workspace, space)) as store:
        yield store


class FeatureStore:
    """The features of one space, to read; `open_features` opens it, `storage.features.writer` adds to it.

    Any number of processes may read and write the same space. An object belongs to one thread.
    """

    def __init__(self, workspace: Workspace, space: Space) -> None:
        self._usage = Usage(workspace.space(space.id))
        self._usage.begin()
        check_space(workspace, space)
        self.space = space
        self._workspace = workspace
        # whether a picture can be decoded is the same in all its views
        self._recipe = fingerprint(asdict(replace(space.recipe, view="original")))
        self._index = KeyIndex()
        self._state = State(0, 0)
        self._shards: dict[str, Shard] = {}

    def close(self) -> None:
        """Let go of the space; the object is of no use afterwards."""
        self._usage.end()

    @cached_property
    def _catalog(self) -> Catalog:
        catalog = Catalog(self._workspace)
        catalog.recover(self.space)
        return catalog

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
        """Read what this or another process has committed or removed since the last time."""
        self._ask(self._read_new)

    def _read_new(self, catalog: Catalog) -> None:
        state = catalog.state(self.space)
        if state == self._state:
            return
        if state.num_shards < self._state.num_shards:
            catalog.recover(self.space)  # perhaps another process is just rebuilding the catalog
            state = catalog.state(self.space)
        self._read_shards(catalog, after=self._state.last_sequence, state=state)
        if len(self._index.shards) != state.num_shards:  # some were removed
            self._index = KeyIndex()
            self._read_shards(catalog, after=0, state=state)
        if len(self._index.shards) != state.num_shards:
            raise DamagedError(f"{catalog.database.path} is damaged: it counts other shards than it holds.")
        self._state = state

    def _read_shards(self, catalog: Catalog, after: int, state: State) -> None:
        for shard in catalog.shards(self.space, after, state.last_sequence):
            self._index.add(shard.name, shard.keys)

    def _ask(self, question: Callable[[Catalog], Answer]) -> Answer:
        """Use the catalog; if it turns out to be damaged, it is rebuilt from the shards and asked again."""
        try:
            return question(self._catalog)
        except DamagedError as error:
            self._index, self._state = KeyIndex(), State(0, 0)
            self._catalog.rebuild(self.space, error)
            return question(self._catalog)

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
            extract them again.
        """
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
                features[_slice(places)] = self._open(name).read_rows(tap, row_of[places], keys[places])
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

    def read_canary(self) -> FeatureBlock | None:
        """Return the features of the built-in pictures as the first machine computed them."""
        from storage.features.shards import open_shard, read_all

        path = self._workspace.canary(self.space.id)
        return read_all(open_shard(path, self.space)) if path.exists() else None


class StoredTaps(Mapping[str, Array]):
    """The taps of given images, each read when it is asked for and not kept: all together may not fit in memory.

    A tap is (spaces x images, dim), space after space. As long as this object lives, nothing is removed from them.
    """

    def __init__(
        self, workspace: Workspace, spaces: Sequence[Space], digests: Sequence[Digest], taps: Sequence[str]
    ) -> None:
        self._stores = [FeatureStore(workspace, space) for space in spaces]
        self._digests, self._taps = digests, taps

    def __getitem__(self, tap: str) -> Array:
        if tap not in self._taps:
            raise KeyError(tap)
        parts = [store.read(self._digests, tap) for store in self._stores]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

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
