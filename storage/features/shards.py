"""Shards: immutable, self-describing HDF5 files of features.

An image of the file is built in memory and handed out as bytes. Datasets are contiguous and unfiltered, so that
rows are read straight from the file; each row carries a checksum over its key and its bytes, which finds rot, swapped
rows and wrong keys alike.

    attributes          format, version, space (id), descriptor (JSON); strings of fixed length
    /key                (n, 32) uint8, SHA-256 of the encoded image
    /features/<tap>     (n, dim) in the space's dtype
    /checksums/<tap>    (n,) uint64, xxh3-64 of key bytes + row bytes
"""

from __future__ import annotations

import errno
import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import xxhash
from numpy.typing import NDArray

from pipeline.errors import ConflictError, DamagedError, NumericsError
from pipeline.fingerprint import DIGEST_BYTES, canonical_json
from pipeline.types import Digest, FeatureBlock, Space
from storage.disk.hashes import hash_file
from storage.disk.hdf5 import UNREADABLE, check_header, create_file, is_hard_link, offset_of, text_of
from storage.features.index import Indices

FORMAT = "headstart.shard"
VERSION = 1

Rows = NDArray[np.floating[Any]]  # (rows, dim), in the space's dtype
Keys = NDArray[np.uint8]  # (rows, 32)


def stored_dtype(space: Space) -> np.dtype[Any]:
    return np.dtype(space.dtype).newbyteorder("<")


def to_stored(space: Space, block: FeatureBlock) -> dict[str, Rows]:
    """Convert a block to what is kept: every tap of the space, in its dtype, all finite.

    Raises
    ------
    ValueError
        The block has other taps, rows or dimensions than the space says.
    NumericsError
        A value is not finite, or too large for the dtype.
    """
    wanted = {tap.name: (len(block.digests), tap.dim) for tap in space.taps}
    found = {name: rows.shape for name, rows in block.taps.items()}
    if found != wanted:
        raise ValueError(f"the space wants taps of shape {wanted}, the block has {found}")
    stored = {}
    for name, rows in block.taps.items():
        with np.errstate(over="ignore"):
            stored[name] = rows.astype(stored_dtype(space), order="C")
        if np.isfinite(stored[name]).all():
            continue
        if np.isfinite(rows).all():
            largest = float(np.abs(rows).max())
            raise NumericsError(f"Tap '{name}' holds {largest:g}, which {space.dtype} cannot hold.")
        raise NumericsError(f"Tap '{name}' holds values that are not finite; the network is broken here.")
    return stored


def encode_shard(space: Space, digests: Sequence[Digest], taps: Mapping[str, Rows]) -> bytes:
    """Return the bytes of a shard; equal rows give equal bytes."""
    keys = _as_keys(b"".join(digests))
    buffer = io.BytesIO()
    with create_file(buffer, ("features", "checksums"), FORMAT, VERSION) as file:
        file.attrs["space"] = np.bytes_(space.id)
        file.attrs["descriptor"] = np.bytes_(canonical_json(space.descriptor()))
        file["key"] = keys
        for name, rows in taps.items():
            file[f"features/{name}"] = rows
            file[f"checksums/{name}"] = _checksums(keys, rows.view(np.uint8))
    image = buffer.getvalue()  # after close: before it the file is marked as open for writing
    for name, place in _parse(io.BytesIO(image), len(image), space, Path("a new shard")).places.items():
        # what HDF5 reports at close is not relied upon
        if image[place.offset : place.offset + taps[name].nbytes] != taps[name].tobytes():
            raise OSError(f"HDF5 did not write tap '{name}' as it was given")
    return image


@dataclass(frozen=True, slots=True)
class Place:
    """Where the rows of one tap lie in the file."""

    offset: int  # bytes
    dim: int
    checksums: NDArray[np.uint64]  # (n,)


@dataclass(frozen=True, slots=True)
class Shard:
    """An open shard; holds no descriptor, so that any number of them can be kept."""

    path: Path
    num_rows: int
    num_bytes: int
    dtype: np.dtype[Any]
    keys: Keys
    places: Mapping[str, Place]

    def read_rows(self, tap: str, rows: Indices, keys: Keys) -> Rows:
        """Read rows that must belong to the given keys, in the order asked for.

        Returns
        -------
        (len(rows), dim) in the space's dtype

        Raises
        ------
        DamagedError
            A row is not what was written for its key.
        """
        place = self.places[tap]
        data = np.empty((len(rows), place.dim * self.dtype.itemsize), np.uint8)
        try:
            _read_runs(self.path, place.offset, rows, data)
        except OSError as error:
            raise DamagedError(f"{self.path} cannot be read: {error.strerror or error}.") from error
        num_wrong = np.count_nonzero(_checksums(keys, data) != place.checksums[rows])
        if num_wrong:
            raise DamagedError(f"{self.path} is damaged: {num_wrong} rows of tap '{tap}' fail their checksum.")
        return data.view(self.dtype)


def open_shard(path: Path, space: Space) -> Shard:
    """Open a shard and check all of its structure; its rows are checked as they are read.

    Raises
    ------
    DamagedError
        It is gone, or not a shard of this space.
    ConflictError
        It has another format version, or the system does not let us open it.
    """
    try:
        # our own descriptor: HDF5 would lock the file, which not every file system can
        with open(path, "rb") as file:
            return _parse(file, os.fstat(file.fileno()).st_size, space, path)
    except FileNotFoundError as error:
        raise DamagedError(f"{path} is gone.") from error
    except OSError as error:
        raise ConflictError(f"Cannot open {path}: {error.strerror or error}.") from error


def read_all(shard: Shard) -> FeatureBlock:
    """Read every tap of a small shard, as float32."""
    rows = np.arange(shard.num_rows)
    return FeatureBlock(
        digests=tuple(key.tobytes() for key in shard.keys),
        taps={tap: shard.read_rows(tap, rows, shard.keys).astype(np.float32) for tap in shard.places},
    )


def read_descriptor(path: Path) -> Any:
    """Return the descriptor of a shard's space; DamagedError if the file has none."""
    try:
        with open(path, "rb") as file, h5py.File(file, "r") as opened:
            return json.loads(text_of(opened, "descriptor"))
    except UNREADABLE as error:
        raise DamagedError(f"{path} is damaged: it has no descriptor ({error}).") from error


def is_named_after_content(path: Path) -> bool:
    """The deep check: read every byte, about 1 GB/s."""
    try:
        return hash_file(path) == path.stem
    except OSError as error:
        if error.errno in (errno.EIO, errno.ENOENT):
            return False
        raise ConflictError(f"Cannot check {path}: {error.strerror or error}.") from error


def _parse(source: io.BufferedIOBase, num_bytes: int, space: Space, path: Path) -> Shard:
    try:
        with h5py.File(source, "r") as file:
            check_header(file, FORMAT, VERSION, path)
            if text_of(file, "space") != space.id:
                raise DamagedError(f"{path} is of space {text_of(file, 'space')}; wanted {space.id}.")
            return _parse_datasets(file, num_bytes, space, path)
    except UNREADABLE as error:
        raise DamagedError(f"{path} is damaged: HDF5 cannot read it ({error}).") from error


def _parse_datasets(file: h5py.File, num_bytes: int, space: Space, path: Path) -> Shard:
    names = {"key", "features", "checksums"}
    taps = {tap.name for tap in space.taps}
    whole = set(file) == names and all(is_hard_link(file, name) for name in names)
    if not whole or not taps == set(file["features"]) == set(file["checksums"]):
        raise DamagedError(f"{path} is damaged: it holds other datasets than the taps of its space.")
    num_rows = len(file["key"])
    dtype = stored_dtype(space)

    def offset(name: str, shape: tuple[int, ...], wanted: np.dtype[Any]) -> int:
        return offset_of(file, name, shape, wanted, num_bytes, path)

    offset("key", (num_rows, DIGEST_BYTES), np.dtype(np.uint8))
    places = {}
    for tap in space.taps:
        offset(f"checksums/{tap.name}", (num_rows,), np.dtype("<u8"))
        places[tap.name] = Place(
            offset=offset(f"features/{tap.name}", (num_rows, tap.dim), dtype),
            dim=tap.dim,
            checksums=file[f"checksums/{tap.name}"][()],
        )
    return Shard(path=path, num_rows=num_rows, num_bytes=num_bytes, dtype=dtype, keys=file["key"][()], places=places)


def _as_keys(data: bytes) -> Keys:
    return np.frombuffer(data, np.uint8).reshape(-1, DIGEST_BYTES)


def _checksums(keys: Keys, data: NDArray[np.uint8]) -> NDArray[np.uint64]:
    digest = xxhash.xxh3_64_intdigest
    return np.fromiter((digest(row) for row in np.hstack([keys, data])), np.uint64, len(keys))


def _read_runs(path: Path, offset: int, rows: Indices, into: NDArray[np.uint8]) -> None:
    """Read each run of consecutive rows with one call.

    Not a memory map: there, a bad sector or a file cut short is a SIGBUS and not an error.
    """
    row_bytes = into.shape[1]
    ends = [*(np.flatnonzero(np.diff(rows) != 1) + 1).tolist(), len(rows)] if len(rows) else []
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        start = 0
        for end in ends:
            run = into[start:end]
            if os.preadv(descriptor, [run.data], offset + int(rows[start]) * row_bytes) != run.nbytes:
                raise OSError("it ends too early")
            start = end
    finally:
        os.close(descriptor)
