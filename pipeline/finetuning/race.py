"""The race of case 4: when a network from random weights gets more than a small budget.

From scratch is almost never the answer where pretrained weights exist (1 of 12 datasets in Table B.5 of SimCLR,
arXiv:2002.05709, and then by 0.3 points), and it needs some 17 times the steps (Kornblith et al. 2019,
arXiv:1805.08974). So it gets a small budget, and continues only if it is ahead at the end of it.
"""

from __future__ import annotations

import math

from pipeline.decision.finetuned import Race

BUDGET_EPOCHS = 1.0  # of fine-tuning, in multiply-adds: what the arm from scratch may cost before it is judged
MAX_EPOCHS = 10  # of the arm from scratch, however cheap they are


def plan_race(finetune_multiply_adds: int, scratch_multiply_adds: int, budget_epochs: float = BUDGET_EPOCHS) -> int:
    """Return how many epochs the arm from scratch gets for this many of fine-tuning, in multiply-adds; at least 1."""
    affordable = int(budget_epochs * finetune_multiply_adds / scratch_multiply_adds)
    return max(1, min(affordable, int(MAX_EPOCHS * max(budget_epochs, 1))))


def judge_race(finetuned_accuracy: float, scratch_accuracy: float, num_images: int, epochs: int, cost: float) -> Race:
    """Let the arm from scratch continue if it is ahead by more than one standard error of the difference."""
    variance = sum(rate * (1 - rate) for rate in (finetuned_accuracy, scratch_accuracy)) / num_images
    error = math.sqrt(variance)
    ahead = scratch_accuracy - finetuned_accuracy
    continued = ahead > error
    verdict = "continues" if continued else "was stopped"
    reason = (
        f"The network from random weights {verdict}: {scratch_accuracy:.1%} after {epochs} epochs, which cost as much "
        f"as {cost:.2g} of fine-tuning, against {finetuned_accuracy:.1%} after one of those "
        f"({ahead:+.1%} ± {error:.1%})."
    )
    return Race(epochs, cost, finetuned_accuracy, scratch_accuracy, continued, reason)
