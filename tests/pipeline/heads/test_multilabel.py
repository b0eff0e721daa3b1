import numpy as np
import pytest
from scipy.special import expit

from pipeline.errors import DataError
from pipeline.evaluation.labels import label_matrix
from pipeline.heads.fit import head_probabilities, head_scores
from pipeline.heads.multilabel import FEW_POSITIVES, fit_multilabel_head
from pipeline.types import Tap

TAPS = (Tap("stage5_grid", "stage5", "grid", 24, 0), Tap("top", "top", "gap", 32, 1))
DIRECTIONS = np.random.default_rng(0).normal(size=(8, 56))  # of each label, over both taps


def pictures(num_pictures, shares=(0.5, 0.3, 0.2), noise=3.0, seed=1):
    """Features of pictures that have each label by its own chance, and a direction a label."""
    rng = np.random.default_rng(seed)
    targets = rng.random((num_pictures, len(shares))) < np.array(shares)
    rows = 3 + targets @ DIRECTIONS[: len(shares)] + noise * rng.normal(size=(num_pictures, 56))
    features = {"stage5_grid": rows[:, :24].astype(np.float32), "top": rows[:, 24:].astype(np.float32)}
    return features, [tuple(np.flatnonzero(row).tolist()) for row in targets]


@pytest.fixture(scope="module")
def fitted():
    features, labels = pictures(400)
    return fit_multilabel_head(features, TAPS, labels, 3)


@pytest.fixture(scope="module")
def unseen(fitted):
    """What the head says of pictures it has not seen, and the truth."""
    features, labels = pictures(1000, seed=2)
    return head_probabilities(fitted, features), label_matrix(labels, 3)


def test_labels_become_a_row_a_picture_and_a_column_a_label():
    assert label_matrix([(0, 2), (), (1,)], 3).tolist() == [[1, 0, 1], [0, 0, 0], [0, 1, 0]]


def test_every_label_has_a_probability_of_its_own(fitted, unseen):
    probabilities, targets = unseen
    assert fitted.activation == "sigmoid"
    assert not np.allclose(probabilities.sum(axis=1), 1, atol=0.1)
    right = (probabilities >= fitted.thresholds) == targets
    assert right.mean() > 0.85


def test_a_probability_is_the_sigmoid_of_the_score(fitted):
    features, _ = pictures(20, seed=3)
    assert fitted.temperature == 1
    np.testing.assert_allclose(head_probabilities(fitted, features), expit(head_scores(fitted, features)), atol=1e-6)


def test_probabilities_of_unseen_pictures_are_honest(unseen):
    probabilities, targets = unseen
    for low in (0.0, 0.2, 0.4, 0.6, 0.8):
        within = (probabilities >= low) & (probabilities < low + 0.2)
        assert probabilities[within].mean() == pytest.approx(targets[within].mean(), abs=0.12)


def test_thresholds_are_near_those_of_the_best_f1_on_unseen_pictures(fitted, unseen):
    probabilities, targets = unseen

    def f1(label, threshold):
        given = probabilities[:, label] >= threshold
        return 2 * (given & targets[:, label]).sum() / (given.sum() + targets[:, label].sum())

    for label, threshold in enumerate(fitted.thresholds):
        best = max(f1(label, other) for other in np.linspace(0.01, 0.99, 99))
        assert f1(label, threshold) > best - 0.05


def test_the_held_out_error_is_what_unseen_pictures_show(fitted, unseen):
    from pipeline.evaluation.average_precision import mean_average_precision

    assert 1 - fitted.loo_error == pytest.approx(mean_average_precision(*unseen), abs=0.04)


def test_labels_on_too_few_pictures_share_threshold_and_calibration_and_the_head_says_so():
    features, labels = pictures(300, shares=(0.5, 0.4))
    rare = {5: (2,), 50: (2, 3), 70: (3,), 170: (3,)}
    labels = [(*(label for label in found if label < 2), *rare.get(row, ())) for row, found in enumerate(labels)]
    head = fit_multilabel_head(features, TAPS, labels, 4)
    assert head.thresholds[2] == head.thresholds[3]
    assert head.thresholds[0] != head.thresholds[2]
    assert f"2 of 4 labels are on fewer than {FEW_POSITIVES} training pictures" in head.reasons[-1]


def test_a_label_on_one_picture_alone_does_not_stop_the_others():
    features, labels = pictures(60)
    head = fit_multilabel_head(features, TAPS, [*labels[:-1], (*labels[-1], 3)], 4)
    assert len(head.thresholds) == 4
    assert np.isfinite(head_probabilities(head, features)).all()


def test_every_picture_with_a_label_of_its_own_still_gives_a_head():
    features, _ = pictures(6)
    head = fit_multilabel_head(features, TAPS, [(row,) for row in range(6)], 6)
    assert len(head.taps) == len(TAPS)
    assert np.isfinite(head_probabilities(head, features)).all()


def test_features_of_noise_do_not_turn_a_ranking_over():
    rng = np.random.default_rng(5)
    features = {tap.name: rng.normal(size=(40, tap.dim)).astype(np.float32) for tap in TAPS}
    labels = [(0,) if row % 2 else () for row in range(40)]
    head = fit_multilabel_head(features, TAPS, labels, 1)
    probabilities = head_probabilities(head, features)[:, 0]
    assert probabilities[1::2].mean() > probabilities[::2].mean()


@pytest.mark.parametrize("labels", [[()] * 8, [(0, 1)] * 8])
def test_labels_that_tell_nothing_apart_are_an_error(labels):
    features, _ = pictures(8)
    with pytest.raises(DataError, match="nothing to tell apart"):
        fit_multilabel_head(features, TAPS, labels, 2)


def test_views_of_a_picture_are_held_out_with_it():
    """Views that equal their originals change nothing: had they stayed in, the error would be close to none."""
    features, labels = pictures(120)
    twice = {name: np.concatenate([rows, rows]) for name, rows in features.items()}
    head = fit_multilabel_head(twice, TAPS, labels * 2, 3, [*range(120)] * 2)
    alone = fit_multilabel_head(features, TAPS, labels, 3)
    assert head.loo_error == pytest.approx(alone.loo_error, abs=1e-6)
    assert "augmented views" in head.reasons[-1]


def test_every_tap_is_asked_for_once_where_all_pictures_are_compared():
    features, labels = pictures(50)
    asked = []

    class Lazy(dict):
        def __getitem__(self, name):
            asked.append(name)
            return features[name]

    fit_multilabel_head(Lazy(), TAPS, labels, 3)
    assert asked == ["stage5_grid", "top"]
