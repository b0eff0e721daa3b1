"""Sentences for people that say why a head has the taps and views that it has."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.heads.labels import Truth
from pipeline.types import HeadKind, TapEvidence


def tap_reasons(evidence: Sequence[TapEvidence], loo_error: float, truth: Truth, num_compared: int) -> tuple[str, ...]:
    """Say which taps are used and how well they predict held-out pictures; taps were compared on `num_compared`."""
    if not truth.counted.any():
        return (
            f"{truth.all_alone}, so no picture can be held out: the deepest tap gets half the weight, as is usual, and "
            "how sure the probabilities are is a guess.",
        )
    if len(evidence) == 1:
        return (f"The only candidate tap is {evidence[0].tap}; {truth.result(loo_error)}.",)
    chosen = sorted((row for row in evidence if row.share), key=lambda row: -row.share)
    names = ", ".join(f"{row.tap} ({row.share:.2f})" for row in chosen)
    best = min(evidence, key=lambda row: row.loo_error)
    reason = (
        f"Of {len(evidence)} taps, the head uses those that together predict held-out pictures best, with these "
        f"shares: {names}. {truth.result(loo_error)}; for the best tap alone, {best.tap}, it is "
        f"{truth.figure(best.loo_error)}."
    )
    if num_compared == len(truth):
        return (reason,)
    return (
        reason,
        f"Taps were compared on a sample of {num_compared:,} pictures; then the chosen ones were fitted on all "
        f"{len(truth):,}.",
    )


def way_reasons(ways: Sequence[tuple[HeadKind, int, float]]) -> tuple[str, ...]:
    """Say how taps are combined, given kind, number of taps and held-out squared error of each way."""
    if len(ways) == 1:
        return ()
    names = {"stacked": "one ridge per tap, added up", "joined": "one ridge on {} taps side by side"}
    found = sorted((error, names[kind].format(num_taps)) for kind, num_taps, error in ways)
    best, *others = [f"{name} ({error:.4f})" for error, name in found]
    rest = ", ".join(others)
    return (f"Of the ways to combine taps, {best} has the smallest leave-one-out squared error, then {rest}.",)


def view_reasons(views: Sequence[int], num_views: int, errors: Sequence[float]) -> tuple[str, ...]:
    """Say which augmented views were trained on, given the squared errors of all sets, that of originals first."""
    if num_views == 0:
        return ()
    num_chosen = len(views) - 1
    left_out = ", without the mirrored ones" if 0 < num_chosen < num_views else ""
    return (
        f"Trained on {num_chosen or 'none'} of {num_views} augmented views{left_out}: the leave-one-out squared error "
        f"of the original pictures is {min(errors[1:]):.4f} with views and {errors[0]:.4f} without.",
    )
