import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score, precision_recall_fscore_support

from pipeline.errors import DataError
from pipeline.evaluation import labels as evaluation
from pipeline.heads.label_sets import label_matrix

CLASSES = ("beach", "night", "people")
THRESHOLDS = (0.5, 0.4, 0.6)


def evaluate_labels(labels, probabilities, classes, thresholds):
    return evaluation.evaluate_labels(label_matrix(labels, len(classes)), probabilities, classes, thresholds)


@pytest.fixture(scope="module")
def answers():
    """Labels of 200 pictures and probabilities that lean their way."""
    rng = np.random.default_rng(0)
    targets = rng.random((200, 3)) < (0.5, 0.3, 0.1)
    probabilities = np.clip(0.25 + 0.4 * targets + 0.2 * rng.normal(size=targets.shape), 0, 1)
    return [tuple(np.flatnonzero(row).tolist()) for row in targets], probabilities


@pytest.fixture(scope="module")
def metrics(answers):
    return evaluate_labels(*answers, CLASSES, THRESHOLDS)


def test_every_figure_is_that_of_scikit_learn(answers, metrics):
    labels, probabilities = answers
    targets, given = label_matrix(labels, 3), probabilities >= THRESHOLDS
    assert metrics.mean_average_precision == pytest.approx(average_precision_score(targets, probabilities))
    assert metrics.macro_f1 == pytest.approx(f1_score(targets, given, average="macro"))
    assert metrics.micro_f1 == pytest.approx(f1_score(targets, given, average="micro"))
    assert metrics.subset_accuracy == pytest.approx((targets == given).all(axis=1).mean())
    found = [[getattr(row, key) for row in metrics.per_class] for key in ("precision", "recall", "f1", "num_images")]
    np.testing.assert_allclose(found, precision_recall_fscore_support(targets, given))
    each = average_precision_score(targets, probabilities, average=None)
    assert [row.average_precision for row in metrics.per_class] == pytest.approx(each.tolist())
    assert [row.threshold for row in metrics.per_class] == list(THRESHOLDS)


def test_the_interval_holds_the_figure_narrows_with_pictures_and_is_the_same_every_time(answers, metrics):
    labels, probabilities = answers
    low, high = metrics.map_interval
    assert low < metrics.mean_average_precision < high
    assert evaluate_labels(labels, probabilities, CLASSES, THRESHOLDS).map_interval == (low, high)
    four = evaluate_labels(labels * 4, np.tile(probabilities, (4, 1)), CLASSES, THRESHOLDS)
    assert four.map_interval[1] - four.map_interval[0] == pytest.approx((high - low) / 2, rel=0.25)


def test_a_label_that_no_picture_has_is_in_the_table_and_in_no_mean():
    labels, probabilities = [(0,), ()], np.array([[0.9, 0.9], [0.1, 0.1]])
    metrics = evaluate_labels(labels, probabilities, ("here", "gone"), (0.5, 0.5))
    assert (metrics.mean_average_precision, metrics.macro_f1) == (1.0, 1.0)
    assert metrics.subset_accuracy == 0.5
    assert metrics.per_class[1].num_images == metrics.per_class[1].average_precision == 0


def test_one_label_alone_is_scored():
    metrics = evaluate_labels([(0,), (), (0,)], np.array([[0.9], [0.6], [0.2]]), ("only",), (0.5,))
    assert metrics.per_class[0].precision == metrics.per_class[0].recall == 0.5


def test_a_label_is_given_at_its_threshold_exactly():
    metrics = evaluate_labels([(0,)], np.array([[0.5]]), ("only",), (0.5,))
    assert metrics.per_class[0].recall == 1.0


def test_probabilities_that_mean_what_they_say_have_no_calibration_error():
    labels = [(0,) if row < 700 else () for row in range(1000)]
    assert evaluate_labels(labels, np.full((1000, 1), 0.7), ("only",), (0.5,)).ece == pytest.approx(0)


def test_pictures_without_any_label_are_an_error():
    with pytest.raises(DataError, match="No picture of the test split has a label"):
        evaluate_labels([(), ()], np.zeros((2, 1)), ("only",), (0.5,))
