"""Probabilities and true labels to metrics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from pipeline.errors import DataError
from pipeline.types import Metrics, Split

NUM_BINS = 15  # Guo et al. 2017, arXiv:1706.04599
SMALLEST_PROBABILITY = 1e-15  # one sure mistake costs 35 nats, not infinity
Z_95 = 1.959963984540054  # two-sided 95 % quantile of the normal distribution


def evaluate(
    labels: Sequence[int] | NDArray[np.integer],
    probabilities: NDArray[np.floating],
    classes: Sequence[str],
    split: Split = "test",
) -> Metrics:
    """Score probabilities (n, classes) against labels (n,).

    Balanced accuracy and macro F1 are means over the classes that have pictures; a class without pictures is
    in the table with zeros.

    Raises
    ------
    DataError
        Without a picture: no rate can be computed.
    """
    true = np.asarray(labels, dtype=np.intp)
    if len(true) == 0:
        raise DataError(f"The {split} split holds no pictures, so nothing can be scored.")
    predicted = probabilities.argmax(axis=1)
    columns = np.arange(len(classes))
    precision, recall, f1, support = precision_recall_fscore_support(true, predicted, labels=columns, zero_division=0)
    present = support > 0
    num_correct = int((predicted == true).sum())
    return Metrics(
        split=split,
        num_images=len(true),
        accuracy=num_correct / len(true),
        accuracy_interval=wilson_interval(num_correct, len(true)),
        balanced_accuracy=float(recall[present].mean()),
        macro_f1=float(f1[present].mean()),
        log_loss=_log_loss(true, probabilities),
        ece=expected_calibration_error(predicted == true, probabilities.max(axis=1)),
        per_class=tuple(_class_row(*row) for row in zip(classes, support, precision, recall, f1, strict=True)),
        confusion=tuple(
            tuple(int(count) for count in row) for row in confusion_matrix(true, predicted, labels=columns)
        ),
    )


def wilson_interval(num_correct: int, num_images: int) -> tuple[float, float]:
    """Return the 95 % interval of a rate (Wilson 1927); it stays within 0-1 and is honest near the ends.

    >>> [round(end, 3) for end in wilson_interval(9, 10)]
    [0.596, 0.982]
    """
    rate, z2 = num_correct / num_images, Z_95**2 / num_images
    middle = (rate + z2 / 2) / (1 + z2)
    half = np.sqrt(rate * (1 - rate) * z2 + z2**2 / 4) / (1 + z2)
    return float(max(middle - half, 0.0)), float(min(middle + half, 1.0))


def expected_calibration_error(correct: NDArray[np.bool_], confidence: NDArray[np.floating]) -> float:
    """Return the mean gap between confidence and accuracy over equal-width bins, weighted by their pictures.

    Chance alone makes it positive: 0.02 to 0.04 for perfect calibration at 92 to 94 % accuracy and 300
    pictures.
    """
    bins = np.minimum((confidence * NUM_BINS).astype(np.intp), NUM_BINS - 1)
    gaps = np.bincount(bins, weights=confidence - correct, minlength=NUM_BINS)
    return float(np.abs(gaps).sum() / len(correct))


def _log_loss(labels: NDArray[np.intp], probabilities: NDArray[np.floating]) -> float:
    """Return the mean of -ln p(true class), nats; scikit-learn's refuses classes without pictures."""
    likely = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    return float(-np.log(np.clip(likely, SMALLEST_PROBABILITY, 1)).mean())


def _class_row(name: str, num_images: int, precision: float, recall: float, f1: float) -> dict[str, Any]:
    return {
        "name": name,
        "num_images": int(num_images),
        "precision": float(precision),
        "recall": float(recall),
        "f1": float(f1),
    }
