"""Splits and samples by content alone, so that growth moves no picture and duplicates stay together."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from pipeline.errors import DataError
from pipeline.types import Digest, Image, Split

TEST_SHARE = 0.2  # of the distinct pictures, if the folder has no split of its own
MIN_VAL_SHARE, MAX_VAL_SHARE = 0.1, 0.2  # of the training pictures, if validation has no split of its own
VAL_IMAGES = 1000  # wanted: one standard error of a paired difference is then about a point


def position_of(digest: Digest, salt: str) -> float:
    """Place a picture in [0, 1), uniformly over contents and independently for every salt."""
    place = hashlib.sha256(salt.encode() + b":" + digest).digest()
    # 53 bits: what a float holds exactly, so that 1.0 cannot be reached by rounding
    return (int.from_bytes(place[:8], "big") >> 11) / 2**53


def split_of(digest: Digest) -> Split:
    """Name the split of one picture of a folder that has no split of its own.

    >>> split_of(bytes(32))
    'train'
    """
    return "test" if position_of(digest, "split") < TEST_SHARE else "train"


def sample_images(images: Sequence[Image], num_images: int) -> tuple[Image, ...]:
    """Choose pictures by content: the same ones whatever the files are called or the order they come in."""
    return tuple(sorted(images, key=lambda image: position_of(image.digest, "sample"))[:num_images])


def held_out(images: Sequence[Image]) -> tuple[list[Image], Split]:
    """Choose the pictures to evaluate on: the test split, or the val split of a folder that has no other."""
    for split in ("test", "val"):
        if chosen := [image for image in images if image.split == split]:
            return chosen, split
    raise DataError("No readable test picture is left, so nothing can be measured. Add pictures to the test split.")


def split_validation(images: Sequence[Image], test_split: Split) -> tuple[list[Image], list[Image]]:
    """Divide what a network may learn from into pictures to train on and pictures to validate on.

    The folder's own val split validates, unless it has to serve as test. Otherwise a share of the training pictures
    does, chosen by content: a fifth of few, a tenth of many, a thousand in between.

    Parameters
    ----------
    test_split
        What is tested on, and belongs to neither.
    """
    train = [image for image in images if image.split == "train"]
    own = [image for image in images if image.split == "val"]
    if own and test_split != "val":
        return train, own
    share = min(MAX_VAL_SHARE, max(MIN_VAL_SHARE, VAL_IMAGES / max(len(train), 1)))
    places = [position_of(image.digest, "validation") < share for image in train]
    fit = [image for image, is_val in zip(train, places, strict=True) if not is_val]
    return fit, [image for image, is_val in zip(train, places, strict=True) if is_val]
