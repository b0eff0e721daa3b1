import pytest

from pipeline.decision.quote import (
    BASE_BYTES,
    ROUGH_EXTRACTED,
    ROUGH_TRAINED,
    Rates,
    Work,
    describe_quote,
    plan_quote,
    score_quote,
)
from pipeline.decision.schedule import plan_finetuning
from pipeline.types import Tap

TAPS = (Tap("stage6_grid", "stage6", "grid", 2880, 0), Tap("top", "top", "gap", 1280, 1))


def some_work(**changed):
    usual = {"num_missing": 1100, "num_rows": 1000, "num_train": 1000, "num_classes": 5, "size": 224}
    return Work(**{**usual, "row_bytes": 8400, "taps": TAPS, **changed})


def seconds_of(quote, what):
    return next(item.seconds for item in (*quote.items, quote.finetuning) if item.what == what)


def test_what_was_measured_here_is_believed():
    quote = plan_quote(some_work(), Rates(extracted=55.0, trained=20.0))
    assert seconds_of(quote, "extract") == 20
    assert seconds_of(quote, "fine-tuning") == plan_finetuning(1000).epochs * 1000 / 20
    assert "rough" not in describe_quote(quote, "fine-tune")


def test_rough_figures_are_named_and_follow_the_size():
    quote, small = plan_quote(some_work(), Rates()), plan_quote(some_work(size=112), Rates())
    assert seconds_of(quote, "extract") == 1100 / ROUGH_EXTRACTED
    assert seconds_of(small, "extract") == pytest.approx(1100 / ROUGH_EXTRACTED / 4)
    assert seconds_of(small, "fine-tuning") == pytest.approx(12 * 1000 / ROUGH_TRAINED / 4)
    assert "extract and fine-tuning: estimated, not yet measured on this machine" in describe_quote(
        quote, "head-on-top"
    )


def test_nothing_missing_costs_no_disk_and_no_extraction():
    quote = plan_quote(some_work(num_missing=0), Rates())
    assert (quote.gigabytes, seconds_of(quote, "extract")) == (0, 0)


def test_disk_is_what_the_rows_take_and_memory_follows_the_taps_side_by_side():
    quote = plan_quote(some_work(), Rates())
    assert quote.gigabytes == pytest.approx(1100 * 8400 / 1e9)
    assert quote.peak_gigabytes == pytest.approx((BASE_BYTES + 2 * 4 * 1000 * (2880 + 1280)) / 1e9)
    assert quote.finetuning_gigabytes == pytest.approx(1000 * 224 * 224 * 3 / 1e9)


def test_fine_tuning_is_told_as_part_of_the_plan_or_as_what_it_would_take():
    quote = plan_quote(some_work(), Rates(55.0, 20.0))
    assert "; fine-tuning 10 minutes" in describe_quote(quote, "fine-tune")
    assert "; fine-tuning would take 10 minutes" in describe_quote(quote, "head-on-evidence")


def test_a_quote_is_scored_by_what_came():
    quote = plan_quote(some_work(), Rates(extracted=55.0))
    scored = score_quote(quote, {"total": 120.0, "extract": 30.0, "train": 3.0}, 1.8e7, 1.2e9)
    assert scored["minutes"]["actual"] == 2
    assert scored["extract (minutes)"] == {"predicted": 20 / 60, "actual": 0.5, "ratio": pytest.approx(1.5)}
    assert scored["disk (GB)"]["actual"] == 0.018
    assert scored["peak memory (GB)"]["ratio"] == pytest.approx(1.2 / quote.peak_gigabytes)


def test_nothing_predicted_has_no_ratio():
    quote = plan_quote(some_work(num_missing=0), Rates())
    assert score_quote(quote, {"total": 5.0}, 0.0, 1e9)["disk (GB)"]["ratio"] is None


def test_many_pictures_take_longer_than_in_proportion_for_all_taps_side_by_side():
    few, many = (plan_quote(some_work(num_train=num, num_rows=num), Rates()) for num in (5_000, 5_001))
    assert seconds_of(many, "head") > 1.2 * seconds_of(few, "head")
    assert many.peak_gigabytes > few.peak_gigabytes + 0.3
