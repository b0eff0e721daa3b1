import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import log_softmax

from pipeline import heads
from pipeline.errors import DataError
from pipeline.evidence import RidgeFit, fit_ridge, transform
from pipeline.heads import fit_head, head_probabilities, head_scores
from pipeline.types import Tap

DIM = 24


def a_tap(name):
    kind = "grid" if name.endswith("grid") else "gap"
    return Tap(name, f"{name}_layer", kind, DIM, 0)


def a_task(num_rows=120, num_classes=4, noise=1.0, seed=0, task=0):
    """`top` and `stage6_grid` know the classes through independent noise, `stage3_gap` knows nothing.

    The same `task` has the same classes; another `seed` draws other pictures of them.
    """
    classes, random = np.random.default_rng(task), np.random.default_rng(seed + 1000)
    labels = np.arange(num_rows) % num_classes
    features = {"stage3_gap": random.standard_normal((num_rows, DIM))}
    for name in ("stage6_grid", "top"):
        centres = classes.standard_normal((num_classes, DIM))
        features[name] = centres[labels] + noise * random.standard_normal((num_rows, DIM))
    return {name: rows.astype(np.float32) for name, rows in features.items()}, labels


ALL_TAPS = tuple(a_tap(name) for name in ("stage3_gap", "stage6_grid", "top"))
TOP = (a_tap("top"),)


def accuracy(head, features, labels):
    return float((head_scores(head, features).argmax(axis=1) == labels).mean())


def test_a_single_candidate_is_the_head():
    features, labels = a_task()
    head = fit_head(features, TOP, labels, 4)
    fit = fit_ridge(features["top"], "gap", labels, 4)
    assert [part.tap for part in head.taps] == ["top"]
    np.testing.assert_array_equal(head.taps[0].weight, fit.weight)
    assert head.loo_error == head.taps[0].loo_error
    assert head.reasons[0].startswith("The only candidate tap is top; ")


def test_taps_that_know_different_things_are_combined_and_one_that_knows_nothing_is_left_out():
    features, labels = a_task(noise=2.5)
    head = fit_head(features, ALL_TAPS, labels, 4)
    assert [part.tap for part in head.taps] == ["stage6_grid", "top"]
    assert head.loo_error < min(part.loo_error for part in head.taps)
    shares = {row["tap"]: row["share"] for row in head.evidence}
    assert shares["stage3_gap"] == 0
    assert sum(shares.values()) == pytest.approx(1)


def test_a_combination_does_better_on_new_pictures_than_each_tap():
    features, labels = a_task(num_rows=200, noise=2.5)
    new_features, new_labels = a_task(num_rows=2000, noise=2.5, seed=1)
    combined = accuracy(fit_head(features, ALL_TAPS, labels, 4), new_features, new_labels)
    for tap in ALL_TAPS:
        assert combined > accuracy(fit_head(features, (tap,), labels, 4), new_features, new_labels)


def test_scores_are_the_plain_mean_over_the_taps():
    features, labels = a_task(noise=2.5)
    head = fit_head(features, ALL_TAPS, labels, 4)
    parts = [transform(features[p.tap], p.kind) @ p.weight + p.bias for p in head.taps]
    np.testing.assert_allclose(head_scores(head, features), np.mean(parts, axis=0), atol=1e-6)


def test_shares_are_folded_into_the_weights():
    features, labels = a_task(noise=2.5)
    head = fit_head(features, ALL_TAPS, labels, 4)
    for part in head.taps:
        share = next(row["share"] for row in head.evidence if row["tap"] == part.tap)
        plain = fit_ridge(features[part.tap], part.kind, labels, 4)
        np.testing.assert_allclose(part.weight, share * len(head.taps) * plain.weight, rtol=1e-6)


def test_probabilities_follow_the_scores_and_add_up_to_one():
    features, labels = a_task()
    head = fit_head(features, ALL_TAPS, labels, 4)
    probabilities = head_probabilities(head, features)
    expected = np.exp(log_softmax(head.temperature * head_scores(head, features), axis=1))
    np.testing.assert_allclose(probabilities, expected, rtol=1e-5)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    assert probabilities.dtype == np.float32


@pytest.mark.parametrize("seed", range(5))
def test_shares_minimise_over_the_simplex(seed):
    root = np.random.default_rng(seed).standard_normal((6, 4))
    products = root.T @ root + 0.1
    shares = heads._least_on_simplex(products)
    search = minimize(
        lambda s: s @ products @ s,
        np.full(4, 0.25),
        jac=lambda s: 2 * products @ s,
        bounds=[(0, 1)] * 4,
        constraints={"type": "eq", "fun": lambda s: s.sum() - 1},
        options={"ftol": 1e-14},
    )
    assert shares.sum() == pytest.approx(1)
    assert shares.min() >= 0
    np.testing.assert_allclose(shares, search.x, atol=1e-4)


def test_the_same_tap_twice_is_no_trouble():
    features, labels = a_task()
    features["copy"] = features["top"]
    head = fit_head(features, (a_tap("copy"), a_tap("top")), labels, 4)
    alone = fit_head(features, TOP, labels, 4)
    np.testing.assert_allclose(head_scores(head, features), head_scores(alone, features), atol=1e-5)


def test_taps_that_all_have_a_small_share_do_not_all_go():
    labels = np.arange(30) % 2
    fits = {}
    for i in range(15):  # each wrong about one picture of its own: fifteen equal shares
        scores = np.eye(2)[labels]
        scores[i] = 0
        fits[f"tap{i}"] = RidgeFit(np.empty((0, 2)), np.empty(2), penalty=1.0, logme=0.0, loo_scores=scores)
    shares = heads._shares(fits, labels)
    assert 9 <= len(shares) <= 10
    assert sum(shares.values()) == pytest.approx(1)


def test_the_temperature_has_the_least_held_out_loss():
    features, labels = a_task(noise=2.5)
    head = fit_head(features, TOP, labels, 4)
    scores = fit_ridge(features["top"], "gap", labels, 4).loo_scores
    losses = [heads._log_loss(head.temperature * factor, scores, labels) for factor in (0.7, 1.0, 1.4)]
    assert head.loo_log_loss == pytest.approx(losses[1])
    assert losses[1] == min(losses)


def test_a_head_without_mistakes_stays_modest():
    features, labels = a_task(noise=0.05)
    head = fit_head(features, TOP, labels, 4)
    assert head.loo_error == 0
    assert 1 < head.temperature < 100
    assert head_probabilities(head, features).max() < 0.9999


def test_the_same_input_gives_the_same_bits():
    features, labels = a_task(noise=2.5)
    first, second = (fit_head(features, ALL_TAPS, labels, 4) for _ in range(2))
    assert [part.weight.tobytes() for part in first.taps] == [part.weight.tobytes() for part in second.taps]
    assert (first.temperature, first.evidence, first.reasons) == (
        second.temperature,
        second.evidence,
        second.reasons,
    )


def test_a_class_without_pictures_keeps_its_column():
    features, labels = a_task()
    head = fit_head(features, ALL_TAPS, labels * 2, 8)
    assert head_scores(head, features).shape == (120, 8)
    assert accuracy(head, features, labels * 2) > 0.9


def test_a_class_with_one_picture_is_learned_but_not_held_out():
    features, labels = a_task(noise=0.1)
    labels = np.where(np.arange(120) == 7, 4, labels)
    features = {name: rows.copy() for name, rows in features.items()}
    features["top"][7] = -5
    head = fit_head(features, TOP, labels, 5)
    assert head_scores(head, features)[7].argmax() == 4
    assert head.loo_error == 0
    assert "1 of 120 training pictures are alone in their class" in head.reasons[1]


def test_one_picture_a_class_makes_a_head_that_says_it_is_unsure():
    features, labels = a_task(num_rows=4, noise=0.1)
    head = fit_head(features, ALL_TAPS, labels, 4)
    assert {row["share"] for row in head.evidence} == {1 / 3}
    assert accuracy(head, features, labels) == 1
    assert head_probabilities(head, features).max() < 0.7
    assert "alone in its class" in head.reasons[0]


@pytest.mark.parametrize("num_rows", [2, 3, 5, 9])
def test_a_handful_of_pictures_is_enough(num_rows):
    features, labels = a_task(num_rows=num_rows, num_classes=2, noise=0.1)
    head = fit_head(features, ALL_TAPS, labels, 2)
    assert np.isfinite(head_probabilities(head, features)).all()
    assert np.isfinite([head.temperature, head.loo_error, head.loo_log_loss]).all()


def test_constant_features_are_no_trouble():
    features, labels = a_task()
    features["stage3_gap"] = np.ones((120, DIM), np.float32)
    head = fit_head(features, ALL_TAPS, labels, 4)
    assert "stage3_gap" not in [part.tap for part in head.taps]
    blank = fit_head({"top": np.zeros((120, DIM), np.float32)}, TOP, labels, 4)
    assert np.isfinite(head_probabilities(blank, {"top": features["top"]})).all()


def test_duplicate_rows_are_no_trouble():
    features, labels = a_task(num_rows=20)
    doubled = {name: np.vstack([rows, rows]) for name, rows in features.items()}
    head = fit_head(doubled, ALL_TAPS, np.tile(labels, 2), 4)
    assert np.isfinite(head_probabilities(head, doubled)).all()


@pytest.mark.parametrize("labels", [[], [1, 1, 1]])
def test_fewer_than_two_classes_are_refused(labels):
    features = {"top": np.ones((len(labels), DIM), np.float32)}
    with pytest.raises(DataError, match="at least 2"):
        fit_head(features, TOP, np.array(labels, dtype=int), 2)


def test_many_pictures_choose_their_taps_on_a_sample_and_are_fitted_whole(monkeypatch):
    features, labels = a_task(noise=2.5)
    monkeypatch.setattr(heads, "SELECTION_SIZE", 40)
    head = fit_head(features, ALL_TAPS, labels, 4)
    whole = {part.tap: fit_ridge(features[part.tap], part.kind, labels, 4) for part in head.taps}
    assert all(part.penalty == whole[part.tap].penalty for part in head.taps)
    assert "Taps were compared on 40 pictures" in head.reasons[-1]


def test_the_sample_keeps_the_proportions_of_the_classes(monkeypatch):
    monkeypatch.setattr(heads, "SELECTION_SIZE", 100)
    labels = np.array([0] * 900 + [1] * 90 + [2] * 10)
    rows = heads._selection_rows(labels)
    assert np.bincount(labels[rows]).tolist() == pytest.approx([90, 9, 1], abs=1)
    assert len(np.unique(rows)) == 100


# ── augmented views ──────────────────────────────────────────────────────────────────────────────


def stacked(views):
    """Views, the originals first, as `fit_head` takes them: view after view."""
    return {name: np.concatenate([view[name] for view in views]) for name in views[0]}


def a_shaken_task(good, num_rows=40):
    """Pictures shaken by a nuisance in some directions; views shake again if `good`, else are of another class."""
    random = np.random.default_rng(5)
    features, labels = a_task(num_rows=num_rows, noise=0.3)
    directions = random.standard_normal((4, DIM))

    def shaken(rows):
        return (rows + 2 * random.standard_normal((num_rows, 4)) @ directions).astype(np.float32)

    views = [{"top": shaken(features["top"])} for _ in range(3)]
    if not good:
        views[1:] = [{"top": np.roll(view["top"], 1, axis=0)} for view in views[1:]]
    return views, labels


def fit_on(views, labels, taps=TOP):
    groups = [*range(len(labels))] * len(views)
    return fit_head(stacked(views), taps, np.tile(labels, len(views)), 4, groups)


def test_groups_of_one_change_nothing():
    features, labels = a_task(noise=2.5)
    plain, grouped = fit_head(features, ALL_TAPS, labels, 4), fit_on([features], labels, ALL_TAPS)
    assert [part.weight.tobytes() for part in plain.taps] == [part.weight.tobytes() for part in grouped.taps]
    assert (plain.temperature, plain.evidence, plain.reasons) == (
        grouped.temperature,
        grouped.evidence,
        grouped.reasons,
    )


def test_views_that_show_what_does_not_matter_are_trained_on():
    views, labels = a_shaken_task(good=True)
    test_views, test_labels = a_shaken_task(good=True, num_rows=400)
    with_views, without = fit_on(views, labels), fit_head(views[0], TOP, labels, 4)
    assert accuracy(with_views, test_views[0], test_labels) > accuracy(without, test_views[0], test_labels)
    assert with_views.loo_log_loss < without.loo_log_loss
    assert "Trained on 2 of 2 augmented views: " in with_views.reasons[-1]


def test_views_that_mislead_are_left_out():
    views, labels = a_shaken_task(good=False)
    head, without = fit_on(views, labels), fit_head(views[0], TOP, labels, 4)
    np.testing.assert_allclose(head.taps[0].weight, without.taps[0].weight, rtol=1e-6)
    assert head.loo_error == without.loo_error
    assert "Trained on none of 2 augmented views: " in head.reasons[-1]


def test_mirrored_views_that_mislead_are_left_out_alone():
    views, labels = a_shaken_task(good=True)
    mirrored = {"top": np.roll(views[2]["top"], 1, axis=0)}
    head = fit_on([views[0], views[1], mirrored], labels)
    expected = fit_on(views[:2], labels)
    np.testing.assert_array_equal(head.taps[0].weight, expected.taps[0].weight)
    assert "Trained on 1 of 2 augmented views, the mirrored ones left out" in head.reasons[-1]


def test_copies_of_a_picture_do_not_give_it_away():
    features, labels = a_task(num_rows=40, noise=4.0)
    without, copied = fit_head(features, TOP, labels, 4), fit_on([features] * 3, labels)
    assert without.loo_error > 0.2
    assert copied.loo_error == without.loo_error


def test_pictures_alone_in_their_class_cannot_speak_for_views():
    views, _ = a_shaken_task(good=True, num_rows=4)
    head = fit_on(views, np.arange(4))
    assert "Trained on none of 2" in head.reasons[-1]


def test_many_pictures_choose_taps_and_views_on_a_sample(monkeypatch):
    views, labels = a_shaken_task(good=True, num_rows=120)
    whole = fit_ridge(stacked(views)["top"], "gap", labels, 4)
    monkeypatch.setattr(heads, "SELECTION_SIZE", 60)
    head = fit_on(views, labels)
    assert "Trained on 2 of 2 augmented views: " in head.reasons[-1]
    np.testing.assert_array_equal(head.taps[0].weight, whole.weight)


@pytest.mark.parametrize("groups", [[0, 1, 2, 3], [0, 0, 1, 1, 2, 2], [0, 1, 2, 0, 2, 1], [0, 1, 2, 0, 1, 1]])
def test_rows_that_do_not_lie_view_after_view_are_refused(groups):
    features = {"top": np.ones((6, DIM), np.float32)}
    with pytest.raises(ValueError, match="all originals"):
        fit_head(features, TOP, [0, 1, 0, 0, 1, 0], 2, groups)
