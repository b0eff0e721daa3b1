"""Average precision: how high a ranking by score places the pictures that have a label."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]


def average_precision(
    scores: NDArray[np.floating], positive: NDArray[np.bool_], weights: NDArray[np.integer] | None = None
) -> Float64:
    """Return the mean, over the positives, of the precision among all that score at least as much: (resamples,).

    What scikit-learn's `average_precision_score` returns, for any number of resamples at once.

    Parameters
    ----------
    scores, positive
        (n,) of one label.
    weights
        (resamples, n): how often each resample holds a picture; by default once. NaN if it holds no positive.
    """
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    # equal scores rank alike: precision is that at the last of them
    ends = np.searchsorted(-ranked, -ranked, side="right") - 1
    held = np.ones((1, len(scores))) if weights is None else weights[:, order].astype(np.float64)
    hits = held * positive[order]
    found = np.cumsum(hits, axis=1)
    seen = np.cumsum(held, axis=1)
    precision = found[:, ends] / np.maximum(seen[:, ends], 1)
    total = found[:, -1]
    result: Float64 = (hits * precision).sum(axis=1) / np.where(total > 0, total, np.nan)
    return result


def mean_average_precision(scores: NDArray[np.floating], targets: NDArray[np.bool_]) -> float:
    """Return the mean over the labels that some picture has; scores and targets are (n, labels), 0 without any."""
    present = targets.any(axis=0)
    found = [average_precision(scores[:, label], targets[:, label])[0] for label in np.flatnonzero(present)]
    return float(np.mean(found)) if found else 0.0
