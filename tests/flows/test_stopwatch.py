from contextlib import suppress
from threading import Thread

import pytest

from flows import stopwatch

ROUNDING = 0.0005  # seconds a number may be off by being rounded to milliseconds


def work():
    return sum(range(300_000))


def test_without_a_running_stopwatch_a_stage_just_runs():
    with stopwatch.stage("scan"):
        work()
    assert stopwatch.seconds() == {}


def test_stages_are_listed_after_the_total_as_they_end():
    with stopwatch.timed():
        with stopwatch.stage("scan"):
            pass
        with stopwatch.stage("train"), stopwatch.stage("imports"):
            pass
        assert list(stopwatch.seconds()) == ["total", "scan", "imports", "train"]


@pytest.fixture
def running():
    with stopwatch.timed():
        yield


@pytest.mark.usefixtures("running")
def test_stages_inside_stages_are_counted_once():
    with stopwatch.stage("outer"):
        work()
        with stopwatch.stage("inner"):
            work()
            with stopwatch.stage("innermost"):
                work()
        with stopwatch.stage("inner"):
            work()
    seconds = stopwatch.seconds()
    total = seconds.pop("total")
    assert min(seconds.values()) > 0
    assert sum(seconds.values()) <= total + 4 * ROUNDING


@pytest.mark.usefixtures("running")
def test_a_stage_that_runs_twice_adds_up():
    with stopwatch.stage("read"):
        work()
    once = stopwatch.seconds()["read"]
    with stopwatch.stage("read"):
        work()
    assert stopwatch.seconds()["read"] > once


@pytest.mark.usefixtures("running")
def test_a_stage_that_fails_is_counted_and_the_next_ones_are_right():
    with suppress(ZeroDivisionError), stopwatch.stage("outer"), stopwatch.stage("inner"):
        raise ZeroDivisionError
    with stopwatch.stage("after"):
        work()
    seconds = stopwatch.seconds()
    assert set(seconds) == {"total", "outer", "inner", "after"}
    assert sum(seconds.values()) <= 2 * seconds["total"] + 4 * ROUNDING


def test_an_error_goes_through():
    with stopwatch.timed(), pytest.raises(ZeroDivisionError), stopwatch.stage("scan"):
        raise ZeroDivisionError


def test_a_run_inside_a_run_has_its_own_stopwatch_and_gives_the_outer_one_back():
    with stopwatch.timed():
        with stopwatch.stage("scan"):
            pass
        with stopwatch.timed():
            with stopwatch.stage("train"):
                pass
            assert set(stopwatch.seconds()) == {"total", "train"}
        assert set(stopwatch.seconds()) == {"total", "scan"}
    assert stopwatch.seconds() == {}


def test_another_thread_does_not_write_to_our_stopwatch():
    def elsewhere():
        with stopwatch.stage("elsewhere"):
            pass

    with stopwatch.timed():
        thread = Thread(target=elsewhere)
        thread.start()
        thread.join()
        assert set(stopwatch.seconds()) == {"total"}
