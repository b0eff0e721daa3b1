import numpy as np
import pytest

from pipeline.versions.promotion import judge_challenger, name_labels


def said(correct):
    """What a version answers about pictures whose label is "cat"."""
    return [frozenset({"cat" if right else "dog"}) for right in correct]


def judged(serving, challenger, **options):
    return judge_challenger(said([True] * len(serving)), said(serving), said(challenger), **options)


def test_a_challenger_that_is_as_good_serves():
    found = judged([True] * 8 + [False] * 2, [False] * 2 + [True] * 8)
    assert (found.difference, found.num_gained, found.num_lost, found.passed) == (0.0, 2, 2, True)
    assert "not worse by more than 1 standard error: +0.0%" in found.reason


def test_a_challenger_that_is_worse_within_one_standard_error_serves():
    serving = [False] * 10 + [True] * 90
    challenger = [True] * 10 + [False] * 12 + [True] * 78  # 10 gained, 12 lost
    found = judged(serving, challenger)
    assert found.difference == pytest.approx(-0.02)
    assert -found.standard_error < found.difference < 0
    assert found.passed
    assert not judged(serving, challenger, margin=0.0).passed


@pytest.mark.parametrize(("gained", "lost", "passed"), [(0, 1, True), (0, 2, False), (1, 3, True), (10, 15, True)])
def test_a_few_lost_pictures_prove_nothing(gained, lost, passed):
    serving = [True] * lost + [False] * gained + [True] * 50
    found = judged(serving, [not right for right in serving[:-50]] + [True] * 50)
    assert (found.num_gained, found.num_lost, found.passed) == (gained, lost, passed)


def test_a_challenger_that_is_worse_by_more_does_not_serve():
    found = judged([True] * 95 + [False] * 5, [True] * 80 + [False] * 20)
    assert (found.num_lost, found.passed) == (15, False)
    assert "It is worse by more than 1 standard error: -15.0%" in found.reason
    assert "80.0% right against 95.0%" in found.reason


def test_with_no_margin_equal_is_enough_and_anything_less_is_not():
    assert judged([True, False], [False, True], margin=0.0).passed
    assert "worse at all" in judged([True, True], [True, False], margin=0.0).reason


def test_a_class_that_the_serving_version_does_not_know_is_one_it_gets_wrong():
    truth = [*said([True]), frozenset({"owl"})]
    found = judge_challenger(truth, said([True, True]), truth)
    assert (found.serving_accuracy, found.challenger_accuracy) == (0.5, 1.0)


def test_without_pictures_nothing_is_compared():
    with pytest.raises(ValueError, match="need pictures"):
        judge_challenger([], [], [])


def test_scores_become_the_best_class_or_all_labels_at_their_thresholds():
    table = np.array([[0.75, 0.25], [0.125, 0.2], [0.7, 0.9]], np.float32)
    assert name_labels(table, ("cat", "dog")) == [frozenset({name}) for name in ("cat", "dog", "dog")]
    several = name_labels(table, ("cat", "dog"), (0.5, 0.25))
    assert several == [frozenset({"cat", "dog"}), frozenset(), frozenset({"cat", "dog"})]


def test_a_probability_exactly_at_its_threshold_gives_the_label():
    at_the_limit = np.array([[0.5, 0.25]])
    assert name_labels(at_the_limit, ("cat", "dog"), (0.5, 0.25)) == [frozenset({"cat", "dog"})]
    assert name_labels(at_the_limit, ("cat", "dog"), (np.nextafter(0.5, 1), 0.25)) == [frozenset({"dog"})]
