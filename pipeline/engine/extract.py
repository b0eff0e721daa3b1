"""Extraction of features in blocks, and the interface of what runs a network: decoding overlaps with inference."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np

from pipeline.engine.canary import canary_pictures
from pipeline.fingerprint import digest
from pipeline.images.ahead import ReadImage, Unusable, decode_images
from pipeline.images.decode import decode, prepare
from pipeline.types import Array, FeatureBlock, Image, Pixels, Recipe, Rejected

CANARY_SIZE = 7  # pixels; at this size the scaled decoder halves one built-in picture and quarters another

Tag = TypeVar("Tag")
Rows = Pixels | Sequence[Pixels]  # pictures of (size, size, 3) each, as one array or one by one


class FeatureEngine(ABC):
    """What runs a network: `openvino_engine.Engine` on a CPU, `keras_engine.KerasEngine` on a GPU.

    Every batch is filled up to its full size, so that a picture's numbers do not depend on its neighbours.
    """

    batch: int  # rows of a full batch
    dims: Mapping[str, int]  # values of a row, by output name

    @abstractmethod
    def stream(self, batches: Iterable[tuple[Tag, Rows]]) -> Iterator[tuple[Tag, Mapping[str, Array]]]:
        """Run (tag, 1 to `batch` rows) batches, overlapped with whatever makes them; yields in their order."""

    def run(self, pixels: Pixels) -> dict[str, Array]:
        """Run any number of rows and return (rows, dim) per output name."""
        batches = (pixels[start : start + self.batch] for start in range(0, len(pixels), self.batch))
        results = [outputs for _, outputs in self.stream((None, batch) for batch in batches)]
        none = {name: np.empty((0, dim), np.float32) for name, dim in self.dims.items()}
        return {name: np.concatenate([none[name], *(result[name] for result in results)]) for name in self.dims}


def extract_features(
    images: Iterable[Image], read: ReadImage, recipe: Recipe, engine: FeatureEngine
) -> Iterator[FeatureBlock]:
    """Yield the features of images, at most a batch a block, in order.

    A file that cannot be decoded, that vanished or that no longer holds the content of its digest costs only its own
    row.
    """
    for (decoded, failed), taps in engine.stream(_batches(images, read, recipe, engine.batch)):
        yield FeatureBlock(
            digests=tuple(image.digest for image in decoded),
            taps={name: rows[: len(decoded)] for name, rows in taps.items()},
            rejected=tuple((image.digest, why.reason) for image, why in failed if why.final),
            unread=tuple(Rejected(image.path, why.reason) for image, why in failed if not why.final),
        )


def _batches(
    images: Iterable[Image], read: ReadImage, recipe: Recipe, size: int
) -> Iterator[tuple[tuple[list[Image], list[tuple[Image, Unusable]]], list[Pixels]]]:
    """Yield batches of decoded pictures, with the pictures that failed since the batch before, and their pixels."""
    decoded: list[Image] = []
    failed: list[tuple[Image, Unusable]] = []
    pixels: list[Pixels] = []
    for image, found in decode_images(images, read, recipe):
        if isinstance(found, Unusable):
            failed.append((image, found))
            continue
        decoded.append(image)
        pixels.append(found)
        if len(decoded) == size:
            yield (decoded, failed), pixels
            decoded, failed, pixels = [], [], []
    if decoded or failed:
        blank = np.zeros((recipe.size, recipe.size, 3), np.float32)  # no batch is empty; its row is dropped
        yield (decoded, failed), pixels or [blank]


def canary_block(recipe: Recipe, engine: FeatureEngine) -> FeatureBlock:
    """Compute the features of the built-in pictures on this machine."""
    pictures = canary_pictures()
    # decoded as for a tiny network: they are too small for the scaled decoder to scale them otherwise
    pixels = np.stack([prepare(decode(data, replace(recipe, size=CANARY_SIZE)), recipe) for data in pictures])
    return FeatureBlock(tuple(digest(data) for data in pictures), engine.run(pixels))
