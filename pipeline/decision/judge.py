"""Stored moments of a sample to the dataset's similarity."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from pipeline.decision.nouns import Drift, Similarity
from pipeline.decision.similarity import LayerStatistics, measure_similarity
from pipeline.decision.thresholds import Thresholds, nearest_references
from pipeline.engine.files import STATISTICS_FILE
from pipeline.types import Array

NO_LIMITS = (0.0, 0.0)


def compare_moments(moments: Array, engine_folder: Path, backbone: str, thresholds: Thresholds) -> Similarity:
    """Compare a sample with what a backbone's BatchNorm layers remember of the data it was trained on, and judge.

    Parameters
    ----------
    moments
        (pictures, 2 x channels of all layers): per picture the means of a layer's input, then its mean squares,
        layer after layer.
    """
    limits = (thresholds.similar_below, thresholds.different_above)
    measured = measure_similarity(read_statistics(engine_folder), moments, limits)
    references = nearest_references(thresholds, measured.distance)
    return replace(measured, measured_with=backbone, references=references)


def measure_drift(moments: Array, engine_folder: Path, backbone: str) -> Drift:
    """Compare a sample with a backbone for which no thresholds are known; see `compare_moments`."""
    found = measure_similarity(read_statistics(engine_folder), moments, NO_LIMITS)
    return Drift(backbone, found.distance, found.early, found.middle, found.late, found.interval or NO_LIMITS)


def read_statistics(folder: Path) -> list[LayerStatistics]:
    """Read what the BatchNorm layers remember from an engine's folder."""
    with np.load(folder / STATISTICS_FILE, allow_pickle=False) as arrays:
        return [
            LayerStatistics(name, moving_mean=rows[0], moving_variance=rows[1], epsilon=float(rows[2, 0]))
            for name, rows in ((key, arrays[key]) for key in sorted(arrays.files))
        ]
