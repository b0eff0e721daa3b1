import numpy as np
import pytest

from pipeline.finetuning.gate import compare


def scores(correct, labels):
    """Scores whose largest is that of the label where `correct`, else of another class."""
    rows = np.zeros((len(labels), 3), np.float32)
    for place, (label, right) in enumerate(zip(labels, correct, strict=True)):
        rows[place, label if right else (label + 1) % 3] = 1.0
    return rows


def gate(head, model):
    labels = [place % 3 for place in range(len(head))]
    return compare(labels, scores(head, labels), scores(model, labels))


def test_a_better_model_passes_and_the_reason_has_the_numbers():
    found = gate([True] * 70 + [False] * 30, [True] * 85 + [False] * 15)
    assert found.passed
    assert (found.head_accuracy, found.model_accuracy, found.num_gained, found.num_lost) == (0.7, 0.85, 15, 0)
    assert found.difference == pytest.approx(0.15)
    assert found.standard_error == pytest.approx(np.std([1] * 15 + [0] * 85) / 10)
    assert "is better" in found.reason
    assert "+15.0%" in found.reason


def test_a_worse_model_does_not_pass():
    found = gate([True] * 80 + [False] * 20, [True] * 70 + [False] * 30)
    assert not found.passed
    assert found.num_lost == 10
    assert "is not better" in found.reason


def test_a_gain_within_one_standard_error_does_not_pass():
    head = [True] * 50 + [False] * 50
    model = [False] * 10 + [True] * 52 + [False] * 38  # 12 gained, 10 lost
    found = gate(head, model)
    assert found.difference == pytest.approx(0.02)
    assert found.difference < found.standard_error
    assert not found.passed


def test_equal_models_do_not_pass():
    found = gate([True, False], [True, False])
    assert (found.difference, found.standard_error, found.passed) == (0.0, 0.0, False)


def test_one_more_right_answer_on_one_picture_passes_nothing_by_rounding():
    assert gate([False], [True]).passed  # no contrary evidence: the error of a single difference is 0
    with pytest.raises(ValueError, match="needs pictures"):
        compare([], np.zeros((0, 3)), np.zeros((0, 3)))
