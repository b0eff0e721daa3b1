"""Metrics of probabilities if labels do not exclude each other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import DataError
from pipeline.evaluation.average_precision import average_precision
from pipeline.evaluation.classes import expected_calibration_error
from pipeline.evaluation.log_loss import log_losses
from pipeline.types import LabelMetrics, OneLabelMetrics, Split

NUM_RESAMPLES = 1000
RESAMPLED_ROWS = 2_000_000  # drawn for an interval at most: fewer resamples of many pictures are as steady
INTERVAL = (2.5, 97.5)  # percentiles


def evaluate_labels(
    targets: NDArray[np.bool_],
    probabilities: NDArray[np.floating],
    classes: Sequence[str],
    thresholds: Sequence[float],
    split: Split = "test",
) -> LabelMetrics:
    """Score probabilities (n, labels) against targets (n, labels): whether each picture has each label.

    Means over labels are over those that some picture has; one that no picture has is in the table with zeros.

    Raises
    ------
    DataError
        Without a picture that has a label: nothing can be ranked.
    """
    present = targets.any(axis=0)
    if not present.any():
        raise DataError(f"No picture of the {split} split has a label, so nothing can be scored. Add some that have.")
    given = probabilities >= np.asarray(thresholds)
    hits, num_given, support = (given & targets).sum(axis=0), given.sum(axis=0), targets.sum(axis=0)
    f1 = 2 * hits / np.maximum(num_given + support, 1)
    found = [average_precision(probabilities[:, label], targets[:, label])[0] for label in range(len(classes))]
    precisions = np.nan_to_num(np.array(found))
    precision, recall = hits / np.maximum(num_given, 1), hits / np.maximum(support, 1)
    rows = zip(classes, support, precisions, thresholds, precision, recall, f1, strict=True)
    return LabelMetrics(
        split=split,
        num_images=len(targets),
        mean_average_precision=float(precisions[present].mean()),
        map_interval=_map_interval(probabilities[:, present], targets[:, present]),
        macro_f1=float(f1[present].mean()),
        micro_f1=float(2 * hits.sum() / (num_given.sum() + support.sum())),
        subset_accuracy=float((given == targets).all(axis=1).mean()),
        log_loss=float(log_losses(np.where(targets, probabilities, 1 - probabilities)).mean()),
        ece=expected_calibration_error(targets.ravel(), probabilities.ravel()),
        per_class=tuple(OneLabelMetrics(name, int(num), *map(float, figures)) for name, num, *figures in rows),
    )


def _map_interval(probabilities: NDArray[np.floating], targets: NDArray[np.bool_]) -> tuple[float, float]:
    """Return the 95 % interval of mAP by resampling pictures, the same ones for all labels; the same every time."""
    num_images, num_labels = targets.shape
    num_resamples = int(np.clip(RESAMPLED_ROWS // num_images, 100, NUM_RESAMPLES))
    weights = np.random.default_rng(0).multinomial(num_images, np.full(num_images, 1 / num_images), num_resamples)
    found = np.array(
        [average_precision(probabilities[:, label], targets[:, label], weights) for label in range(num_labels)]
    )
    drawn = ~np.isnan(found)  # a resample may hold no picture with a rare label
    means = np.nan_to_num(found).sum(axis=0)[drawn.any(axis=0)] / drawn.sum(axis=0)[drawn.any(axis=0)]
    low, high = np.percentile(means, INTERVAL)
    return float(low), float(high)
