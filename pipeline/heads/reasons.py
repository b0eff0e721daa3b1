"""Why a head is what it is, in sentences for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.heads.ridge import Float64, Labels, countable
from pipeline.types import HeadKind

IMBALANCE = 3  # times the smallest class that the largest is, from which on something is said of it

Rates = tuple[float, float]  # accuracy and balanced accuracy, 0-1


def tap_reasons(
    evidence: Sequence[Mapping[str, Any]], loo_error: float, labels: Labels, selection_size: int
) -> tuple[str, ...]:
    """Say which taps were taken and how well they predict what they have not seen."""
    num_counted = int(countable(labels).sum())
    if num_counted == 0:
        return (
            f"Every one of the {len(labels):,} training pictures is alone in its class, so none can be held "
            "out: the deepest tap counts half, as is usual, and how sure the probabilities are is a guess.",
        )
    reasons = [_choice(evidence, loo_error, num_counted)]
    if num_counted < len(labels):
        reasons.append(
            f"{len(labels) - num_counted:,} of {len(labels):,} training pictures are alone in their class; "
            "they are learned from, but cannot be held out, so they count in no leave-one-out figure."
        )
    if len(labels) > selection_size:
        reasons.append(
            f"Taps were compared on {selection_size:,} pictures in proportion to the classes, "
            f"then the chosen ones were fitted on all {len(labels):,}."
        )
    return tuple(reasons)


def _choice(evidence: Sequence[Mapping[str, Any]], loo_error: float, num_counted: int) -> str:
    chosen = sorted((row for row in evidence if row["share"]), key=lambda row: -row["share"])
    result = f"{loo_error:.1%} of {num_counted:,} pictures held out one at a time are misclassified"
    if len(evidence) == 1:
        return f"The only candidate tap is {chosen[0]['tap']}; {result}."
    names = ", ".join(f"{row['tap']} ({row['share']:.2f})" for row in chosen)
    best = min(evidence, key=lambda row: row["loo_error"])
    return (
        f"Of {len(evidence)} taps, held-out pictures speak for {names}; "
        f"{result}, against {best['loo_error']:.1%} for the best tap alone, {best['tap']}."
    )


def way_reasons(ways: Sequence[tuple[HeadKind, int, float]]) -> tuple[str, ...]:
    """Say why taps are stacked, or joined, given kind, number of taps and held-out squared error of each way."""
    if len(ways) == 1:
        return ()
    names = {"stacked": "one ridge a tap, added up", "joined": "one ridge on {} taps side by side"}
    found = sorted((error, names[kind].format(num_taps)) for kind, num_taps, error in ways)
    best, *others = [f"{name} ({error:.4f})" for error, name in found]
    rest = ", ".join(others)
    return (f"Of the ways for taps to go together, {best} has the least leave-one-out squared error, then {rest}.",)


def rates(scores: Float64, labels: Labels) -> Rates:
    """Return accuracy and balanced accuracy of scores (n, classes)."""
    correct = scores.argmax(axis=1) == labels
    counts = np.bincount(labels)
    by_class = np.bincount(labels, weights=correct)[counts > 0] / counts[counts > 0]
    return float(correct.mean()), float(by_class.mean())


def imbalance_reasons(before: Rates, after: Rates, labels: Labels) -> tuple[str, ...]:
    """Say what the offsets of the classes do where classes differ much in size."""
    counts = np.bincount(labels)
    counts = counts[counts > 0]
    ratio = counts.max() / counts.min()
    if ratio < IMBALANCE:
        return ()
    return (
        f"The largest class has {ratio:.1f} times the pictures of the smallest. Offsets of the classes bring balanced "
        f"accuracy of held-out pictures from {before[1]:.1%} to {after[1]:.1%} and accuracy from {before[0]:.1%} to "
        f"{after[0]:.1%}; they make probabilities true, no class is given more than its share.",
    )


def view_reasons(views: Sequence[int], num_views: int, errors: Sequence[float]) -> tuple[str, ...]:
    """Say which augmented views were trained on, given the squared errors of all sets, that of originals first."""
    if num_views == 0:
        return ()
    num_chosen = len(views) - 1
    left_out = ", the mirrored ones left out" if 0 < num_chosen < num_views else ""
    return (
        f"Trained on {num_chosen or 'none'} of {num_views} augmented views{left_out}: the leave-one-out squared error "
        f"of originals is {min(errors[1:]):.4f} with them and {errors[0]:.4f} without.",
    )
