import numpy as np
import pytest
from scipy.special import expit

from pipeline.errors import DataError
from pipeline.evaluation.average_precision import mean_average_precision
from pipeline.heads import fit as heads
from pipeline.heads.fit import fit_head, head_probabilities, head_scores
from pipeline.heads.label_sets import FEW_PICTURES, LabelSets, _best_threshold, label_matrix
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


def fit_sets(features, labels, num_labels, num_views=0):
    return fit_head(features, TAPS, LabelSets(label_matrix(labels, num_labels)), num_views)


@pytest.fixture(scope="module")
def fitted():
    features, labels = pictures(400)
    return fit_sets(features, labels, 3)


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
    assert 1 - fitted.loo_error == pytest.approx(mean_average_precision(*unseen), abs=0.04)


def test_labels_on_too_few_pictures_share_threshold_and_calibration_and_the_head_says_so():
    features, labels = pictures(300, shares=(0.5, 0.4))
    rare = {5: (2,), 50: (2, 3), 70: (3,), 170: (3,)}
    labels = [(*(label for label in found if label < 2), *rare.get(row, ())) for row, found in enumerate(labels)]
    head = fit_sets(features, labels, 4)
    assert head.thresholds[2] == head.thresholds[3]
    assert head.thresholds[1] != head.thresholds[2]
    assert f"2 of 4 labels are on fewer than {FEW_PICTURES} training pictures" in head.reasons[-1]


def test_a_label_on_one_picture_alone_does_not_stop_the_others():
    features, labels = pictures(60)
    head = fit_sets(features, [*labels[:-1], (*labels[-1], 3)], 4)
    assert len(head.thresholds) == 4
    assert np.isfinite(head_probabilities(head, features)).all()


def test_every_picture_with_a_label_of_its_own_still_gives_a_head():
    features, _ = pictures(6)
    head = fit_sets(features, [(row,) for row in range(6)], 6)
    assert len(head.taps) == len(TAPS)
    assert np.isfinite(head_probabilities(head, features)).all()


def test_features_of_noise_do_not_turn_a_ranking_over():
    rng = np.random.default_rng(5)
    features = {tap.name: rng.normal(size=(40, tap.dim)).astype(np.float32) for tap in TAPS}
    labels = [(0,) if row % 2 else () for row in range(40)]
    head = fit_sets(features, labels, 1)
    probabilities = head_probabilities(head, features)[:, 0]
    assert probabilities[1::2].mean() > probabilities[::2].mean()


@pytest.mark.parametrize("labels", [[()] * 8, [(0, 1)] * 8])
def test_labels_that_tell_nothing_apart_are_an_error(labels):
    features, _ = pictures(8)
    with pytest.raises(DataError, match="nothing to tell apart"):
        fit_sets(features, labels, 2)


def test_views_of_a_picture_are_held_out_with_it():
    """Views that equal their originals change nothing: had they stayed in, the error would be close to none."""
    features, labels = pictures(120)
    twice = {name: np.concatenate([rows, rows]) for name, rows in features.items()}
    head = fit_sets(twice, labels, 3, num_views=1)
    alone = fit_sets(features, labels, 3)
    assert head.loo_error == pytest.approx(alone.loo_error, abs=1e-6)
    assert "augmented views" in head.reasons[-1]


def test_every_tap_is_read_once_if_the_head_stacks_them(monkeypatch):
    features, labels = pictures(50)
    monkeypatch.setattr(heads, "_ways", lambda task, stack, *rest: [stack])
    asked = []

    class Lazy(dict):
        def __getitem__(self, name):
            asked.append(name)
            return features[name]

    fit_sets(Lazy(), labels, 3)
    assert asked == ["stage5_grid", "top"]


def test_taps_that_explain_the_labels_only_together_are_joined():
    """Each tap sees one label under noise that the other tap sees alone."""
    random = np.random.default_rng(0)
    marks, nuisance = random.integers(0, 2, (2, 400)), 3 * random.standard_normal((2, 400))
    features = {}
    for tap, mine in zip(TAPS, (0, 1), strict=True):
        rows = 0.1 * random.standard_normal((400, tap.dim))
        rows[:, 0] = 3 * marks[mine] + nuisance[mine]
        rows[:, 1] = nuisance[1 - mine]
        rows[:, 2] = 20  # so that rows of length 1 differ little in scale
        features[tap.name] = rows.astype(np.float32)
    head = fit_sets(features, [tuple(np.flatnonzero(row).tolist()) for row in marks.T], 2)
    assert head.kind == "joined"
    assert head.loo_error < min(row.loo_error for row in head.evidence) / 2
    assert "one ridge on 2 taps side by side (" in " ".join(head.reasons)
    probabilities = head_probabilities(head, features)
    assert ((probabilities >= head.thresholds) == marks.T).mean() > 0.95
    assert np.abs(head.held_out - probabilities).mean() < 0.05


@pytest.mark.parametrize("kind", ["joined", "stacked"])
def test_taps_are_joined_if_and_only_if_that_has_less_error_on_held_out_pictures(kind, monkeypatch):
    features, labels = pictures(150)
    ways = heads._ways

    def scaled(*arguments):
        stacked, joined = ways(*arguments)
        worse = stacked if kind == "joined" else joined
        worse.loo_scores[:] = 9.0
        return [stacked, joined]

    monkeypatch.setattr(heads, "_ways", scaled)
    assert fit_sets(features, labels, 3).kind == kind


def test_few_and_many_pictures_of_several_labels_have_no_logistic_regression(monkeypatch):
    features, labels = pictures(120)
    monkeypatch.setattr(heads, "SELECTION_SIZE", 40)
    monkeypatch.setattr(heads, "fit_logistic", None)  # it would fail
    assert fit_sets(features, labels, 3).kind in ("stacked", "joined")


def test_many_pictures_are_compared_on_an_even_sample_and_calibrated_on_all(monkeypatch):
    features, labels = pictures(400)
    whole = fit_sets(features, labels, 3)
    monkeypatch.setattr(heads, "SELECTION_SIZE", 100)
    head = fit_sets(features, labels, 3)
    assert head.held_out.shape == whole.held_out.shape == (400, 3)
    assert (
        "Taps were compared on a sample of 100 pictures; then the chosen ones were fitted on all 400." in head.reasons
    )
    assert head.loo_error == pytest.approx(whole.loo_error, abs=0.02)


def test_only_the_picture_that_has_a_label_alone_cannot_be_held_out():
    marks = label_matrix([(0,), (0, 1), (), (0, 2), (2,)], 4)
    assert LabelSets(marks).counted.tolist() == [True, False, True, True, True]


def test_pictures_that_have_a_label_alone_choose_neither_penalty_nor_shares():
    features, labels = pictures(60)
    lonely = [(*found, 3 + row) if row < 20 else found for row, found in enumerate(labels)]
    head = fit_sets(features, lonely, 23)
    truth = LabelSets(label_matrix(lonely, 23))
    counted, targets = truth.counted, truth.targets
    assert counted.sum() == 40
    fits = [heads.fit_ridge(features[tap.name], tap.kind, targets, counted) for tap in TAPS]
    errors = np.stack([(targets - fit.loo_scores)[counted].ravel() for fit in fits])
    if head.kind == "stacked":
        assert [row.share for row in head.evidence] == pytest.approx(heads.share_taps(errors @ errors.T).tolist())
    assert [row.penalty for row in head.evidence] == [fit.penalty for fit in fits]


def test_a_label_that_is_missing_on_few_pictures_shares_the_common_threshold():
    features, labels = pictures(400)
    labels = [(*found, 3, 4) if row >= 5 else found for row, found in enumerate(labels)]
    head = fit_sets(features, labels, 5)
    assert head.thresholds[3] == head.thresholds[4]
    assert head.thresholds[3] not in head.thresholds[:3]
    assert "2 of 5 labels are on fewer than" in head.reasons[-1]


def test_a_threshold_lies_half_way_to_the_next_picture():
    positive = np.array([True, True, False, False])
    assert _best_threshold(np.array([0.9, 0.8, 0.3, 0.2]), positive) == pytest.approx(0.55)


def test_a_threshold_never_separates_equal_probabilities():
    """Without the last of the three equal ones F1 would be 1, but all three get the label together."""
    probabilities, positive = np.array([0.9, 0.6, 0.6, 0.6, 0.1]), np.array([True, True, True, False, False])
    assert _best_threshold(probabilities, positive) == pytest.approx(0.35)
