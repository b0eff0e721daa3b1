"""Where the time of a run went: exclusive seconds per stage, which add up to the total."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class _Stopwatch:
    started: float = field(default_factory=time.perf_counter)
    seconds: dict[str, float] = field(default_factory=dict)  # by stage
    inner: list[float] = field(default_factory=lambda: [0.0])  # seconds spent in stages below, per open stage


_CURRENT: ContextVar[_Stopwatch | None] = ContextVar("stopwatch", default=None)


@contextmanager
def timed() -> Iterator[None]:
    """Make a new stopwatch the one that `stage` writes to and `seconds` reads."""
    token = _CURRENT.set(_Stopwatch())
    try:
        yield
    finally:
        _CURRENT.reset(token)


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Time a block, without the stages inside it, on the running stopwatch; without one, just run it."""
    watch = _CURRENT.get() or _Stopwatch()
    started = time.perf_counter()
    watch.inner.append(0.0)
    try:
        yield
    finally:
        elapsed = time.perf_counter() - started
        watch.seconds[name] = watch.seconds.get(name, 0.0) + elapsed - watch.inner.pop()
        watch.inner[-1] += elapsed


def seconds() -> dict[str, float]:
    """Read the running stopwatch: total and stages so far, rounded to milliseconds; empty without one."""
    watch = _CURRENT.get()
    if watch is None:
        return {}
    total = time.perf_counter() - watch.started
    return {"total": round(total, 3)} | {name: round(value, 3) for name, value in watch.seconds.items()}
