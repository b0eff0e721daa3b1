"""Whether a new model ships, and which version serves: paired comparisons on pictures that neither has learned from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.decision.finetuned import Gate
from pipeline.types import Array

MARGIN = 1.0  # standard errors; the network's best epoch was chosen on the same pictures

Names = frozenset[str]  # of the labels of a picture: one where they exclude each other


def compare(labels: Sequence[int], head: Array, model: Array) -> Gate:
    """Let the model pass if it is better by more than one standard error of the paired difference.

    Pictures that both get right or both get wrong do not tell them apart (McNemar 1947, Psychometrika 12:153-157), so
    the error is that of the pictures they differ on.

    Parameters
    ----------
    labels
        (n,) true classes.
    head, model
        (n, classes) probabilities, or scores.
    """
    if not len(labels):
        raise ValueError("a gate needs pictures to compare on")
    head_correct = (head.argmax(axis=1) == labels).tolist()
    model_correct = (model.argmax(axis=1) == labels).tolist()
    num = len(labels)
    gained, lost = _count(head_correct, model_correct)
    difference = (gained - lost) / num
    error = math.sqrt(max((gained + lost) / num - difference**2, 0.0) / num)
    passed = difference > MARGIN * error
    verdict = "is better by more than" if passed else "is not better by more than"
    return Gate(
        num_images=num,
        head_accuracy=sum(head_correct) / num,
        model_accuracy=sum(model_correct) / num,
        num_gained=gained,
        num_lost=lost,
        difference=difference,
        standard_error=error,
        passed=passed,
        reason=(
            f"The trained network {verdict} one standard error: {difference:+.1%} ± {error:.1%} on {num:,} validation "
            f"pictures ({gained:,} gained, {lost:,} lost), {sum(model_correct) / num:.1%} against the head's "
            f"{sum(head_correct) / num:.1%}."
        ),
    )


def _count(before: Sequence[bool], now: Sequence[bool]) -> tuple[int, int]:
    """Return how many pictures are gained and lost."""
    pairs = list(zip(before, now, strict=True))
    return sum(new and not old for old, new in pairs), sum(old and not new for old, new in pairs)


# ── which version serves ─────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Promotion:
    """What came of comparing a new version with the one that serves. Rates are 0-1."""

    num_images: int
    serving_accuracy: float  # share of pictures with every label right
    challenger_accuracy: float
    num_gained: int  # pictures that the challenger alone gets right
    num_lost: int  # pictures that the serving version alone gets right
    difference: float  # challenger - serving
    standard_error: float  # of the difference, paired, were neither better
    passed: bool
    reason: str


def name_labels(scores: Array, classes: Sequence[str], thresholds: Sequence[float] = ()) -> list[Names]:
    """Turn scores into what a head says of each picture.

    Parameters
    ----------
    scores
        (n, classes) scores; with `thresholds` probabilities.
    thresholds
        From where on each label is given, where labels do not exclude each other.
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

    A new head has seen what the data are today; it need not prove that it is better. So the error is that of two
    versions of which neither is better (McNemar), and a single picture lost says nothing. Names are compared, so a
    class that the serving version does not know is one it gets wrong.

    Parameters
    ----------
    truth, serving, challenger
        (n,) the labels of every picture: as they are today, as either version has them.
    margin
        0: not worse at all.
    """
    if not truth:
        raise ValueError("versions need pictures to be compared on")
    was = [found == wanted for found, wanted in zip(serving, truth, strict=True)]
    would_be = [found == wanted for found, wanted in zip(challenger, truth, strict=True)]
    gained, lost = _count(was, would_be)
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
