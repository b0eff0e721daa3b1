import pytest

from flows.cli import render
from flows.progress import SECONDS_BETWEEN_LINES, Lines, Quiet


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def lines():
    return []


@pytest.fixture
def progress(clock, lines):
    return Lines(lines.append, clock)


def test_quiet_progress_prints_nothing(capsys):
    quiet = Quiet()
    quiet.start("extract", 10)
    quiet.advance(10)
    quiet.finish()
    assert capsys.readouterr() == ("", "")


def test_a_line_comes_every_ten_seconds_with_rate_and_time_left(progress, clock, lines):
    progress.start("extract", 2000)
    for _ in range(25):
        clock.now += 1
        progress.advance(40)
    assert lines == [
        "extract: 400 of 2,000, 40/s, 40 s left",
        "extract: 800 of 2,000, 40/s, 30 s left",
    ]


def test_the_last_line_sums_up(progress, clock, lines):
    progress.start("extract", 50)
    clock.now += 5
    progress.advance(50)
    progress.finish()
    assert lines == ["extract: 50 of 50 in 5.0 s (10/s)"]


def test_a_stage_that_takes_no_time_at_all_can_finish(progress, lines):
    progress.start("extract", 0)
    progress.finish()
    assert lines == ["extract: 0 of 0 in 0.0 s (0/s)"]


def test_a_second_stage_starts_from_nothing(progress, clock, lines):
    for stage in ("extract", "again"):
        progress.start(stage, 10)
        clock.now += 2
        progress.advance(10)
        progress.finish()
    assert lines == ["extract: 10 of 10 in 2.0 s (5/s)", "again: 10 of 10 in 2.0 s (5/s)"]


def test_a_slow_start_is_no_division_by_zero(progress, clock, lines):
    progress.start("extract", 10)
    clock.now += SECONDS_BETWEEN_LINES
    progress.advance(0)
    assert len(lines) == 1


def test_where_there_is_no_terminal_progress_goes_to_stderr_as_lines(capsys):
    progress = render.progress()
    progress.start("extract", 1)
    progress.advance(1)
    progress.finish()
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("extract: 1 of 1 in ")
