import numpy as np
import pytest

from pipeline.heads.classes import ClassLabels
from pipeline.heads.labels import to_truth


def test_only_pictures_whose_class_has_another_one_can_be_held_out():
    truth = ClassLabels(np.array([0, 1, 0, 2, 3, 3]), 5)
    assert truth.counted.tolist() == [True, False, True, False, True, True]


def test_the_sample_keeps_the_proportions_of_the_classes():
    labels = np.array([0] * 900 + [1] * 90 + [2] * 10)
    rows = ClassLabels(labels, 3).sample(100)
    assert np.bincount(labels[rows]).tolist() == pytest.approx([90, 9, 1], abs=1)
    assert len(np.unique(rows)) == 100


def test_the_error_is_of_pictures_that_can_be_held_out():
    truth = ClassLabels(np.array([0, 0, 1]), 2)
    assert truth.error(np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])) == 0.5


def test_if_no_picture_can_be_held_out_the_temperature_is_the_usual_one_for_this_many_classes():
    truth = ClassLabels(np.arange(25), 25)
    scores = np.random.default_rng(0).normal(size=(25, 25))
    assert truth.calibrate(scores, np.arange(25)).temperature == 10


def test_scores_are_calibrated_on_the_sample():
    truth = ClassLabels(np.arange(400) % 2, 2)
    scores = np.eye(2)[truth.labels] + np.random.default_rng(0).normal(size=(400, 2))
    sample = np.arange(0, 400, 3)
    alone = truth.take(sample).calibrate(scores[sample], np.arange(len(sample)))
    found = truth.calibrate(scores, sample)
    assert (found.temperature, found.log_loss, found.error) == (alone.temperature, alone.log_loss, alone.error)


def test_labels_of_a_picture_are_exactly_one():
    with pytest.raises(ValueError, match="unpack"):
        to_truth([(0,), (0, 1)], 2, exclusive=True)
