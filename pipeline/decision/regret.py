"""The regret of a choice among strategies: what it cost against the best one in hindsight.

The best of several noisy scores looks better than it is: chosen and scored on the same 390 pictures, the best of 14
taps looked a point too good. So the oracle chooses on one half of the pictures and is scored on the other half, both
ways, for many halvings. The choice is scored on the same pictures.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.decision.audited import Compute, Judgement, Regret, StrategyRow

NUM_HALVINGS = 50  # random ones; the mean of all, because a single one is noise
HEADS = ("head-on-top", "head-on-evidence")  # they cost one forward pass per picture

Correct = NDArray[np.bool_]  # (n,) whether a strategy got each picture right


def pack_correct(probabilities: NDArray[np.floating], labels: Sequence[int]) -> str:
    """Write down which pictures were predicted correctly, one bit each, as hexadecimal digits.

    >>> pack_correct(np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]]), [0, 1, 1])
    'c0'
    """
    correct = probabilities.argmax(axis=1) == np.asarray(labels)
    return np.packbits(correct).tobytes().hex()


def unpack_correct(digits: str, num_images: int) -> Correct:
    """Read what `pack_correct` wrote."""
    bits: Correct = np.unpackbits(np.frombuffer(bytes.fromhex(digits), np.uint8))[:num_images].astype(bool)
    return bits


def measure_regret(correct: Mapping[str, Correct], chosen: str) -> Regret:
    """Compare a choice with the best strategy in hindsight.

    Parameters
    ----------
    correct
        Strategy -> (n,) which of the same test pictures it gets right; `chosen` is among them. If strategies tie,
        the first one counts as the best, so put the cheap ones first.
    """
    names = list(correct)
    table = np.stack([correct[name] for name in names]).astype(float)  # (strategies, n)
    mine = table[names.index(chosen)]
    best = int(table.mean(axis=1).argmax())
    difference = table[best] - mine
    return Regret(
        chosen=chosen,
        best=names[best],
        points=100 * _split_half_gap(table, mine),
        naive_points=100 * float(difference.mean()),
        standard_error=100 * float(difference.std()) / math.sqrt(len(difference)),
    )


def _split_half_gap(table: NDArray[np.float64], mine: NDArray[np.float64]) -> float:
    """Return the accuracy of an oracle that never scores what it picked on, minus that of the choice."""
    rng = np.random.default_rng(0)
    num_images = table.shape[1]
    picks_on = np.zeros((NUM_HALVINGS, num_images))
    for row in picks_on:
        row[rng.permutation(num_images)[: num_images // 2]] = 1
    picks_on = np.concatenate([picks_on, 1 - picks_on])  # both ways
    scores_on = 1 - picks_on
    oracle = (picks_on @ table.T / np.maximum(picks_on.sum(axis=1, keepdims=True), 1)).argmax(axis=1)
    gaps = ((table[oracle] - mine) * scores_on).sum(axis=1) / scores_on.sum(axis=1)
    return float(gaps.mean())


def delivered_strategy(strategy: str, passed: bool, head: str = "head-on-evidence") -> str:
    """Name what a chosen strategy delivers: a network that does not pass its gate leaves the head in place."""
    if strategy in HEADS:
        return strategy
    return "fine-tune" if passed else head


def judge_audit(strategies: Sequence[StrategyRow], passed: bool, chosen: str, num_images: int) -> Judgement:
    """Say what a plan's choice cost in accuracy, and what it saved in multiply-adds.

    Parameters
    ----------
    strategies
        The cheap ones first.
    passed
        Whether the fine-tuned network passed its gate.
    chosen
        The plan's strategy.
    num_images
        Test pictures.
    """
    correct = {row.strategy: unpack_correct(row.correct, num_images) for row in strategies}
    cost = {row.strategy: row.multiply_adds for row in strategies}
    delivered = delivered_strategy(chosen, passed)
    spent = cost["head-on-evidence"] + (0 if chosen in HEADS else cost["fine-tune"])
    return Judgement(
        delivered=delivered,
        regret=measure_regret(correct, delivered),
        constant_policies={name: measure_regret(correct, name) for name in correct},
        compute=Compute(spent, spent / cost["fine-tune"], spent / sum(cost.values())),
    )
