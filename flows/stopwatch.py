"""Where the time of a run went: exclusive seconds per stage, which add up to the total."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar


class Stopwatch:
    """Seconds per stage; a stage inside a stage is taken out of the outer one."""

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self._seconds: dict[str, float] = {}
        self._inner = [0.0]  # seconds spent in stages below, per open stage

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        self._inner.append(0.0)
        try:
            yield
        finally:
            elapsed = time.perf_counter() - started
            own = elapsed - self._inner.pop()
            self._seconds[name] = self._seconds.get(name, 0.0) + own
            self._inner[-1] += elapsed

    def seconds(self) -> dict[str, float]:
        """Return total and stages so far, rounded to milliseconds."""
        total = time.perf_counter() - self._started
        return {"total": round(total, 3)} | {name: round(value, 3) for name, value in self._seconds.items()}


_CURRENT: ContextVar[Stopwatch | None] = ContextVar("stopwatch", default=None)


@contextmanager
def timed() -> Iterator[None]:
    """Make a new stopwatch the one that `stage` writes to and `seconds` reads."""
    token = _CURRENT.set(Stopwatch())
    try:
        yield
    finally:
        _CURRENT.reset(token)


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Time a block on the running stopwatch; without one, just run it."""
    watch = _CURRENT.get()
    if watch is None:
        yield
    else:
        with watch.stage(name):
            yield


def seconds() -> dict[str, float]:
    """Read the running stopwatch: total and stages so far; empty without one."""
    watch = _CURRENT.get()
    return watch.seconds() if watch else {}
