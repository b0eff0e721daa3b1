"""The gate of a trained network: a paired comparison with its head on validation pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pipeline.decision.finetuned import Gate
from pipeline.evaluation.paired import count_changes
from pipeline.types import Array

MARGIN = 1.0  # standard errors; the network's best epoch was chosen on the same pictures


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
    gained, lost = count_changes(head_correct, model_correct)
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
