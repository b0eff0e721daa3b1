"""Legacy PyTorch checkpoints, read without PyTorch and without running what is in them.

A file of `torch.save` before version 1.6 is: pickles of a magic number, a protocol version and the
writer's type sizes; the pickled object, whose tensors point to storages by key; the pickled list of keys;
then every storage in that order, as an int64 count and the raw little-endian values
(https://github.com/pytorch/pytorch/blob/v1.5.0/torch/serialization.py).

A pickle is a program, so the unpickler here knows four names and refuses every other.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import struct
from collections import OrderedDict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import DamagedError

MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
PROTOCOL_VERSION = 1001


class _Storage(NamedTuple):
    key: str
    dtype: np.dtype[Any]


class _Tensor(NamedTuple):
    """The arguments of `torch._utils._rebuild_tensor_v2`."""

    storage: _Storage
    offset: int  # in values
    shape: tuple[int, ...]
    stride: tuple[int, ...]  # in values
    requires_grad: bool
    hooks: Any


_KNOWN: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _Tensor,
    ("torch", "FloatStorage"): np.dtype("<f4"),
    ("torch", "LongStorage"): np.dtype("<i8"),
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _KNOWN[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"the checkpoint asks for {module}.{name}, which is refused") from None

    def persistent_load(self, pid: Any) -> _Storage:
        kind, dtype, key, *_ = pid
        if kind != "storage" or not isinstance(dtype, np.dtype):
            raise pickle.UnpicklingError(f"the checkpoint refers to {kind!r}, only storages are known")
        return _Storage(str(key), dtype)


def read_checkpoint(path: Path, sha256: str) -> dict[str, NDArray[Any]]:
    """Read a checkpoint whose content is known.

    Parameters
    ----------
    sha256
        Hex digest the file must have. It is checked before a single byte is interpreted, so what follows only refuses
        what would be read wrongly.

    Returns
    -------
    Arrays by parameter name, in PyTorch's axis order.

    Raises
    ------
    DamagedError
        When the file is another one, or is no legacy checkpoint.
    """
    data = path.read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise DamagedError(
            f"{path.name} has SHA-256 {found[:16]}…, wanted {sha256[:16]}…. Reinstall the package that holds it."
        )
    try:
        return parse_checkpoint(data)
    except Exception as error:  # odd bytes make the unpickler raise anything
        raise DamagedError(f"{path.name} is no legacy PyTorch checkpoint: {error}") from error


def parse_checkpoint(data: bytes) -> dict[str, NDArray[Any]]:
    """Interpret the bytes of a legacy checkpoint; see the module for the layout."""
    stream = io.BytesIO(data)
    magic, version, system, tensors, keys = (_Unpickler(stream).load() for _ in range(5))
    if (magic, version) != (MAGIC_NUMBER, PROTOCOL_VERSION):
        raise ValueError("it does not start with the magic number and protocol version 1001")
    if not system["little_endian"]:
        raise ValueError("it was written on a big-endian machine")
    dtypes = {tensor.storage.key: tensor.storage.dtype for tensor in tensors.values()}
    storages = {key: _read_storage(stream, dtypes[key]) for key in keys}
    return {name: _view(storages[tensor.storage.key], tensor) for name, tensor in tensors.items()}


def _read_storage(stream: io.BytesIO, dtype: np.dtype[Any]) -> NDArray[Any]:
    (count,) = struct.unpack("<q", stream.read(8))
    return np.frombuffer(stream.read(count * dtype.itemsize), dtype, count)


def _view(storage: NDArray[Any], tensor: _Tensor) -> NDArray[Any]:
    size = storage.itemsize
    strides = [step * size for step in tensor.stride]
    # unlike `as_strided`, this refuses what reaches outside the storage
    return np.ndarray(tensor.shape, storage.dtype, storage, tensor.offset * size, strides).copy()
