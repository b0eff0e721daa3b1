"""Whether a new version of a model takes over from the one that serves: a paired comparison of what they answer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.evaluation.paired import count_changes
from pipeline.types import Array

MARGIN = 1.0  # standard errors that a new head may be worse by

Names = frozenset[str]  # the labels of a picture: one if they exclude each other


@dataclass(frozen=True, slots=True)
class Promotion:
    """A new version compared with the one that serves. Rates are 0-1."""

    num_images: int
    serving_accuracy: float  # share of pictures with every label right
    challenger_accuracy: float
    num_gained: int  # pictures that only the challenger gets right
    num_lost: int  # pictures that only the serving version gets right
    difference: float  # challenger - serving
    standard_error: float  # of the difference, paired, if neither is better
    passed: bool
    reason: str


def name_labels(scores: Array, classes: Sequence[str], thresholds: Sequence[float] = ()) -> list[Names]:
    """Turn scores into the labels that a head gives each picture.

    Parameters
    ----------
    scores
        (n, classes) scores; with `thresholds` probabilities.
    thresholds
        The probability from which each label is given, if labels do not exclude each other.
    """
    if not thresholds:
        return [frozenset((classes[best],)) for best in scores.argmax(axis=1).tolist()]
    limits = list(zip(classes, thresholds, strict=True))
    return [
        frozenset(name for (name, limit), value in zip(limits, row, strict=True) if value >= limit)
        for row in scores.tolist()
    ]


def judge_challenger(
    truth: Sequence[Names], serving: Sequence[Names], challenger: Sequence[Names], margin: float = MARGIN
) -> Promotion:
    """Let a challenger serve unless it is worse by more than `margin` standard errors of the paired difference.

    A new head has seen today's data; it need not prove that it is better. So the error is that of two versions of
    which neither is better (McNemar), and one lost picture proves nothing. Names are compared, so the serving version
    is wrong about a class that it does not know.

    Parameters
    ----------
    truth, serving, challenger
        (n,) the labels of every picture: today's, and those that each version gives.
    margin
        0: it may not be worse at all.
    """
    if not truth:
        raise ValueError("versions need pictures to be compared on")
    was = [found == wanted for found, wanted in zip(serving, truth, strict=True)]
    would_be = [found == wanted for found, wanted in zip(challenger, truth, strict=True)]
    gained, lost = count_changes(was, would_be)
    passed = lost - gained <= margin * math.sqrt(gained + lost)  # in pictures: whole numbers need no rounding
    allowed = "at all" if margin == 0 else f"by more than {margin:g} standard error{'s' * (margin != 1)}"
    num = len(truth)
    difference, error = (gained - lost) / num, math.sqrt(gained + lost) / num
    return Promotion(
        num_images=num,
        serving_accuracy=sum(was) / num,
        challenger_accuracy=sum(would_be) / num,
        num_gained=gained,
        num_lost=lost,
        difference=difference,
        standard_error=error,
        passed=passed,
        reason=(
            f"It is {'not ' if passed else ''}worse {allowed}: {difference:+.1%} ± {error:.1%} on {num:,} pictures "
            f"({gained:,} gained, {lost:,} lost), {sum(would_be) / num:.1%} right against {sum(was) / num:.1%}."
        ),
    )
