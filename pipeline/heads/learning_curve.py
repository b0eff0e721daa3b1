"""The learning curve of a head: how its error falls with more pictures, and whether data or features limit it.

Every picture is held out once at every size: the pictures are dealt into 8, 4, 2 and 1 parts, alike in their classes,
and each part leaves its own pictures out one at a time (exact leave-one-out; the head's taps, shares and penalties
kept). So no test picture is needed, errors of different sizes are of the same pictures, and the cost is a few
inversions.

The law is `error(n) = floor + slope / sqrt(n)` (Hoiem et al. 2021, arXiv:2010.11029: with the exponent fixed, error
and its reliance on data are estimated stably, the asymptote is not): `slope / sqrt(n)` is what more pictures can
still remove, the floor what they cannot.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from pipeline.heads.ridge import Float64, Labels, transform
from pipeline.types import Array, Head, LearningCurve, LimitedBy

NUM_PARTS = (8, 4, 2, 1)
FEWEST_OF_A_CLASS = 5  # below, power laws do not hold (Mahmood et al. 2022, arXiv:2207.01725)
FEWEST_SIZES = 3  # for a floor and a slope
LARGEST = 4000  # pictures looked at: inverting 4,000 x 4,000 takes two seconds on two cores
NUM_RESAMPLED = 500


def fit_learning_curve(features: Mapping[str, Array], head: Head, labels: Labels, num_classes: int) -> LearningCurve:
    """Measure the head's held-out error at n/8, n/4, n/2 and n training pictures, and extrapolate to 2 n.

    Parameters
    ----------
    features
        Tap name -> (n or more, dim), originals first; each of the head's taps is asked for once.
    head
        As fitted on them.
    labels
        (n,) integers below `num_classes`.
    """
    chosen = spread_rows(labels, LARGEST)
    known = labels[chosen]
    counts = np.bincount(known)
    typical = float(np.median(counts[counts > 0]))
    sizes = [parts for parts in NUM_PARTS if typical / parts >= FEWEST_OF_A_CLASS]
    if len(sizes) < FEWEST_SIZES:
        return LearningCurve(
            reason=f"A typical class has {typical:.0f} training pictures, too few to tell how the error falls: "
            f"at least {FEWEST_OF_A_CLASS * NUM_PARTS[-FEWEST_SIZES]} are needed."
        )
    kernels = _kernels(features, head, chosen)
    targets = np.eye(num_classes)[known]
    wrong = np.stack([_errors(kernels, targets, known, num_parts) for num_parts in sizes])  # (sizes, pictures)
    numbers = np.array([len(known) / num_parts for num_parts in sizes])
    return _curve(numbers, wrong, len(labels))


def spread_rows(labels: Labels, most: int) -> NDArray[np.intp]:
    """Return at most this many rows in proportion to the classes, class after class and evenly spaced within each."""
    by_class = np.argsort(labels, kind="stable")
    return by_class[np.linspace(0, len(labels) - 1, min(len(labels), most)).round().astype(np.intp)]


def _kernels(features: Mapping[str, Array], head: Head, rows: NDArray[np.intp]) -> list[tuple[float, float, Float64]]:
    """Return (share, penalty, kernel) of every ridge that the head consists of; its taps side by side are one."""
    shares = {row.tap: row.share for row in head.evidence}
    found = []
    for part in head.taps:
        inputs = transform(features[part.tap][rows], part.kind)
        inputs -= inputs.mean(axis=0)
        spread = float(np.square(inputs).sum(axis=1).mean()) or 1.0
        scale = shares[part.tap] / spread if head.kind != "stacked" else 1.0
        found.append((shares[part.tap], part.penalty, scale * (inputs @ inputs.T).astype(np.float64)))
    if head.kind == "stacked":
        return found
    return [(1.0, head.taps[0].penalty, np.sum([kernel for _, _, kernel in found], axis=0))]  # one ridge, one penalty


def _errors(
    kernels: Sequence[tuple[float, float, Float64]], targets: Float64, labels: Labels, num_parts: int
) -> NDArray[np.bool_]:
    """Mark the pictures (n,) that are misclassified when they are left out of their part."""
    wrong = np.zeros(len(labels), dtype=np.bool_)
    for part in range(num_parts):
        rows = np.arange(part, len(labels), num_parts)  # they lie class after class: each part has its share of each
        scores = sum(
            share * _held_out(kernel[np.ix_(rows, rows)], targets[rows], penalty) for share, penalty, kernel in kernels
        )
        wrong[rows] = np.asarray(scores).argmax(axis=1) != labels[rows]
    return wrong


def _held_out(kernel: Float64, targets: Float64, penalty: float) -> Float64:
    """Return the scores (n, classes) of pictures left out one at a time of a kernel ridge with an intercept."""
    num = len(kernel)
    centred = kernel - kernel.mean(axis=0) - kernel.mean(axis=1)[:, None] + kernel.mean()
    prior = targets.mean(axis=0)
    inverse = np.linalg.inv(centred + penalty * np.eye(num))
    # I - H = penalty * inverse - 1 1'/n: the intercept's share of the leverage is 1/n
    room = penalty * np.diag(inverse) - 1 / num
    residuals = penalty * inverse @ (targets - prior)
    scores: Float64 = targets - residuals / np.maximum(room, 1e-9)[:, None]
    return scores


def _curve(numbers: Float64, wrong: NDArray[np.bool_], num_images: int) -> LearningCurve:
    errors = wrong.mean(axis=1)
    floor, slope = _law(numbers, errors)
    rng = np.random.default_rng(0)
    num = wrong.shape[1]
    draws = [wrong[:, rng.integers(0, num, num)].mean(axis=1) for _ in range(NUM_RESAMPLED)]
    gains = [_gain(_law(numbers, drawn)[1], num_images, drawn[-1]) for drawn in draws]
    low, high = (float(end) for end in np.quantile(gains, [0.025, 0.975]))
    gain = _gain(slope, num_images, errors[-1])
    removable = slope / np.sqrt(num_images)
    verdict, says = _verdict(floor, float(removable), num_images)
    interval = f"95 % interval {low:.1%} to {high:.1%}"
    doubling = f" Twice as many pictures are expected to lower the error by {gain:.1%} ({interval})."
    return LearningCurve(
        reason=says + (doubling if verdict else ""),
        sizes=tuple(int(number) for number in numbers),
        errors=tuple(float(error) for error in errors),
        floor=floor,
        slope=slope,
        gain_of_doubling=gain,
        gain_interval=(low, high),
        verdict=verdict,
    )


def _verdict(floor: float, removable: float, num_images: int) -> tuple[LimitedBy | None, str]:
    """Say which part of the error is the larger one."""
    if floor + removable < 1 / num_images:
        return None, "No held-out picture is misclassified, so nothing shows what limits the head."
    parts = (
        f"Of the held-out error of {floor + removable:.1%} at {num_images:,} pictures, any number of further pictures "
        f"would remove at most {removable:.1%}; {floor:.1%} would stay."
    )
    if removable >= floor:
        return "data-limited", f"The number of pictures limits the head, so more pictures would help most. {parts}"
    help_most = "fine-tuning or another backbone would help more than pictures"
    return "representation-limited", f"The features limit the head, so {help_most}. {parts}"


def _law(numbers: Float64, errors: Float64) -> tuple[float, float]:
    """Fit floor and slope, neither below 0, by least squares; larger sizes count more: they are nearer to n."""
    weight = np.sqrt(numbers)
    matrix = np.stack([weight, weight * numbers**-0.5], axis=1)
    floor, slope = nnls(matrix, weight * errors)[0]
    return float(floor), float(slope)


def _gain(slope: float, num_images: int, error: float) -> float:
    """Return how much twice as many pictures lower the error; never by more than the error."""
    return min(slope * float(num_images**-0.5 - (2 * num_images) ** -0.5), float(error))
