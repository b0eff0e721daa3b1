"""Listeners to `pipeline.types.Progress`: a bar on a terminal, a line now and then elsewhere, or silence."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from pipeline.types import Progress

SECONDS_BETWEEN_LINES = 10.0


class Quiet:
    """Silence."""

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


class _Bar:
    """A progress bar with rate and time left."""

    def start(self, stage: str, total: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(compact=True),
            console=Console(stderr=True),
        )
        self._bar.start()
        self._task = self._bar.add_task(stage, total=total, rate="")

    def advance(self, num_done: int) -> None:
        self._bar.advance(self._task, num_done)
        if speed := self._bar.tasks[0].speed:
            self._bar.update(self._task, rate=f"{speed:.0f}/s")

    def finish(self) -> None:
        self._bar.stop()


def terminal_progress() -> Progress:
    """Choose a bar on a terminal, a line every ten seconds elsewhere; both on stderr."""
    return _Bar() if sys.stderr.isatty() else Lines(lambda line: print(line, file=sys.stderr, flush=True))
