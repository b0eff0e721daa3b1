"""The schedule of a training, by the number of training pictures: one table, after BiT's HyperRule.

BiT (Kolesnikov et al. 2020, arXiv:1912.11370) fine-tunes for 500 steps of 512 pictures below 20,000 training
pictures, 10,000 below 500,000 and 20,000 above, with MixUp 0.1 from 20,000 on. The classes of size are BiT's, the
budgets are not: BiT starts from a random classifier, this from a trained head (LP-FT, Kumar et al. 2022,
arXiv:2202.10054).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

MEDIUM_FROM = 20_000  # training pictures
LARGE_FROM = 500_000
UNEVEN = 1.5  # classes are weighted if the largest has this many times the pictures of the smallest
SMALLEST_BATCH = 8  # if there are twice as many pictures
CHECKPOINT_SECONDS = 120.0  # between checkpoints; a kill loses at most this much work
AUDIT_EPOCHS = 6  # of fine-tuning in an audit, half the usual
MIRROR_TOLERANCE = 0.02  # of accuracy: training mirrors pictures if the head loses at most this much on mirrored ones


@dataclass(frozen=True, slots=True)
class Augmentation:
    """The changes to a training picture, drawn uniformly from these ranges for each picture in each epoch."""

    turn: float = 10.0  # degrees, either way
    shift: float = 0.1  # of the side, each way
    scale: float = 1.15  # and down to 1 / 1.15, evenly in the logarithm
    colour: float = 0.2  # brightness, contrast and saturation change by at most this share
    mirror: bool = True  # left and right are swapped in half of the pictures
    mixup: float = 0.0  # a of Beta(a, a) (Zhang et al. 2018, arXiv:1710.09412); 0: pictures are not mixed


@dataclass(frozen=True, slots=True)
class Schedule:
    """Everything that decides how weights move. Rates follow a cosine from their peak to zero, after a warm-up."""

    epochs: int
    batch_size: int
    learning_rate: float  # peak, of AdamW
    warmup: float  # share of all steps in which the rate rises to its peak
    weight_decay: float  # of kernels, decoupled (Loshchilov & Hutter 2019, arXiv:1711.05101)
    label_smoothing: float
    frozen_statistics: bool  # BatchNorm uses its stored statistics and learns no new ones
    patience: int  # epochs without a better validation accuracy, after which training ends
    augmentation: Augmentation
    layer_decay: float = 1.0  # learning rate of each stage, as a fraction of the next deeper stage's; 1: all alike
    unfreeze_epochs: float = 0.0  # the head learns alone for this long, then stage after stage joins, the deepest first
    seed: int = 0


def plan_finetuning(num_train: int, epochs: int | None = None) -> Schedule:
    """Choose how a pretrained network with a trained head is fine-tuned.

    Parameters
    ----------
    epochs
        At most this many; the schedule ends there.
    """
    if num_train < MEDIUM_FROM:
        usual, mixup = 12, 0.0
    elif num_train < LARGE_FROM:
        usual, mixup = 10, 0.1
    else:
        usual, mixup = 4, 0.1
    return Schedule(
        epochs=usual if epochs is None else epochs,
        # an epoch has ten steps or more, unless a batch would be tiny
        batch_size=max(1, min(32, num_train // 10), min(SMALLEST_BATCH, num_train // 2)),
        learning_rate=5e-4,
        warmup=0.1,
        weight_decay=0.05,
        label_smoothing=0.1,
        frozen_statistics=True,
        patience=3,
        augmentation=Augmentation(mixup=mixup),
    )


def plan_scratch(num_train: int, epochs: int | None = None) -> Schedule:
    """Choose how a network is trained from random weights: longer, and with its own statistics."""
    usual = 60 if num_train < LARGE_FROM else 20
    known = plan_finetuning(num_train, usual if epochs is None else epochs)
    return replace(known, learning_rate=1e-3, frozen_statistics=False, patience=10)


def norm_momentum(num_steps: int) -> float:
    """Return the BatchNorm momentum of a short training: max(1 - 10 / steps, 0.9).

    Kornblith et al. 2019 (arXiv:1805.08974), appendix A.5: the usual 0.99 forgets too slowly for few steps.
    """
    return max(1 - 10 / num_steps, 0.9)


def class_weights(counts: list[int]) -> list[float]:
    """Weight classes by 1 / sqrt(pictures), so that a picture weighs 1 on average; all 1 if they are about even.

    >>> class_weights([50, 50])
    [1.0, 1.0]
    >>> [round(weight, 2) for weight in class_weights([900, 100])]
    [0.83, 2.5]
    """
    present = [count for count in counts if count]
    if not present or max(present) < UNEVEN * min(present):
        return [1.0] * len(counts)
    roots = [count**-0.5 if count else 0.0 for count in counts]
    mean = sum(root * count for root, count in zip(roots, counts, strict=True)) / sum(counts)
    return [root / mean for root in roots]
