"""A sample of images to the dataset's similarity: run it through the backbone's BatchNorm inputs.

Heavy leaf: importing it loads OpenVINO (0.3 s), never TensorFlow.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.decoding import ReadImage, batched, decode_images
from pipeline.engine import BATCH, MOMENTS, MOMENTS_FILE, STATISTICS_FILE, Engine
from pipeline.errors import DataError
from pipeline.similarity import LayerStatistics, measure_similarity
from pipeline.types import Image, Recipe, Similarity


def measure_images(images: Sequence[Image], read: ReadImage, recipe: Recipe, folder: Path) -> Similarity:
    """Measure the similarity of a sample of images to what a backbone was trained on.

    Raises
    ------
    DataError
        When none of the images can be decoded.
    """
    engine = Engine.load(folder / MOMENTS_FILE)
    pixels = (item.pixels for item in decode_images(images, read, recipe) if item.pixels is not None)
    batches = ((len(batch), np.stack(batch)) for batch in batched(pixels, BATCH))
    sums = [(rows, outputs[MOMENTS].sum(axis=0, dtype=np.float64)) for rows, outputs in engine.stream(batches)]
    num_images = sum(rows for rows, _ in sums)
    if num_images == 0:
        raise DataError(f"None of {len(images)} sampled pictures could be decoded, so nothing can be measured.")
    return _compare(_read_statistics(folder), sum(total for _, total in sums) / num_images, num_images)


def _read_statistics(folder: Path) -> list[LayerStatistics]:
    with np.load(folder / STATISTICS_FILE, allow_pickle=False) as arrays:
        return [
            LayerStatistics(name, moving_mean=rows[0], moving_variance=rows[1], epsilon=float(rows[2, 0]))
            for name, rows in ((key, arrays[key]) for key in sorted(arrays.files))
        ]


def _compare(statistics: list[LayerStatistics], moments: NDArray[np.float64], num_images: int) -> Similarity:
    """Cut (2 x channels of all layers,) moments into layers: means, then mean squares, layer after layer."""
    means, mean_squares, start = [], [], 0
    for layer in statistics:
        channels = len(layer.moving_mean)
        means.append(moments[start : start + channels])
        mean_squares.append(moments[start + channels : start + 2 * channels])
        start += 2 * channels
    return measure_similarity(statistics, means, mean_squares, num_images)
