"""Images missing from the store to feature blocks: decoding overlapped with inference, memory bounded.

Heavy leaf: importing it loads OpenVINO (0.3 s), never TensorFlow.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from pipeline.canary import canary_pictures
from pipeline.decoding import Decoded, ReadImage, decode_images
from pipeline.engine import BATCH, Engine
from pipeline.fingerprint import digest
from pipeline.images import decode, prepare
from pipeline.types import FeatureBlock, Image, Pixels, Recipe, Rejected


def extract_features(
    images: Sequence[Image], read: ReadImage, recipe: Recipe, engine: Engine
) -> Iterator[FeatureBlock]:
    """Yield the features of images, at most BATCH rows a block, in order.

    A file that cannot be decoded, that vanished or that no longer holds the content of its digest costs
    its own row and nothing else.
    """
    failures: list[Decoded] = []  # since the last block; they travel with the next one

    def batches() -> Iterator[tuple[list[Decoded], Pixels]]:
        batch: list[Decoded] = []
        for item in decode_images(images, read, recipe):
            (failures if item.pixels is None else batch).append(item)
            if len(batch) == BATCH:
                yield batch, _stack(batch)
                batch = []
        if batch:
            yield batch, _stack(batch)

    for batch, taps in engine.stream(batches()):
        digests = tuple(item.image.digest for item in batch)
        yield FeatureBlock(digests, taps, *_take_failures(failures))
    if failures:
        no_rows = engine.run(np.empty((0, recipe.size, recipe.size, 3), np.float32))  # a block has every tap
        yield FeatureBlock((), no_rows, *_take_failures(failures))


def canary_block(recipe: Recipe, engine: Engine) -> FeatureBlock:
    """Compute the features of the built-in pictures on this machine."""
    pictures = canary_pictures()
    pixels = np.stack([prepare(decode(data), recipe) for data in pictures])
    return FeatureBlock(tuple(digest(data) for data in pictures), engine.run(pixels))


def _stack(batch: list[Decoded]) -> Pixels:
    return np.stack([item.pixels for item in batch if item.pixels is not None])


def _take_failures(
    failures: list[Decoded],
) -> tuple[tuple[tuple[bytes, str], ...], tuple[Rejected, ...]]:
    taken, failures[:] = list(failures), []
    return (
        tuple((item.image.digest, item.reason) for item in taken if item.final),
        tuple(Rejected(item.image.path, item.reason) for item in taken if not item.final),
    )
