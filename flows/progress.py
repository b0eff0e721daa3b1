"""Listeners to `pipeline.types.Progress`: a bar on a terminal, a line now and then elsewhere, or nobody."""

from __future__ import annotations

import time
from collections.abc import Callable

SECONDS_BETWEEN_LINES = 10.0


class Quiet:
    """Nobody listens."""

    def start(self, stage: str, total: int) -> None:
        pass

    def advance(self, num_done: int) -> None:
        pass

    def finish(self) -> None:
        pass


class Lines:
    """One line every ten seconds and one at the end: for logs, pipes and Prefect."""

    def __init__(self, write: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._write = write
        self._clock = clock

    def start(self, stage: str, total: int) -> None:
        self._stage, self._total, self._done = stage, total, 0
        self._started = self._last = self._clock()

    def advance(self, num_done: int) -> None:
        self._done += num_done
        now = self._clock()
        if now - self._last >= SECONDS_BETWEEN_LINES:
            self._last = now
            rate = self._done / (now - self._started)
            left = f"{(self._total - self._done) / rate:.0f} s" if rate else "unknown time"
            self._write(f"{self._stage}: {self._done:,} of {self._total:,}, {rate:.0f}/s, {left} left")

    def finish(self) -> None:
        elapsed = max(self._clock() - self._started, 1e-9)
        self._write(
            f"{self._stage}: {self._done:,} of {self._total:,} in {elapsed:.1f} s ({self._done / elapsed:.0f}/s)"
        )
