"""Checkpoints of a training: plain HDF5, named by their content, the newest two of them.

    <number, 8 digits>-<SHA-256 of the file>.h5
        attributes     format, version, step
        /state         JSON as bytes
        /arrays/<n>    in the order of /names, whatever dtype and shape they have
        /names         JSON list

Heavy leaf: importing it loads h5py.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import logging
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from pipeline.errors import ConflictError, DamagedError
from pipeline.types import Checkpoint
from storage.disk.atomic import write_stream
from storage.disk.hashes import hash_file
from storage.disk.hdf5 import UNREADABLE, check_header, create_file
from storage.workspace import Workspace

log = logging.getLogger(__name__)

FORMAT = "headstart.checkpoint"
VERSION = 1
NUM_KEPT = 2  # the newest, and the one before in case that one turns out damaged

_NAME = re.compile(r"(\d{8})-([0-9a-f]{64})\.h5")


class Checkpoints:
    """The checkpoints of one training, in a folder of their own."""

    def __init__(self, workspace: Workspace, folder: Path) -> None:
        self._workspace, self._folder = workspace, folder

    def write(self, checkpoint: Checkpoint) -> None:
        """Keep a checkpoint; older ones go once it is safe on disk.

        Raises
        ------
        ConflictError
            When it cannot be written; what was kept before is still there.
        """
        data = _to_bytes(checkpoint)
        older = self.paths()
        number = int(older[-1].name[:8]) + 1 if older else 0
        path = self._folder / f"{number:08d}-{hashlib.sha256(data).hexdigest()}.h5"
        write_stream(path, [data], self._workspace.staging)
        for path in older[: 1 - NUM_KEPT]:
            with suppress(OSError):  # it is only in the way
                self._workspace.staging.fs.unlink(path)

    def read(self) -> Checkpoint | None:
        """Return the newest intact checkpoint, None if there is none; damaged ones go to quarantine.

        Raises
        ------
        ConflictError
            When one is of another version of the format, or cannot be opened.
        """
        for path in reversed(self.paths()):
            try:
                return read_checkpoint(path)
            except DamagedError as error:
                kept = self._workspace.set_aside(path)
                log.warning("%s It moved to %s; The training continues from the one before.", error, kept)
        return None

    def paths(self) -> list[Path]:
        """The files, oldest first."""
        return sorted(path for path in self._folder.glob("*.h5") if _NAME.fullmatch(path.name))


def read_checkpoint(path: Path) -> Checkpoint:
    """Read one file.

    Raises
    ------
    DamagedError
        When it does not hold what its name says.
    ConflictError
        When another version of headstart wrote it, or it cannot be opened.
    """
    _check_content(path)
    try:
        # our own descriptor: HDF5 would lock the file, which not every file system can
        with open(path, "rb") as source, h5py.File(source, "r") as file:
            check_header(file, FORMAT, VERSION, path)
            names = json.loads(bytes(file["names"][()]))
            arrays = {name: file["arrays"][str(place)][()] for place, name in enumerate(names)}
            return Checkpoint(int(file.attrs["step"]), arrays, json.loads(bytes(file["state"][()])))
    except (ConflictError, MemoryError):  # its content is right: too little memory is no damage
        raise
    except UNREADABLE as error:
        raise DamagedError(f"{path} is damaged: {error}.") from error


def _check_content(path: Path) -> None:
    match = _NAME.fullmatch(path.name)
    try:
        is_whole = match is not None and hash_file(path) == match[2]
    except OSError as error:
        if error.errno == errno.EIO:  # a bad sector: the one before may be whole
            raise DamagedError(f"{path} cannot be read: {error.strerror}.") from error
        raise ConflictError(f"Cannot open {path}: {error.strerror or error}.") from error
    if not is_whole:
        raise DamagedError(f"{path} is damaged: its content has another SHA-256 than its name says.")


def _to_bytes(checkpoint: Checkpoint) -> memoryview:
    image = io.BytesIO()
    with create_file(image, ["arrays"], FORMAT, VERSION) as file:
        file.attrs["step"] = checkpoint.step
        file["names"] = _text(list(checkpoint.arrays))
        file["state"] = _text(dict(checkpoint.state))
        for place, array in enumerate(checkpoint.arrays.values()):
            file["arrays"][str(place)] = np.asarray(array)
    return image.getbuffer()


def _text(value: Any) -> Any:
    return np.frombuffer(json.dumps(value, allow_nan=False).encode("ascii"), np.uint8)
