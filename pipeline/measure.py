"""Stored moments of a sample to the dataset's similarity."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipeline.engine_files import STATISTICS_FILE
from pipeline.similarity import LayerStatistics, measure_similarity
from pipeline.types import Array, Similarity


def compare_moments(moments: Array, engine_folder: Path) -> Similarity:
    """Compare a sample with what a backbone's BatchNorm layers remember of the data it was trained on.

    Parameters
    ----------
    moments
        (pictures, 2 x channels of all layers): per picture the means of a layer's input, then its mean squares,
        layer after layer.
    """
    statistics = _read_statistics(engine_folder)
    mean_moments = moments.mean(axis=0, dtype=np.float64)
    means, mean_squares, start = [], [], 0
    for layer in statistics:
        channels = len(layer.moving_mean)
        means.append(mean_moments[start : start + channels])
        mean_squares.append(mean_moments[start + channels : start + 2 * channels])
        start += 2 * channels
    return measure_similarity(statistics, means, mean_squares, len(moments))


def _read_statistics(folder: Path) -> list[LayerStatistics]:
    with np.load(folder / STATISTICS_FILE, allow_pickle=False) as arrays:
        return [
            LayerStatistics(name, moving_mean=rows[0], moving_variance=rows[1], epsilon=float(rows[2, 0]))
            for name, rows in ((key, arrays[key]) for key in sorted(arrays.files))
        ]
