"""Images missing from the store to feature blocks: decoding overlapped with inference, memory bounded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np

from pipeline.engine.canary import canary_pictures
from pipeline.fingerprint import digest
from pipeline.images.ahead import Decoded, ReadImage, decode_images
from pipeline.images.decode import decode, prepare
from pipeline.types import Array, FeatureBlock, Image, Pixels, Recipe, Rejected

CANARY_SIZE = 7  # pixels; at this size the scaled decoder halves one built-in picture and quarters another


class FeatureEngine(Protocol):
    """What runs a network: `openvino_engine.Engine` on a CPU, `keras_engine.KerasEngine` on a GPU."""

    batch: int  # rows of a full batch

    def run(self, pixels: Pixels) -> dict[str, Array]: ...

    def stream(
        self, batches: Iterable[tuple[list[Decoded], Sequence[Pixels]]]
    ) -> Iterator[tuple[list[Decoded], Mapping[str, Array]]]: ...


def extract_features(
    images: Iterable[Image], read: ReadImage, recipe: Recipe, engine: FeatureEngine
) -> Iterator[FeatureBlock]:
    """Yield the features of images, at most a batch a block, in order.

    A file that cannot be decoded, that vanished or that no longer holds the content of its digest costs
    its own row and nothing else.
    """
    failures: list[Decoded] = []  # since the last block; they travel with the next one

    def batches() -> Iterator[tuple[list[Decoded], list[Pixels]]]:
        batch: list[Decoded] = []
        for item in decode_images(images, read, recipe):
            (failures if item.pixels is None else batch).append(item)
            if len(batch) == engine.batch:
                yield batch, _pixels(batch)
                batch = []
        if batch:
            yield batch, _pixels(batch)

    for batch, taps in engine.stream(batches()):
        digests = tuple(item.image.digest for item in batch)
        yield FeatureBlock(digests, taps, *_take_failures(failures))
    if failures:
        no_rows = engine.run(np.empty((0, recipe.size, recipe.size, 3), np.float32))  # a block has every tap
        yield FeatureBlock((), no_rows, *_take_failures(failures))


def canary_block(recipe: Recipe, engine: FeatureEngine) -> FeatureBlock:
    """Compute the features of the built-in pictures on this machine."""
    pictures = canary_pictures()
    # decoded as for a tiny network: they are too small for the scaled decoder to scale them otherwise
    pixels = np.stack([prepare(decode(data, replace(recipe, size=CANARY_SIZE)), recipe) for data in pictures])
    return FeatureBlock(tuple(digest(data) for data in pictures), engine.run(pixels))


def _pixels(batch: list[Decoded]) -> list[Pixels]:
    return [item.pixels for item in batch if item.pixels is not None]


def _take_failures(
    failures: list[Decoded],
) -> tuple[tuple[tuple[bytes, str], ...], tuple[Rejected, ...]]:
    taken, failures[:] = list(failures), []
    return (
        tuple((item.image.digest, item.reason) for item in taken if item.final),
        tuple(Rejected(item.image.path, item.reason) for item in taken if not item.final),
    )
