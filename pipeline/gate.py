"""Whether a new model ships: a paired comparison with the one it would replace, on pictures neither was trained on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.types import Array

MARGIN = 1.0  # standard errors: a network has to earn its epoch choice, made on the same pictures


@dataclass(frozen=True, slots=True)
class Gate:
    """The comparison and what came of it. Rates are 0-1."""

    num_images: int
    head_accuracy: float
    model_accuracy: float
    num_gained: int  # pictures that the model alone gets right
    num_lost: int  # pictures that the head alone gets right
    difference: float  # model - head
    standard_error: float  # of the difference, paired
    passed: bool
    reason: str


def compare(labels: Sequence[int], head: Array, model: Array) -> Gate:
    """Let the model pass if it is better by more than one standard error of the paired difference.

    Pictures that both get right or both get wrong say nothing (McNemar 1947, Psychometrika 12:153-157), so the error
    is that of the ones they differ on.

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
    pairs = list(zip(head_correct, model_correct, strict=True))
    gained = sum(now and not before for before, now in pairs)
    lost = sum(before and not now for before, now in pairs)
    num = len(pairs)
    difference = (gained - lost) / num
    error = math.sqrt(max((gained + lost) / num - difference**2, 0.0) / num)
    passed = difference > 0 and difference > MARGIN * error
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
