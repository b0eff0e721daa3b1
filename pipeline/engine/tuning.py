"""The fastest way for a network to use this machine, found by a short race.

Heavy leaf: importing it loads OpenVINO (0.3 s), never TensorFlow.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from pipeline.engine.openvino_engine import DEFAULT_TUNING, Engine, Tuning
from pipeline.machine import usable_cores

SECONDS = 10.0  # nothing begins that would probably end later
ROUNDS = 3  # that a challenger must win, every one
MARGIN = 1.05  # by this factor
PASSES = 2  # of every request in a lap


def tune(network: Path) -> Tuning:
    """Choose batch, streams and threads for a network that `conversion` saved; takes about `SECONDS`."""
    return race(lambda tuning: EngineRunner(Engine.load(network, tuning)), usable_cores(), time.perf_counter)


def race(compiled: Callable[[Tuning], EngineRunner], cores: int, clock: Callable[[], float]) -> Tuning:
    """Let tunings challenge the default and then whatever beat it, one at a time, until the time is up.

    The two of a challenge run in turn, and only they are in memory. On a noisy machine the default stays: it loses
    only to what is clearly faster in every round.
    """
    end = clock() + SECONDS
    best = DEFAULT_TUNING
    holder = compiled(best)
    seconds_to_compile = clock() + SECONDS - end
    seconds_a_picture = 1 / holder.lap()
    for change in _changes(cores):
        tuning = replace(best, **change)
        if tuning == best or clock() + seconds_to_compile > end:
            continue
        challenger = compiled(tuning)
        last_start = end - seconds_a_picture * (holder.pictures + challenger.pictures)
        won = 0
        while won < ROUNDS and clock() <= last_start and challenger.lap() > MARGIN * holder.lap():
            won += 1
        if won == ROUNDS:
            best, holder = tuning, challenger
    return best


def _changes(cores: int) -> list[dict[str, int]]:
    """One setting at a time, what promises most first."""
    streams = [{"streams": number} for number in sorted({1, max(cores // 2, 1), cores})]
    return [*streams, {"batch": 4}, {"batch": 8}, {"batch": 1}, {"batch": 16}, {"threads": cores}]


class EngineRunner:
    """A network compiled with one tuning, which runs one batch of noise over and over."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        shape = (engine.batch, *engine.row_shape)
        self._pixels = np.random.default_rng(0).uniform(0, 255, shape).astype(np.float32)
        self._passes = PASSES * engine.num_requests
        self.pictures = self._passes * engine.batch  # of a lap
        self._run(engine.num_requests)  # the first passes also allocate

    def lap(self) -> float:
        """Run a lap; returns pictures per second."""
        started = time.perf_counter()
        self._run(self._passes)
        return self.pictures / (time.perf_counter() - started)

    def _run(self, passes: int) -> None:
        for _ in self._engine.stream((None, self._pixels) for _ in range(passes)):
            pass
