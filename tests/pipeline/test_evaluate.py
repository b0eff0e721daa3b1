import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, f1_score, log_loss

from pipeline.errors import DataError
from pipeline.evaluate import evaluate, expected_calibration_error, wilson_interval

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
    assert metrics.per_class[1] == {
        "name": "dog",
        "num_images": 1,
        "precision": 0.5,
        "recall": 1.0,
        "f1": pytest.approx(2 / 3),
    }


def test_classes_without_pictures_are_listed_but_not_averaged():
    metrics = evaluate([0, 1], np.eye(3)[[0, 1]], CLASSES)
    assert (metrics.balanced_accuracy, metrics.macro_f1) == (1.0, 1.0)
    assert metrics.per_class[2]["num_images"] == 0
    assert metrics.per_class[2]["recall"] == 0.0


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
