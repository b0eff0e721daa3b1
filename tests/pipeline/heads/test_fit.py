import re
import weakref
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from scipy.special import log_softmax

from pipeline.errors import DataError
from pipeline.heads import fit as heads
from pipeline.heads.classes import ClassLabels
from pipeline.heads.fit import head_probabilities, head_scores
from pipeline.heads.ridge import RidgeFit, fit_inputs, transform
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


def fit_head(features, taps, labels, num_classes, num_views=0):
    return heads.fit_head(features, taps, ClassLabels(np.asarray(labels, dtype=np.intp), num_classes), num_views)


def fit_ridge(features, kind, labels, num_classes):
    truth = ClassLabels(labels, num_classes)
    return heads.fit_ridge(features, kind, truth.targets, truth.counted)


def accuracy(head, features, labels):
    return float((head_scores(head, features).argmax(axis=1) == labels).mean())


def test_a_single_candidate_is_the_head():
    features, labels = a_task()
    head = fit_head(features, TOP, labels, 4)
    fit = fit_ridge(features["top"], "gap", labels, 4)
    assert [part.tap for part in head.taps] == ["top"]
    np.testing.assert_array_equal(head.taps[0].weight, fit.weight)
    assert head.kind == "stacked"
    assert head.reasons[0].startswith("The only candidate tap is top; ")


def test_taps_that_know_different_things_are_combined_and_one_that_knows_nothing_is_left_out():
    features, labels = a_task(noise=2.5)
    head = fit_head(features, ALL_TAPS, labels, 4)
    assert [part.tap for part in head.taps] == ["stage6_grid", "top"]
    assert head.loo_error < min(part.loo_error for part in head.taps)
    shares = {row.tap: row.share for row in head.evidence}
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


def stacked_only(monkeypatch):
    """Let no head join its taps."""
    ways = heads._ways
    monkeypatch.setattr(heads, "_ways", lambda *arguments: ways(*arguments)[:1])


def test_shares_are_folded_into_the_weights(monkeypatch):
    features, labels = a_task(noise=2.5)
    stacked_only(monkeypatch)
    head = fit_head(features, ALL_TAPS, labels, 4)
    assert head.kind == "stacked"
    for part in head.taps:
        share = next(row.share for row in head.evidence if row.tap == part.tap)
        plain = fit_ridge(features[part.tap], part.kind, labels, 4)
        np.testing.assert_allclose(part.weight, share * len(head.taps) * plain.weight, rtol=1e-6)


def test_taps_that_explain_the_classes_only_together_are_joined():
    """Each tap sees one half of the class under noise that the other tap sees alone."""
    random = np.random.default_rng(0)
    halves, nuisance = random.integers(0, 2, (2, 400)), 3 * random.standard_normal((2, 400))
    features = {}
    for name, mine in (("stage6_grid", 0), ("top", 1)):
        rows = 0.1 * random.standard_normal((400, DIM))
        rows[:, 0] = 3 * halves[mine] + nuisance[mine]
        rows[:, 1] = nuisance[1 - mine]
        rows[:, 2] = 20  # so that rows of length 1 differ little in scale
        features[name] = rows.astype(np.float32)
    head = fit_head(features, ALL_TAPS[1:], 2 * halves[0] + halves[1], 4)
    assert head.kind == "joined"
    assert head.loo_error < min(row.loo_error for row in head.evidence) / 2
    assert "one ridge on 2 taps side by side" in " ".join(head.reasons)


def test_joined_taps_score_what_one_ridge_on_them_scores():
    features, labels = a_task(noise=2.5)
    shares = {"stage6_grid": 0.25, "top": 0.75}
    counted = np.ones(120, dtype=bool)
    joined = heads._Task(features, ALL_TAPS, ClassLabels(labels, 4), 0).join(shares, np.arange(120), (0,))
    scaled = []
    for tap in ALL_TAPS[1:]:
        rows = transform(features[tap.name], tap.kind)
        spread = np.square(rows - rows.mean(axis=0)).sum(axis=1).mean()
        scaled.append(rows * np.sqrt(shares[tap.name] / spread))
    expected = fit_inputs(np.hstack(scaled).astype(np.float32), np.eye(4)[labels], counted)
    np.testing.assert_allclose(joined.loo_scores, expected.loo_scores, atol=1e-5)
    parts = [transform(features[tap.name], tap.kind) @ joined.weights[tap.name] for tap in ALL_TAPS[1:]]
    np.testing.assert_allclose(sum(parts), np.hstack(scaled) @ expected.weight, atol=1e-4)


def test_a_tap_is_asked_for_when_it_is_needed_and_never_beside_another():
    features, labels = a_task(noise=2.5)
    alive = []

    class OneAtATime(Mapping):
        def __getitem__(self, name):
            assert not [rows for rows in alive if rows() is not None]
            rows = features[name].copy()
            alive.append(weakref.ref(rows))
            return rows

        def __iter__(self):
            return iter(features)

        def __len__(self):
            return len(features)

    head = fit_head(OneAtATime(), ALL_TAPS, labels, 4)
    assert [part.weight.tobytes() for part in head.taps] == [
        part.weight.tobytes() for part in fit_head(features, ALL_TAPS, labels, 4).taps
    ]
    assert len(alive) >= len(ALL_TAPS)


def test_offsets_help_rare_classes_and_the_reasons_say_so():
    features, labels = a_task(num_rows=400, noise=2.0)
    kept = np.flatnonzero((labels != 3) | (np.arange(400) % 5 == 0))
    rare = {name: rows[kept] for name, rows in features.items()}
    head = fit_head(rare, TOP, labels[kept], 4)
    reason = next(reason for reason in head.reasons if "times as many pictures as the smallest" in reason)
    before, after = rates_in(reason)
    assert after > before


def rates_in(reason):
    """Return the two balanced accuracies that a reason gives, in percent."""
    return [float(number) for number in re.findall(r"([0-9.]+)%", reason)[:2]]


def test_probabilities_follow_the_scores_and_add_up_to_one():
    features, labels = a_task()
    head = fit_head(features, ALL_TAPS, labels, 4)
    probabilities = head_probabilities(head, features)
    expected = np.exp(log_softmax(head.temperature * head_scores(head, features), axis=1))
    np.testing.assert_allclose(probabilities, expected, rtol=1e-5)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    assert probabilities.dtype == np.float32


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
    shares = heads._shares(fits, ClassLabels(labels, 2))
    assert 9 <= len(shares) <= 10
    assert sum(shares.values()) == pytest.approx(1)


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
    assert [row.share for row in head.evidence] == [0, 0.5, 0.5]
    assert accuracy(head, features, labels) == 1
    assert head_probabilities(head, a_task(num_rows=400, noise=1.0, seed=1)[0]).max(axis=1).mean() < 0.7
    assert "Every class has a single training picture" in head.reasons[0]


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
    stacked_only(monkeypatch)
    head = fit_head(features, ALL_TAPS, labels, 4)
    whole = {part.tap: fit_ridge(features[part.tap], part.kind, labels, 4) for part in head.taps}
    assert all(part.penalty == whole[part.tap].penalty for part in head.taps)
    assert "Taps were compared on a sample of 40 pictures" in " ".join(head.reasons)


def test_many_pictures_may_join_all_taps_and_are_joined_whole(monkeypatch):
    features, labels = a_task(noise=2.5)
    monkeypatch.setattr(heads, "SELECTION_SIZE", 40)
    ways = heads._ways
    monkeypatch.setattr(heads, "_ways", lambda *arguments: ways(*arguments)[-1:])
    monkeypatch.setattr(heads, "_or_logistic", lambda task, truth, way, sample: (way, ""))
    head = fit_head(features, ALL_TAPS, labels, 4)
    shares = dict.fromkeys(features, 1 / 3)
    whole = heads._Task(features, ALL_TAPS, ClassLabels(labels, 4), 0).join(shares, np.arange(120), (0,))
    assert [part.tap for part in head.taps] == [tap.name for tap in ALL_TAPS]
    assert {part.penalty for part in head.taps} == set(whole.penalties.values())
    np.testing.assert_allclose(head.taps[0].weight, 3 * whole.weights["stage3_gap"], rtol=1e-5)


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
    return fit_head(stacked(views), taps, labels, 4, num_views=len(views) - 1)


def test_no_views_change_nothing():
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
    assert "Trained on 1 of 2 augmented views, without the mirrored ones" in head.reasons[-1]


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


@pytest.mark.parametrize(("num_rows", "num_views"), [(6, 1), (4, 0), (9, 0), (7, 2), (3, 3)])
def test_features_of_another_number_of_views_are_refused(num_rows, num_views):
    features = {"top": np.ones((num_rows, DIM), np.float32)}
    with pytest.raises(ValueError, match=f"top has {num_rows} rows, not {5 * (1 + num_views)}"):
        fit_head(features, TOP, [0, 1, 0, 0, 1], 2, num_views)


def test_a_head_knows_what_it_says_of_each_picture_left_out():
    features, labels = a_task(60)
    head = fit_head(features, ALL_TAPS, labels, 4)
    left_out = 7
    rest = np.delete(np.arange(60), left_out)
    again = fit_head({name: rows[rest] for name, rows in features.items()}, ALL_TAPS, labels[rest], 4)
    alone = {name: rows[[left_out]] for name, rows in features.items()}
    assert head.held_out.shape == (60, 4)
    # taps, penalty and offsets are those of all pictures: nearly the same
    np.testing.assert_allclose(head.held_out[left_out], head_scores(again, alone)[0], atol=0.1)
    assert np.abs(head.held_out - head_scores(head, features)).max() > 0.05


@pytest.mark.parametrize(("theirs", "kind"), [(1e-6, "joined"), (10.0, "logistic")])
def test_many_pictures_may_have_logistic_regression_if_held_out_pictures_find_it_likelier(theirs, kind, monkeypatch):
    features, labels = a_task(noise=2.5)
    monkeypatch.setattr(heads, "SELECTION_SIZE", 40)
    ways, calibrated, asked = heads._ways, ClassLabels.calibrate, []

    def ridge_has(truth, scores, sample):
        asked.append(scores)
        found = calibrated(truth, scores, sample)
        return replace(found, log_loss=theirs) if len(asked) == 2 else found

    monkeypatch.setattr(heads, "_ways", lambda *arguments: ways(*arguments)[-1:])
    monkeypatch.setattr(ClassLabels, "calibrate", ridge_has)
    head = fit_head(features, ALL_TAPS, labels, 4)
    assert head.kind == kind
    assert any("logistic regression" in reason for reason in head.reasons)
    assert accuracy(head, *a_task(400, noise=2.5, seed=3)) > 0.5
    assert head.held_out.shape == (120, 4)


def test_few_pictures_have_no_logistic_regression(monkeypatch):
    monkeypatch.setattr(heads, "fit_logistic", None)  # it would fail
    assert fit_head(*_with_taps(a_task(noise=2.5))).kind in ("stacked", "joined")


def _with_taps(task):
    return task[0], ALL_TAPS, task[1], 4
