from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest

from pipeline.types import FeatureBlock, Recipe, Space, Tap
from storage.workspace import Workspace


def make_digest(number):
    return hashlib.sha256(str(number).encode()).digest()


@pytest.fixture
def workspace(tmp_path):
    return Workspace.open(tmp_path / "workspace")


@pytest.fixture
def disk():
    """A folder in memory where there is one: thousands of syncs are waited for otherwise."""
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(dir=memory if os.access(memory, os.W_OK) else None))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def space():
    """A family small enough to write by the hundred; every field is spelled out, so that its id stays."""
    return Space(
        backbone="tiny",
        weights_sha256="ab" * 32,
        recipe=Recipe(
            size=8,
            decoder="pillow-13",
            orientation="exif",
            alpha="over-white",
            depth="16-bit-by-used-range",
            crop="centre-square",
            resize="bicubic-antialias",
            view="original",
        ),
        taps=(
            Tap(name="stage5_grid", layer="block5", kind="grid", dim=9, depth=0),
            Tap(name="top", layer="top", kind="gap", dim=4, depth=1),
        ),
        dtype="float16",
        numerics="float32-1",
    )


@pytest.fixture(scope="session")
def digests_of():
    """Numbers -> digests; equal numbers, equal digests."""
    return lambda numbers: [make_digest(number) for number in numbers]


@pytest.fixture(scope="session")
def block_of(space):
    """Numbers -> a block whose values depend on number, tap and column; whole numbers, exact in float16."""

    def block(numbers, rejected=()):
        numbers = list(numbers)
        taps = {}
        for offset, tap in enumerate(space.taps):
            rows = 31 * np.asarray(numbers, np.int64)[:, None] + 7 * np.arange(tap.dim) + 3 * offset
            taps[tap.name] = (rows % 2048).astype(np.float32)
        return FeatureBlock(tuple(make_digest(number) for number in numbers), taps, tuple(rejected))

    return block
