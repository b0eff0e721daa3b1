"""Rows of the benchmark table: a ratio of medians from runs side by side, and the bar it is held against."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

ROUNDS = 3


def interleaved(ways: dict[str, Callable[[], object]], rounds: int = ROUNDS) -> dict[str, float]:
    """Run every way `rounds` times, in turn, and return the median seconds of each."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in seconds.items()}


def row(what: str, value: float, bar: str, **details: Any) -> dict[str, Any]:
    """Print one line of the table, and return it for the JSON beside it."""
    print(f"{what:<86} {value:10.3g}  {bar}", flush=True)
    return {"what": what, "value": round(value, 4), "bar": bar, **details}


def compare(what: str, theirs: str, ours: str, seconds: dict[str, float], bar: str) -> dict[str, Any]:
    """Make a row of how many times longer `theirs` took than `ours`."""
    return row(what, seconds[theirs] / seconds[ours], bar, seconds=seconds)
