"""The four classic cases of transfer learning: measured similarity and size in, plan with reasons out.

The cases and their sentences follow the CS231n notes (https://cs231n.github.io/transfer-learning/); what
"small" and "similar" mean is measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.backbones.table import TOP
from pipeline.decision.nouns import (
    Alternative,
    Change,
    Plan,
    Signal,
    Similarity,
    SimilarityVerdict,
    Size,
    SizeVerdict,
    Strategy,
)
from pipeline.decision.similarity import describe_details, describe_verdict
from pipeline.errors import DataError, UsageError
from pipeline.types import Tap

# training pictures. Always small: with 47 to 800 a linear head matches fine-tuning or beats it (Kornblith et
# al. 2019, arXiv:1805.08974). Large: on the 12 photograph sets of SimCLR's Table B.5 (arXiv:2002.05709)
# fine-tuning gains 3 points at most over a linear head below 5,000, up to 25 above. Pictures per class hardly
# predict the gain there (rank correlation 0.12, against 0.58 for their total).
ALWAYS_SMALL_BELOW = 800
SMALLEST_CLASS = 10
UNEVEN = 0.8  # effective number of classes over their number, from which down imbalance is a reason of its own
LARGE_FROM_SIMILAR = 5_000
LARGE_FROM_DIFFERENT = 2_000


@dataclass(frozen=True, slots=True)
class Case:
    """One cell of the textbook's table."""

    number: int
    strategy: Strategy
    textbook: str


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a person wants instead of what the rule says."""

    case: int | None = None
    strategy: Strategy | None = None
    by: str = ""


NO_WISHES = Wishes()
EVIDENCE = "evidence"  # who changed a plan, if no person did
FINETUNING: tuple[Strategy, ...] = ("fine-tune", "fine-tune-or-scratch")  # what trains the whole network
HEADS_ONLY = "If a picture may have several labels, only a head is trained; fine-tuning is not offered for that yet"

# (large, similar) -> case
CASES: dict[tuple[bool, bool], Case] = {
    (False, True): Case(
        1,
        "head-on-top",
        "The textbook for few, similar pictures: train only a classifier on the network's last layer. "
        "That layer already describes such pictures, and training the whole network would memorise so few.",
    ),
    (False, False): Case(
        2,
        "head-on-evidence",
        "The textbook for few, different pictures: train only a classifier, on earlier layers too. "
        "The last layer is specialised in the photographs that the network was trained on.",
    ),
    (True, True): Case(
        3,
        "fine-tune",
        "The textbook for many, similar pictures: train the whole network further (fine-tuning). "
        "There are enough pictures to do that without memorising them.",
    ),
    (True, False): Case(
        4,
        "fine-tune-or-scratch",
        "The textbook for many, different pictures: train the whole network further (fine-tuning), and also try a new "
        "network from scratch. Starting from pretrained weights is usually still better.",
    ),
}


def measure_size(
    labels: Sequence[int], num_classes: int, verdict: SimilarityVerdict, num_pictures: int | None = None
) -> Size:
    """Judge how much there is to learn from.

    Parameters
    ----------
    labels
        Of the distinct training pictures; below `num_classes`.
    verdict
        Of the similarity: what is large depends on it.
    num_pictures
        Needed if a picture may have any number of labels.
    """
    num_train = len(labels) if num_pictures is None else num_pictures
    counts = np.bincount(np.asarray(labels, dtype=np.intp), minlength=num_classes)
    smallest = int(counts.min())
    return Size(num_train, num_classes, smallest, judge_size(num_train, smallest, verdict), _effective_number(counts))


def _effective_number(counts: NDArray[np.integer]) -> float:
    """Return exp(entropy) of the class frequencies: Hill's number of order 1 (Hill 1973, Ecology 54:427-432)."""
    frequencies = counts[counts > 0] / max(counts.sum(), 1)
    return float(np.exp(-(frequencies * np.log(frequencies)).sum()))


def judge_size(num_train: int, smallest_class: int, verdict: SimilarityVerdict) -> SizeVerdict:
    """Name a number of training pictures.

    >>> judge_size(2_000, 10, "different"), judge_size(2_000, 10, "similar"), judge_size(2_000, 9, "different")
    ('large', 'small', 'small')
    """
    enough = num_train >= max(_large_from(verdict), ALWAYS_SMALL_BELOW) and smallest_class >= SMALLEST_CLASS
    return "large" if enough else "small"


def plan_case(
    similarity: Similarity,
    size: Size,
    backbone_name: str,
    taps: tuple[Tap, ...],
    wishes: Wishes = NO_WISHES,
    exclusive: bool = True,
) -> Plan:
    """Choose case, strategy and candidate taps.

    Parameters
    ----------
    taps
        All taps of the backbone, the one named "top" among them. All are candidates, in case 1 too: held-out pictures
        tell whether the top tap is enough. Only a person who asks for a head on top gets no other.
    wishes
        What a person wants instead of what the rule says; kept in the plan with the rule's own choice.
    exclusive
        Whether the labels exclude each other. If they do not, no whole network is trained yet.

    Raises
    ------
    UsageError
        Fine-tuning is wanted for labels that it is not offered for.
    DataError
        When there is nothing to train on.
    """
    if size.num_train == 0:
        raise DataError(
            "There are no training pictures. Add some, or check how the dataset is split into train and test."
        )
    similar = similarity.verdict == "similar"
    textbook = CASES[size.verdict == "large", similar]
    case = textbook if wishes.case is None else get_case(wishes.case)
    is_offered = exclusive or case.strategy not in FINETUNING
    strategy = wishes.strategy or (case if is_offered else CASES[False, similar]).strategy
    if strategy in FINETUNING and not exclusive:
        raise UsageError(f"{HEADS_ONLY}. Choose head-on-top or head-on-evidence instead of {strategy}.")
    wants_top = strategy == "head-on-top" and (wishes.strategy is not None or (wishes.case is not None and is_offered))
    names = tuple(tap.name for tap in taps if tap.name == TOP or not wants_top)
    changes = _wished_changes(wishes, textbook, case)
    reasons = (
        describe_verdict(similarity),
        _size_reason(size, similarity.verdict),
        *_imbalance_reason(size),
        textbook.textbook,
    )
    return Plan(
        backbone=backbone_name,
        case=case.number,
        strategy=strategy,
        taps=names,
        similarity=similarity,
        size=size,
        reasons=(
            *reasons,
            *describe_details(similarity, backbone_name),
            *map(describe_change, changes),
            *_head_reasons(case, strategy, names, exclusive),
        ),
        textbook=textbook.strategy,
        signals=_signals(similarity, size),
        alternatives=_alternatives(strategy, size, similar, exclusive),
        changes=changes,
    )


def get_case(number: int) -> Case:
    """Look a case up by its number, 1 to 4.

    Raises
    ------
    UsageError
        When there is no such case.
    """
    for case in CASES.values():
        if case.number == number:
            return case
    raise UsageError(f"There is no case {number}. Wanted: 1 (small, similar) to 4 (large, different).")


def describe_change(change: Change) -> str:
    """Say what was decided instead of what, by whom and why."""
    why = f": {change.why}" if change.why else ""
    if change.by == EVIDENCE:
        return f"Held-out pictures changed the {change.what} from {change.instead_of} to {change.value}{why}."
    instead = ", as the rule does" if change.value == change.instead_of else f" instead of {change.instead_of}"
    return f"{change.by or 'A person'} chose {change.what} {change.value}{instead}{why}."


def describe_case(number: int) -> str:
    """Say what a case is.

    >>> describe_case(2)
    'small, different from what the backbone has seen'
    """
    (large, similar) = next(key for key, case in CASES.items() if case.number == number)
    return (
        f"{'large' if large else 'small'}, {'similar to' if similar else 'different from'} what the backbone has seen"
    )


def _large_from(verdict: SimilarityVerdict) -> int:
    return LARGE_FROM_SIMILAR if verdict == "similar" else LARGE_FROM_DIFFERENT


def _size_reason(size: Size, verdict: SimilarityVerdict) -> str:
    large_from = _large_from(verdict)
    kind = "similar" if verdict == "similar" else "different"
    if size.verdict == "large":
        return (
            f"Large: {size.num_train:,} training pictures, {size.num_train - large_from:,} over the "
            f"{large_from:,} needed for {kind} data, and {size.smallest_class:,} in the smallest class."
        )
    if size.num_train < ALWAYS_SMALL_BELOW:
        return f"Small: {size.num_train:,} training pictures; fewer than {ALWAYS_SMALL_BELOW} is always small."
    if size.num_train < large_from:
        return (
            f"Small: {size.num_train:,} training pictures, {large_from - size.num_train:,} short of the "
            f"{large_from:,} needed for {kind} data."
        )
    return (
        f"Small: {size.num_train:,} training pictures would be enough, but the smallest of the {size.num_classes:,} "
        f"classes has only {size.smallest_class}; fewer than {SMALLEST_CLASS} in any class is small."
    )


def _imbalance_reason(size: Size) -> tuple[str, ...]:
    effective = size.effective_classes
    if effective is None or effective > UNEVEN * size.num_classes:
        return ()
    return (
        f"Imbalanced: the {size.num_classes:,} classes carry as much information as {effective:.1f} classes of equal "
        f"size; the smallest has {size.smallest_class:,} of the {size.num_train:,} training pictures.",
    )


def _head_reasons(case: Case, strategy: Strategy, names: tuple[str, ...], exclusive: bool) -> tuple[str, ...]:
    if not exclusive:
        return (f"{HEADS_ONLY}, so the strategy is {strategy}.",)
    if strategy not in FINETUNING:
        return ()
    taps = "the last layer" if len(names) == 1 else f"up to {len(names)} layers"
    return (
        f"The strategy is {strategy}. Until that has run, a head on {taps} is the model; fine-tuning starts from it.",
    )


def _wished_changes(wishes: Wishes, textbook: Case, case: Case) -> tuple[Change, ...]:
    """Note what was wanted, also if the rule says the same, because evidence may not change it then."""
    found = []
    if wishes.case is not None:
        found.append(Change("case", str(case.number), str(textbook.number), wishes.by))
    if wishes.strategy:
        found.append(Change("strategy", wishes.strategy, case.strategy, wishes.by))
    return tuple(found)


def _signals(similarity: Similarity, size: Size) -> tuple[Signal, ...]:
    large_from = max(_large_from(similarity.verdict), ALWAYS_SMALL_BELOW)
    similar_below, different_above = similarity.limits
    boundary = different_above if similarity.verdict == "different" else similar_below
    return (
        Signal("D_BN (nats)", similarity.distance, boundary, "similar below, different above"),
        Signal("training pictures", size.num_train, large_from, "small below, large from it on"),
        Signal("pictures of the smallest class", size.smallest_class, SMALLEST_CLASS, "small below"),
    )


def _alternatives(strategy: Strategy, size: Size, similar: bool, exclusive: bool) -> tuple[Alternative, ...]:
    small = size.verdict == "small"
    why_not: dict[Strategy, str] = {
        "head-on-top": "the last layer is one of the candidates, and used alone if no other layer helps"
        if not similar
        else "there are enough pictures to train more than a classifier",
        "head-on-evidence": "the last layer is made for such pictures; held-out pictures can overrule that"
        if small
        else "it is the model until the whole network is trained, and stays the model if the network is not better",
        "fine-tune": f"{size.num_train:,} training pictures are few for training a whole network"
        if small
        else "a network from random weights is tried beside it, because the pictures are different",
        "fine-tune-or-scratch": f"{size.num_train:,} training pictures are few for a network from random weights"
        if small
        else "weights trained on similar pictures are a better start than random ones",
    }
    if not exclusive:
        why_not |= dict.fromkeys(FINETUNING, "it is not offered yet for pictures with several labels")
    return tuple(Alternative(name, reason) for name, reason in why_not.items() if name != strategy)
