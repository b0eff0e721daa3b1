"""HDF5 as plain bytes: files made in memory, datasets of which only the place is asked.

HDF5 does not survive a full disk (SIGSEGV) and h5py can swallow an I/O error at close, so neither gets to touch one.
What is read may have been damaged, or made to do harm: every feature that is not plain bytes is refused.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from pipeline.errors import DamagedError
from storage.disk.documents import check_format

UNREADABLE = (OSError, KeyError, RuntimeError, ValueError, TypeError, AttributeError, MemoryError)


def create_file(image: Any, groups: Iterable[str], format: str, version: int) -> h5py.File:
    """Create a file with some groups in a file object; nothing in it notes the time: equal rows, equal bytes.

    h5py's own functions cannot switch these times off. Attributes are strings of fixed length (np.bytes_), which lie in
    the checksummed header; those of variable length lie in a heap without a checksum, where HDF5 loops forever on a
    flipped bit.
    """
    access = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
    access.set_fileobj_driver(h5py.h5fd.fileobj_driver, image)
    access.set_libver_bounds(h5py.h5f.LIBVER_V110, h5py.h5f.LIBVER_V110)
    access.set_fclose_degree(h5py.h5f.CLOSE_STRONG)
    file_creation = h5py.h5p.create(h5py.h5p.FILE_CREATE)
    file_creation.set_obj_track_times(False)
    file = h5py.File(h5py.h5f.create(b"image", h5py.h5f.ACC_TRUNC, fcpl=file_creation, fapl=access))
    group_creation = h5py.h5p.create(h5py.h5p.GROUP_CREATE)
    group_creation.set_obj_track_times(False)
    for group in groups:
        h5py.h5g.create(file.id, group.encode(), gcpl=group_creation)
    file.attrs["format"] = np.bytes_(format)
    file.attrs["version"] = version
    return file


def check_header(file: h5py.File, format: str, version: int, path: Path) -> None:
    """Refuse what another program, or another version of this one, has written; raises as `check_format` does."""
    check_format({"format": text_of(file, "format"), "version": int(file.attrs["version"])}, format, version, path)


def reserve(file: h5py.File, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> int:
    """Create a dataset whose bytes the caller writes, and return where they belong; it must not be empty."""
    creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    creation.set_layout(h5py.h5d.CONTIGUOUS)
    creation.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    creation.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    creation.set_obj_track_times(False)
    kind, space = h5py.h5t.py_create(dtype, logical=True), h5py.h5s.create_simple(shape)
    return int(h5py.h5d.create(file.id, name.encode(), kind, space, dcpl=creation).get_offset())


def offset_of(
    file: h5py.File, name: str, shape: tuple[int, ...], dtype: np.dtype[Any], num_bytes: int, path: Path
) -> int:
    """Return where a dataset's bytes start, having refused every HDF5 feature that is not plain bytes.

    Links, external storage and virtual datasets read other files; filters run code.
    """
    dataset: Any = file[name] if is_hard_link(file, name) else None
    plain = (
        isinstance(dataset, h5py.Dataset)
        and dataset.shape == shape
        and dataset.dtype == dtype
        and dataset.external is None
        and dataset.id.get_create_plist().get_layout() == h5py.h5d.CONTIGUOUS
        and dataset.id.get_create_plist().get_nfilters() == 0
    )
    start = dataset.id.get_offset() if plain else None
    if start is None or start + dataset.nbytes > num_bytes:
        raise DamagedError(f"{path} is damaged: '{name}' is not {dtype}{list(shape)} in one piece.")
    return int(start)


def text_of(file: h5py.File, attribute: str) -> str:
    return bytes(file.attrs[attribute]).decode("ascii")


def is_hard_link(file: h5py.File, name: str) -> bool:
    return isinstance(file.get(name, getlink=True), h5py.HardLink)
