from dataclasses import dataclass

import numpy as np
import pytest

from pipeline.engine.files import TAPS_FILE

pytestmark = pytest.mark.heavy


class Machine:
    """Compiles and runs as fast as it is told, on a clock of its own."""

    def __init__(self, speed, seconds_to_compile=0.5, pictures=40):
        self.speed, self.seconds_to_compile, self.pictures = speed, seconds_to_compile, pictures
        self.now, self.compiled = 100.0, []

    def clock(self):
        return self.now

    def compile(self, tuning):
        self.now += self.seconds_to_compile
        self.compiled.append(tuning)
        return Lane(self, tuning, self.pictures)

    def race(self, cores=4):
        from pipeline.engine.tuning import race

        return race(self.compile, cores, self.clock)


@dataclass
class Lane:
    machine: Machine
    tuning: object
    pictures: int

    def lap(self):
        speed = self.machine.speed(self.tuning)
        self.machine.now += self.pictures / speed
        return speed


@pytest.fixture
def default():
    from pipeline.engine.openvino_engine import DEFAULT_TUNING

    return DEFAULT_TUNING


def test_among_equals_the_default_stays(default):
    machine = Machine(lambda tuning: 1000)
    assert machine.race() == default
    assert {tuning.streams for tuning in machine.compiled} == {0, 1, 2, 4}
    assert {tuning.batch for tuning in machine.compiled} == {1, 2, 4, 8, 16}
    assert {tuning.threads for tuning in machine.compiled} == {0, 4}


@pytest.mark.parametrize(("gain", "changed"), [(1.04, False), (1.06, True)])
def test_what_is_not_clearly_faster_does_not_take_over(default, gain, changed):
    found = Machine(lambda tuning: 1000 * (gain if tuning.batch == 16 else 1)).race()
    assert (found.batch == 16, found != default) == (changed, changed)


def test_settings_that_help_together_are_found_together():
    gains = {"streams": 1.5, "batch": 1.2, "threads": 1.1}

    def speed(tuning):
        factor = gains["streams"] if tuning.streams == 2 else 1
        factor *= gains["batch"] if tuning.batch == 16 else 1
        return 1000 * factor * (gains["threads"] if tuning.threads == 4 else 1)

    found = Machine(speed).race()
    assert (found.batch, found.streams, found.threads) == (16, 2, 4)


def test_one_lucky_round_is_not_enough(default):
    laps = []

    def speed(tuning):
        laps.append(tuning)
        return 1000 if tuning == default or laps.count(tuning) == 3 else 2000

    assert Machine(speed).race() == default


@pytest.mark.parametrize("pictures_a_second", [1000, 10, 0.5])
@pytest.mark.parametrize("seconds_to_compile", [0.5, 4, 30])
def test_nothing_begins_that_would_end_too_late(pictures_a_second, seconds_to_compile, default):
    from pipeline.engine.tuning import SECONDS

    machine = Machine(lambda tuning: pictures_a_second, seconds_to_compile)
    assert machine.race() == default
    unavoidable = seconds_to_compile + machine.pictures / pictures_a_second
    assert machine.now - 100 <= max(SECONDS, unavoidable)


def test_a_challenger_that_ran_out_of_time_has_not_won(default):
    # three rounds of 2 s each do not fit
    assert Machine(lambda tuning: 40 if tuning == default else 400, pictures=80, seconds_to_compile=3).race() == default


def test_a_real_network_is_compiled_and_timed(engine_folder, monkeypatch, default):
    from pipeline.engine import tuning
    from pipeline.engine.openvino_engine import Engine, Tuning

    runner = tuning.EngineRunner(Engine.load(engine_folder / TAPS_FILE, Tuning(2, 1, 1)))
    assert runner.pictures == 2 * 2 * tuning.PASSES  # one pass at a time, and one that waits
    assert np.isfinite(runner.lap())
    monkeypatch.setattr(tuning, "SECONDS", 0)
    assert tuning.tune(engine_folder / TAPS_FILE) == default
