"""Metrics of probabilities if every picture has exactly one class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from pipeline.errors import DataError
from pipeline.evaluation.log_loss import log_losses
from pipeline.types import ClassMetrics, Metrics, Split

NUM_BINS = 15  # Guo et al. 2017, arXiv:1706.04599
NUM_RESAMPLES = 1000
CHUNK_VALUES = 2**22  # resampled pictures at a time


def evaluate(
    labels: Sequence[int] | NDArray[np.integer],
    probabilities: NDArray[np.floating],
    classes: Sequence[str],
    split: Split = "test",
) -> Metrics:
    """Score probabilities (n, classes) against labels (n,).

    Balanced accuracy and macro F1 are means over the classes that have pictures; a class without pictures is
    in the table with zeros. The interval of the accuracy is Wilson's; the others are of 1,000 resamples of the
    pictures, always the same ones. That of the calibration error lies a little high: resampling adds chance to chance.

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
    correct = predicted == true
    confidence = probabilities.max(axis=1)
    num_correct = int(correct.sum())
    return Metrics(
        split=split,
        num_images=len(true),
        accuracy=num_correct / len(true),
        accuracy_interval=wilson_interval(num_correct, len(true)),
        balanced_accuracy=float(recall[present].mean()),
        macro_f1=float(f1[present].mean()),
        log_loss=float(_losses(true, probabilities).mean()),
        ece=expected_calibration_error(correct, confidence),
        per_class=tuple(
            ClassMetrics(name, int(num), float(p), float(r), float(f))
            for name, num, p, r, f in zip(classes, support, precision, recall, f1, strict=True)
        ),
        confusion=tuple(
            tuple(int(count) for count in row) for row in confusion_matrix(true, predicted, labels=columns)
        ),
        ece_by_chance=ece_by_chance(confidence),
        intervals=_intervals(true, probabilities),
    )


def wilson_interval(num_correct: int, num_images: int) -> tuple[float, float]:
    """Return the 95 % interval of a rate (Wilson 1927); it stays within 0-1 and is honest near the ends.

    >>> [round(end, 3) for end in wilson_interval(9, 10)]
    [0.596, 0.982]
    """
    from scipy.stats import binomtest  # half a second

    low, high = binomtest(num_correct, num_images).proportion_ci(method="wilson")
    return float(low), float(high)


def expected_calibration_error(correct: NDArray[np.bool_], confidence: NDArray[np.floating]) -> float:
    """Return the mean gap between confidence and accuracy over equal-width bins, weighted by their pictures.

    Chance alone makes it positive, see `ece_by_chance`: 0.02 to 0.04 for perfect calibration at 92 to 94 %
    accuracy and 300 pictures.
    """
    gaps = np.bincount(_bins(confidence), weights=confidence - correct, minlength=NUM_BINS)
    return float(np.abs(gaps).sum() / len(correct))


def ece_by_chance(confidence: NDArray[np.floating]) -> tuple[float, float]:
    """Return the mean and the 95th percentile of the calibration error if every confidence were exactly right.

    Simulated: each picture is right with the probability that is claimed, 1,000 times.
    """
    rng = np.random.default_rng(0)
    in_bin = np.eye(NUM_BINS)[_bins(confidence)]
    errors = []
    for size in _sizes(len(confidence)):
        gaps = (confidence - (rng.random((size, len(confidence))) < confidence)) @ in_bin
        errors.append(np.abs(gaps).sum(axis=1) / len(confidence))
    found = np.concatenate(errors)
    return float(found.mean()), float(np.quantile(found, 0.95))


def _bins(confidence: NDArray[np.floating]) -> NDArray[np.intp]:
    return np.minimum((confidence * NUM_BINS).astype(np.intp), NUM_BINS - 1)


def _sizes(num_images: int) -> list[int]:
    """Cut the resamples into parts of about CHUNK_VALUES pictures."""
    size = max(1, min(NUM_RESAMPLES, CHUNK_VALUES // num_images))
    return [min(size, NUM_RESAMPLES - start) for start in range(0, NUM_RESAMPLES, size)]


def _intervals(true: NDArray[np.intp], probabilities: NDArray[np.floating]) -> dict[str, tuple[float, float]]:
    """Return metric -> 95 % interval by resampling pictures: percentiles of what each resample would have scored."""
    rng, num_images = np.random.default_rng(0), len(true)
    scored: dict[str, list[NDArray[np.float64]]] = {}
    for size in _sizes(num_images):
        drawn = rng.integers(0, num_images, (size, num_images)) + num_images * np.arange(size)[:, None]
        times = np.bincount(drawn.ravel(), minlength=size * num_images).reshape(size, num_images).astype(np.float64)
        for name, values in _resampled(times, true, probabilities).items():
            scored.setdefault(name, []).append(values)
    quantiles = {name: np.quantile(np.concatenate(values), (0.025, 0.975)) for name, values in scored.items()}
    return {name: (float(low), float(high)) for name, (low, high) in quantiles.items()}


def _resampled(
    times: NDArray[np.float64], true: NDArray[np.intp], probabilities: NDArray[np.floating]
) -> dict[str, NDArray[np.float64]]:
    """Score resamples; `times` (resamples, n) says how often each picture is in each."""
    num_images, num_classes = probabilities.shape
    predicted, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
    correct = predicted == true
    is_class, is_guess = np.eye(num_classes)[true], np.eye(num_classes)[predicted]
    support = times @ is_class
    hits = times @ (is_class * correct[:, None])
    present = np.maximum((support > 0).sum(axis=1), 1)
    recall = hits / np.maximum(support, 1)
    f1 = 2 * hits / np.maximum(support + times @ is_guess, 1) * (support > 0)
    gaps = times @ (np.eye(NUM_BINS)[_bins(confidence)] * (confidence - correct)[:, None])
    return {
        "balanced_accuracy": recall.sum(axis=1) / present,
        "macro_f1": f1.sum(axis=1) / present,
        "log_loss": times @ _losses(true, probabilities) / num_images,
        "ece": np.abs(gaps).sum(axis=1) / num_images,
    }


def _losses(labels: NDArray[np.intp], probabilities: NDArray[np.floating]) -> NDArray[np.float64]:
    return log_losses(probabilities[np.arange(len(labels)), labels])
