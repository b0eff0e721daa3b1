import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, f1_score, log_loss

from pipeline.errors import DataError
from pipeline.evaluation import classes as evaluation
from pipeline.evaluation.classes import ece_by_chance, evaluate, expected_calibration_error, wilson_interval
from pipeline.types import ClassMetrics

CLASSES = ("cat", "dog", "owl")


def a_prediction(num_images=200, seed=0):
    random = np.random.default_rng(seed)
    labels = random.integers(0, 3, num_images)
    scores = random.standard_normal((num_images, 3)) + 1.5 * np.eye(3)[labels]
    probabilities = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    return labels, probabilities.astype(np.float32)


def test_metrics_agree_with_scikit_learn_where_every_class_has_pictures():
    labels, probabilities = a_prediction()
    metrics = evaluate(labels, probabilities, CLASSES)
    predicted = probabilities.argmax(axis=1)
    assert metrics.accuracy == pytest.approx(np.mean(predicted == labels))
    assert metrics.balanced_accuracy == pytest.approx(balanced_accuracy_score(labels, predicted))
    assert metrics.macro_f1 == pytest.approx(f1_score(labels, predicted, average="macro"))
    exact = probabilities.astype(np.float64)
    exact /= exact.sum(axis=1, keepdims=True)
    assert metrics.log_loss == pytest.approx(log_loss(labels, exact), rel=1e-5)
    assert (metrics.split, metrics.num_images) == ("test", 200)


def test_the_confusion_matrix_has_the_truth_in_its_rows():
    metrics = evaluate([0, 0, 1, 2], np.eye(3)[[0, 1, 1, 0]], CLASSES)
    assert metrics.confusion == ((1, 1, 0), (0, 1, 0), (1, 0, 0))
    assert all(type(count) is int for row in metrics.confusion for count in row)


def test_the_class_table_has_names_and_rates():
    metrics = evaluate([0, 0, 1, 2], np.eye(3)[[0, 1, 1, 0]], CLASSES)
    assert metrics.per_class[1] == ClassMetrics("dog", num_images=1, precision=0.5, recall=1.0, f1=pytest.approx(2 / 3))


def test_classes_without_pictures_are_listed_but_not_averaged():
    metrics = evaluate([0, 1], np.eye(3)[[0, 1]], CLASSES)
    assert (metrics.balanced_accuracy, metrics.macro_f1) == (1.0, 1.0)
    assert metrics.per_class[2].num_images == 0
    assert metrics.per_class[2].recall == 0.0


def test_one_sure_mistake_costs_a_finite_log_loss():
    metrics = evaluate([0, 1], np.eye(3)[[0, 0]], CLASSES)
    assert metrics.log_loss == pytest.approx(-np.log(1e-15) / 2)


def test_an_empty_split_is_an_error():
    with pytest.raises(DataError, match="test split holds no pictures"):
        evaluate([], np.zeros((0, 3)), CLASSES)


@pytest.mark.parametrize(
    ("num_correct", "num_images", "expected"),
    [(0, 10, (0.0, 0.2775)), (10, 10, (0.7225, 1.0)), (50, 100, (0.4038, 0.5962)), (1, 1, (0.2065, 1.0))],
)
def test_the_wilson_interval_has_known_values(num_correct, num_images, expected):
    assert wilson_interval(num_correct, num_images) == pytest.approx(expected, abs=5e-5)


def test_calibration_error_is_the_weighted_gap_of_the_bins():
    confidence = np.array([0.95, 0.95, 0.95, 0.95, 0.55, 0.55])
    correct = np.array([True, True, True, False, True, False])
    assert expected_calibration_error(correct, confidence) == pytest.approx((4 * 0.2 + 2 * 0.05) / 6)


def test_full_confidence_falls_into_the_last_bin():
    assert expected_calibration_error(np.array([True, True]), np.array([1.0, 0.99])) == pytest.approx(0.005)


RESAMPLED = ("balanced_accuracy", "macro_f1", "log_loss", "ece")


def test_every_interval_holds_its_metric_and_narrows_with_pictures():
    small, large = (evaluate(*a_prediction(num), CLASSES) for num in (200, 3200))
    for name in RESAMPLED[:3]:
        low, high = small.intervals[name]
        assert low < getattr(small, name) < high
        narrow, wide = (metrics.intervals[name][1] - metrics.intervals[name][0] for metrics in (large, small))
        assert narrow == pytest.approx(wide / 4, rel=0.35)


def test_the_accuracy_has_one_interval_and_it_is_wilsons():
    metrics = evaluate(*a_prediction(1000), CLASSES)
    assert "accuracy" not in metrics.intervals
    assert metrics.accuracy_interval == wilson_interval(round(1000 * metrics.accuracy), 1000)


def test_a_resample_scores_what_its_pictures_score():
    labels, probabilities = a_prediction(60)
    drawn = np.random.default_rng(3).integers(0, 60, 60)
    times = np.bincount(drawn, minlength=60)[None].astype(float)
    found = evaluation._resampled(times, labels, probabilities)
    expected = evaluate(labels[drawn], probabilities[drawn], CLASSES)
    for name in RESAMPLED:
        assert found[name][0] == pytest.approx(getattr(expected, name), rel=1e-6)


def test_a_resample_leaves_out_classes_that_it_has_no_picture_of():
    times = np.array([[2.0, 0.0]])
    found = evaluation._resampled(times, np.array([0, 1]), np.eye(3)[[0, 0]])
    assert (found["balanced_accuracy"][0], found["macro_f1"][0]) == (1, 1)


def test_intervals_do_not_depend_on_the_size_of_the_parts(monkeypatch):
    whole = evaluate(*a_prediction(50), CLASSES)
    monkeypatch.setattr(evaluation, "CHUNK_VALUES", 1300)
    assert evaluate(*a_prediction(50), CLASSES).intervals == whole.intervals


def test_chance_makes_the_calibration_error_of_true_probabilities():
    random = np.random.default_rng(5)
    confidence = random.uniform(0.5, 1, 400)
    mean, highest = ece_by_chance(confidence)
    errors = [expected_calibration_error(random.random(400) < confidence, confidence) for _ in range(400)]
    assert mean == pytest.approx(np.mean(errors), rel=0.05)
    assert np.mean(np.array(errors) > highest) == pytest.approx(0.05, abs=0.03)


def test_probabilities_that_are_always_sure_have_nothing_to_do_with_chance():
    assert ece_by_chance(np.ones(50)) == (0, 0)


def test_the_calibration_error_has_fifteen_bins_of_equal_width():
    """Bins that claim too much lie beside bins that claim too little: of other bins, the gaps would cancel out."""
    confidence = np.random.default_rng(2).random(2000)
    sign = 1 - 2 * ((confidence * 15).astype(int) % 2)
    correct = np.random.default_rng(3).random(2000) < confidence + 0.2 * sign
    wanted = 0.0
    for low in np.arange(15) / 15:
        within = (confidence >= low) & (confidence < low + 1 / 15)
        wanted += within.mean() * abs(confidence[within].mean() - correct[within].mean())
    assert wanted > 0.15
    assert expected_calibration_error(correct, confidence) == pytest.approx(wanted)
