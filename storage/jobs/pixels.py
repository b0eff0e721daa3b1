"""Decoded pictures of a job: a read-only array on disk, so that every epoch after the first decodes nothing."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from storage.disk.atomic import Fs, explained, make_folder

Stored = NDArray[np.uint8]  # (pictures, size, size, 3)

log = logging.getLogger(__name__)

SPARE_BYTES = 1 << 30  # of the disk, that decoded pictures leave free


def find_pixels(path: Path, shape: tuple[int, ...], fill: Callable[[Stored], None], fs: Fs) -> Stored | None:
    """Return decoded pictures as a read-only uint8 array, made by `fill` if the file is missing.

    None if the disk has no room for it.
    """
    num_bytes = int(np.prod(shape))
    if not (path.is_file() and path.stat().st_size == num_bytes):
        with explained(path):
            make_folder(path.parent, fs)
            ready = _reserve(path, num_bytes)
        if ready is None:
            log.info("the disk has no room for %d decoded pictures: they are decoded in every epoch", shape[0])
            return None
        _fill(ready, path, shape, fill)
    return np.memmap(path, np.uint8, "r", shape=shape)


def _reserve(path: Path, num_bytes: int) -> Path | None:
    """Make the file that will get the name; None if there is no room for it."""
    ready = path.with_suffix(".part")  # always the same, so that killed processes leave no more than one
    for old in (ready, path):
        old.unlink(missing_ok=True)
    if shutil.disk_usage(path.parent).free < num_bytes + SPARE_BYTES:
        return None
    with open(ready, "xb") as file, suppress(OSError):
        os.posix_fallocate(file.fileno(), 0, num_bytes)  # a full disk must not be found by a map
    if ready.stat().st_size < num_bytes:
        ready.unlink()
        return None
    return ready


def _fill(ready: Path, path: Path, shape: tuple[int, ...], fill: Callable[[Stored], None]) -> None:
    """Put pictures into a file and give it its name, whole or not at all."""
    try:
        pixels = np.memmap(ready, np.uint8, "r+", shape=shape)
        fill(pixels)
        with explained(path):
            pixels.flush()  # syncs: no power cut can leave the name without the pictures
            os.replace(ready, path)
    finally:
        ready.unlink(missing_ok=True)
