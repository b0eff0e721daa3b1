"""Two answers to the same pictures, counted in pairs."""

from __future__ import annotations

from collections.abc import Sequence


def count_changes(before: Sequence[bool], now: Sequence[bool]) -> tuple[int, int]:
    """Return how many pictures are gained and lost, given which ones were right before and are right now.

    >>> count_changes([True, False, False], [False, True, True])
    (2, 1)
    """
    pairs = list(zip(before, now, strict=True))
    return sum(new and not old for old, new in pairs), sum(old and not new for old, new in pairs)
