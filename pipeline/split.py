"""Image content to split and sample: never its neighbours, so growth moves nobody and duplicates stay together."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from pipeline.types import Digest, Image, Split

TEST_SHARE = 0.2  # of the distinct pictures, where the folder has no split of its own


def position_of(digest: Digest, salt: str) -> float:
    """Place a picture in [0, 1), uniformly over contents and independently for every salt."""
    place = hashlib.sha256(salt.encode() + b":" + digest).digest()
    # 53 bits: what a float holds exactly, so that 1.0 cannot be reached by rounding
    return (int.from_bytes(place[:8], "big") >> 11) / 2**53


def split_of(digest: Digest, *, val: float = 0.0, test: float = TEST_SHARE) -> Split:
    """Name the split of one picture.

    >>> split_of(bytes(32))
    'train'
    """
    position = position_of(digest, "split")
    if position < test:
        return "test"
    return "val" if position < test + val else "train"


def sample_images(images: Sequence[Image], num_images: int) -> tuple[Image, ...]:
    """Choose pictures by content: the same ones whatever the files are called or the order they come in."""
    return tuple(sorted(images, key=lambda image: position_of(image.digest, "sample"))[:num_images])
