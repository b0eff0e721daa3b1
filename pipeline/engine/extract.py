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


_Batch = tuple[list[Decoded], list[Decoded]]  # decoded pictures, and those that failed


class FeatureEngine(Protocol):
    """What runs a network: `openvino_engine.Engine` on a CPU, `keras_engine.KerasEngine` on a GPU."""

    batch: int  # rows of a full batch

    def run(self, pixels: Pixels) -> dict[str, Array]: ...

    def stream(
        self, batches: Iterable[tuple[_Batch, Sequence[Pixels]]]
    ) -> Iterator[tuple[_Batch, Mapping[str, Array]]]: ...


def extract_features(
    images: Iterable[Image], read: ReadImage, recipe: Recipe, engine: FeatureEngine
) -> Iterator[FeatureBlock]:
    """Yield the features of images, at most a batch a block, in order.

    A file that cannot be decoded, that vanished or that no longer holds the content of its digest costs only its own
    row.
    """
    for (decoded, failed), taps in engine.stream(_batches(images, read, recipe, engine.batch)):
        yield FeatureBlock(
            digests=tuple(item.image.digest for item in decoded),
            taps={name: rows[: len(decoded)] for name, rows in taps.items()},
            rejected=tuple((item.image.digest, item.reason) for item in failed if item.final),
            unread=tuple(Rejected(item.image.path, item.reason) for item in failed if not item.final),
        )


def _batches(
    images: Iterable[Image], read: ReadImage, recipe: Recipe, size: int
) -> Iterator[tuple[_Batch, list[Pixels]]]:
    """Yield batches of decoded pictures, with the pictures that failed since the batch before, and their pixels."""
    decoded: list[Decoded] = []
    failed: list[Decoded] = []
    for item in decode_images(images, read, recipe):
        (failed if item.pixels is None else decoded).append(item)
        if len(decoded) == size:
            yield (decoded, failed), _pixels(decoded)
            decoded, failed = [], []
    if decoded or failed:
        blank = np.zeros((recipe.size, recipe.size, 3), np.float32)  # no batch is empty; its row is dropped
        yield (decoded, failed), _pixels(decoded) or [blank]


def canary_block(recipe: Recipe, engine: FeatureEngine) -> FeatureBlock:
    """Compute the features of the built-in pictures on this machine."""
    pictures = canary_pictures()
    # decoded as for a tiny network: they are too small for the scaled decoder to scale them otherwise
    pixels = np.stack([prepare(decode(data, replace(recipe, size=CANARY_SIZE)), recipe) for data in pictures])
    return FeatureBlock(tuple(digest(data) for data in pictures), engine.run(pixels))


def _pixels(batch: list[Decoded]) -> list[Pixels]:
    return [item.pixels for item in batch if item.pixels is not None]
