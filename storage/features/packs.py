"""Packs: all that training reads of a dataset in one HDF5 file, in the dataset's order.

Disposable: made from the store at any time. Any HDF5 reader opens it; `open_pack` maps it into memory, where reading
a batch costs no more than copying it.

    attributes          format, version, space (id), descriptor (JSON); strings of fixed length
    /key                (n, 32) uint8, SHA-256 of the encoded image
    /features/<tap>     (n, dim) in the space's dtype
    /label              (n,) int32, index into /classes
    /split              (n,) "train", "val" or "test"; all text is bytes of one length, the shorter padded with NUL
    /path               (n,) relative to the dataset's folder, as the file system spells it
    /classes            (classes,) UTF-8
    /sha256             (32,) uint8, of the whole file with zeros in this place
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ConflictError, DamagedError, DataError, UnknownNameError
from pipeline.fingerprint import DIGEST_BYTES, canonical_json
from pipeline.types import Digest, Image, Space
from storage.disk.atomic import write_stream
from storage.disk.hdf5 import UNREADABLE, check_header, create_file, is_hard_link, offset_of, reserve, text_of
from storage.features.shards import Keys, Rows, stored_dtype
from storage.features.store import FeatureStore

FORMAT = "headstart.pack"
VERSION = 1
BLOCK_ROWS = 4096  # read and written at a time
BLOCK_BYTES = 1 << 22  # checked at a time

_COLUMNS = ("key", "label", "split", "path")
_LABEL = np.dtype("<i4")
_SPLIT = np.dtype("S5")


class _Column(NamedTuple):
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    blocks: Iterable[NDArray[Any]]


class _Blank(mmap.mmap):
    """A file in memory of which only the pages that are written take any."""

    num_bytes = 0

    def seek(self, place: int, whence: int = os.SEEK_SET) -> None:
        super().seek(place + self.num_bytes if whence == os.SEEK_END else place)

    def write(self, data: Any) -> int:
        num_written = super().write(data)
        self.num_bytes = max(self.num_bytes, self.tell())
        return num_written

    def truncate(self, size: int) -> None:
        self.num_bytes = size


def write_pack(
    store: FeatureStore,
    images: Sequence[Image],
    classes: Sequence[str],
    path: Path,
    taps: Sequence[str] | None = None,
    exclusive: bool = True,
) -> None:
    """Write the features of images that the store has, whole or not at all; an existing file is replaced.

    Parameters
    ----------
    taps
        Which ones; all of the space if None.
    exclusive
        Whether the labels exclude each other; else there is a row of 0 and 1 an image, a column a class.

    Raises
    ------
    DataError
        There are no images.
    NotFoundError, DamagedError
        As `FeatureStore.read`.
    ConflictError
        It cannot be written.
    """
    if not images:
        raise DataError("There is nothing to pack: no picture of the dataset has features.")
    dims = {tap.name: tap.dim for tap in store.space.taps}
    taps = list(dims) if taps is None else taps
    for tap in taps:
        if tap not in dims:
            raise UnknownNameError("tap", tap, dims)
    digests = [image.digest for image in images]
    dtype = stored_dtype(store.space)
    features = [
        _Column(f"features/{tap}", (len(images), dims[tap]), dtype, _read(store, digests, tap, dtype)) for tap in taps
    ]
    columns = [
        _column("key", np.frombuffer(b"".join(digests), np.uint8).reshape(-1, DIGEST_BYTES)),
        *features,
        _label_column(images, len(classes), exclusive),
        _column("split", np.array([image.split for image in images], _SPLIT)),
        _column("path", np.array([os.fsencode(image.path) for image in images])),
        _column("classes", np.array([name.encode("utf-8", "surrogateescape") for name in classes])),
    ]
    write_stream(path, _stream(store.space, columns))


def _label_column(images: Sequence[Image], num_classes: int, exclusive: bool) -> _Column:
    if exclusive:
        return _column("label", np.array([image.label for image in images], _LABEL))
    marks = np.zeros((len(images), num_classes), _LABEL)
    for row, image in enumerate(images):
        marks[row, list(image.labels)] = 1
    return _column("label", marks)


def _column(name: str, values: NDArray[Any]) -> _Column:
    return _Column(name, values.shape, values.dtype, [values])


def _read(store: FeatureStore, digests: Sequence[Digest], tap: str, dtype: np.dtype[Any]) -> Iterator[Rows]:
    for start in range(0, len(digests), BLOCK_ROWS):
        # from float32 back to what is stored: exact
        yield store.read(digests[start : start + BLOCK_ROWS], tap).astype(dtype)


def _stream(space: Space, columns: Sequence[_Column]) -> Iterator[bytes]:
    """Yield the file piece by piece: HDF5's own bytes as it wrote them around blank datasets, and the datasets."""
    size = sum(int(np.prod(column.shape)) * column.dtype.itemsize for column in columns)
    blank = _Blank(-1, size + (1 << 20))  # a megabyte for what HDF5 adds; it takes 6 kB
    with create_file(blank, ["features"], FORMAT, VERSION) as file:
        file.attrs["space"] = np.bytes_(space.id)
        file.attrs["descriptor"] = np.bytes_(canonical_json(space.descriptor()))
        starts = [reserve(file, column.name, column.shape, column.dtype) for column in columns]
        last = reserve(file, "sha256", (DIGEST_BYTES,), np.dtype(np.uint8))
    digest, place = hashlib.sha256(), 0
    for start, column in zip(starts, columns, strict=True):
        digest.update(blank[place:start])
        yield blank[place:start]
        place = start
        for block in column.blocks:
            data = block.tobytes()
            digest.update(data)
            yield data
            place += len(data)
    rest = blank[place : blank.num_bytes]  # the digest's own place, still blank, is in it
    digest.update(rest)
    yield rest[: last - place]
    yield digest.digest()
    yield rest[last - place + DIGEST_BYTES :]


@dataclass(frozen=True, slots=True)
class Pack:
    """An open pack: read-only arrays over a memory map.

    A file that is cut short, or on a bad sector, ends the process when such an array is read (SIGBUS): keep packs on
    a disk that you trust, and do not change them.
    """

    path: Path
    space_id: str
    classes: tuple[str, ...]
    keys: Keys  # (n, 32)
    features: Mapping[str, Rows]  # tap -> (n, dim), in the space's dtype
    labels: NDArray[np.int32]  # (n,); (n, classes) of 0 and 1 where labels do not exclude each other
    splits: NDArray[np.bytes_]  # (n,) b"train", b"val" or b"test"
    paths: NDArray[np.bytes_]  # (n,)
    sha256: bytes
    sha256_offset: int

    def check(self) -> None:
        """Read every byte (about 1 GB/s); DamagedError unless all are as they were written."""
        digest = hashlib.sha256()
        with open(self.path, "rb") as file:
            while (place := file.tell()) != self.sha256_offset:
                digest.update(file.read(min(BLOCK_BYTES, self.sha256_offset - place)))
            digest.update(bytes(len(file.read(DIGEST_BYTES))))
            while block := file.read(BLOCK_BYTES):
                digest.update(block)
        if digest.digest() != self.sha256:
            raise DamagedError(f"{self.path} is damaged: its content fails its SHA-256. Make it again.")


def open_pack(path: Path) -> Pack:
    """Map a pack into memory, having checked all of its structure.

    Raises
    ------
    DamagedError
        It is not a pack, or its structure is not what was written.
    ConflictError
        It has another format version, or the system does not let us open it.
    """
    try:
        with open(path, "rb") as file:
            num_bytes = os.fstat(file.fileno()).st_size
            if num_bytes == 0:
                raise DamagedError(f"{path} is damaged: it is empty.")
            return _parse(file, num_bytes, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), path)
    except OSError as error:
        raise ConflictError(f"Cannot open {path}: {error.strerror or error}.") from error


def _parse(source: Any, num_bytes: int, mapped: mmap.mmap, path: Path) -> Pack:
    try:
        with h5py.File(source, "r") as file:
            check_header(file, FORMAT, VERSION, path)
            names = {*_COLUMNS, "features", "classes", "sha256"}
            if set(file) != names or not all(is_hard_link(file, name) for name in names):
                raise DamagedError(f"{path} is damaged: it holds other datasets than a pack.")
            return _map_datasets(file, num_bytes, mapped, path)
    except UNREADABLE as error:
        raise DamagedError(f"{path} is damaged: HDF5 cannot read it ({error}).") from error


def _map_datasets(file: h5py.File, num_bytes: int, mapped: mmap.mmap, path: Path) -> Pack:
    num_rows = len(file["key"])

    def array(name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        start = offset_of(file, name, shape, dtype, num_bytes, path)
        return np.ndarray(shape, dtype, mapped, start)

    def texts(name: str, count: int) -> NDArray[np.bytes_]:
        return array(name, (count,), np.dtype(f"S{file[name].dtype.itemsize}"))

    num_classes = len(file["classes"])
    several = file["label"].ndim == 2
    dtype = np.dtype(str(json.loads(text_of(file, "descriptor"))["dtype"])).newbyteorder("<")
    sha256_offset = offset_of(file, "sha256", (DIGEST_BYTES,), np.dtype(np.uint8), num_bytes, path)
    return Pack(
        path=path,
        space_id=text_of(file, "space"),
        classes=tuple(name.decode("utf-8", "surrogateescape") for name in texts("classes", num_classes).tolist()),
        keys=array("key", (num_rows, DIGEST_BYTES), np.dtype(np.uint8)),
        features={
            tap: array(f"features/{tap}", (num_rows, file["features"][tap].shape[1]), dtype) for tap in file["features"]
        },
        labels=array("label", (num_rows, num_classes) if several else (num_rows,), _LABEL),
        splits=array("split", (num_rows,), _SPLIT),
        paths=texts("path", num_rows),
        sha256=mapped[sha256_offset : sha256_offset + DIGEST_BYTES],
        sha256_offset=sha256_offset,
    )
