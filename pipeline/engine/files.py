"""The files of an engine folder: written by `pipeline.engine.conversion`, read by whoever runs or compares."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipeline.types import LayerStatistics

TAPS_FILE = "taps.xml"  # a network from pixels to every tap
MOMENTS_FILE = "moments.xml"  # a network from pixels to the moments of every BatchNorm layer's input
STATISTICS_FILE = "statistics.npz"  # per BatchNorm layer: moving mean, moving variance, epsilon
CLASSIFIER_FILE = "classifier.xml"  # a delivered model, from pixels to probabilities
PROBABILITIES = "probabilities"  # its one output


def read_statistics(folder: Path) -> list[LayerStatistics]:
    """Read what the BatchNorm layers remember from an engine's folder."""
    with np.load(folder / STATISTICS_FILE, allow_pickle=False) as arrays:
        return [
            LayerStatistics(name, moving_mean=rows[0], moving_variance=rows[1], epsilon=float(rows[2, 0]))
            for name, rows in ((key, arrays[key]) for key in sorted(arrays.files))
        ]
