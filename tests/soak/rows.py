"""Rows whose values everybody can compute, so that every read can be judged."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import replace
from itertools import count

import numpy as np

from pipeline.types import Array, Digest, FeatureBlock, Space, Tap
from tests.factories import a_space

SPACE = a_space()


def digest_of(number: int) -> Digest:
    return hashlib.sha256(b"row %d" % number).digest()


def values_of(numbers: Iterable[int], tap: Tap) -> Array:
    """Whole numbers below 2,048, which float16 holds exactly: (len(numbers), dim)."""
    rows = 31 * np.fromiter(numbers, np.int64)[:, None] + 7 * np.arange(tap.dim) + tap.depth
    return (rows % 2048).astype(np.float32)


def block_of(numbers: Iterable[int], rejected: tuple[tuple[Digest, str], ...] = ()) -> FeatureBlock:
    numbers = list(numbers)
    taps = {tap.name: values_of(numbers, tap) for tap in SPACE.taps}
    return FeatureBlock(tuple(map(digest_of, numbers)), taps, rejected)


def spaces() -> Iterable[Space]:
    """Spaces without end, with the same taps."""
    return (replace(SPACE, backbone=f"soak{number}") for number in count())
