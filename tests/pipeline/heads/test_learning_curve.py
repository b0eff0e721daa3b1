from dataclasses import replace

import numpy as np
import pytest

from pipeline.heads import learning_curve as curves
from pipeline.heads.classes import ClassLabels
from pipeline.heads.fit import fit_head
from pipeline.heads.learning_curve import fit_learning_curve
from pipeline.heads.ridge import transform
from pipeline.types import Tap

TAP = Tap("top", "top", "gap", 24, 0)
OTHER = Tap("stage5_grid", "stage5", "grid", 24, 0)


def pictures(num, noise, num_classes=4, seed=0, dim=24):
    """Class centres and noise around them; with much noise, some error stays whatever there is to learn from."""
    rng = np.random.default_rng(seed)
    labels = np.arange(num) % num_classes
    centres = np.random.default_rng(9).normal(size=(num_classes, dim))
    return {"top": (centres[labels] + noise * rng.normal(size=(num, dim))).astype(np.float32)}, labels


def a_curve(features, labels, taps=(TAP,)):
    head = fit_head(features, taps, ClassLabels(labels, 4))
    return fit_learning_curve(features, head, labels, 4), head


def test_every_size_is_a_half_of_the_next():
    curve, _ = a_curve(*pictures(400, 2.0))
    assert curve.sizes == (50, 100, 200, 400)
    assert len(curve.errors) == 4
    assert curve.errors[0] > curve.errors[-1]


def test_held_out_scores_are_those_of_refits_with_the_same_penalty():
    features, labels = pictures(40, 1.0)
    inputs = transform(features["top"], "gap").astype(np.float64)
    targets = np.eye(4)[labels]
    found = curves._held_out(inputs @ inputs.T, targets, 0.3)
    for left_out in (0, 7, 39):
        rest = np.delete(np.arange(40), left_out)
        centre, prior = inputs[rest].mean(axis=0), targets[rest].mean(axis=0)
        x = inputs[rest] - centre
        weight = np.linalg.solve(x.T @ x + 0.3 * np.eye(24), x.T @ (targets[rest] - prior))
        np.testing.assert_allclose(found[left_out], prior + (inputs[left_out] - centre) @ weight, atol=1e-9)


def test_parts_are_disjoint_and_alike_in_their_classes():
    labels = np.repeat(np.arange(4), [80, 40, 40, 40])
    seen = []

    def note(kernel, targets, penalty):
        seen.append(targets.sum(axis=0))
        return targets

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(curves, "_held_out", note)
        curves._errors([(1.0, 1.0, np.zeros((200, 200)))], np.eye(4)[labels], labels, 8)
    assert len(seen) == 8
    for counts in seen:
        assert counts.tolist() == [10, 5, 5, 5]


def test_the_law_is_found_again():
    numbers = np.array([125.0, 250, 500, 1000])
    floor, slope = curves._law(numbers, 0.08 + 1.5 / np.sqrt(numbers))
    assert (floor, slope) == (pytest.approx(0.08), pytest.approx(1.5))


def test_an_error_that_stays_is_the_representations():
    curve, _ = a_curve(*pictures(3200, 3.0, dim=24))
    assert curve.verdict == "representation-limited"
    assert "fine-tuning" in curve.reason


def test_an_error_that_falls_is_the_datas():
    features, labels = pictures(320, 1.0)
    rng = np.random.default_rng(1)
    wide = np.concatenate([features["top"], 3 * rng.normal(size=(320, 400))], axis=1).astype(np.float32)
    curve, _ = a_curve({"top": wide}, labels, (replace(TAP, dim=424),))
    assert curve.verdict == "data-limited"
    low, high = curve.gain_interval
    assert 0 < low <= curve.gain_of_doubling <= high
    assert curve.gain_of_doubling <= curve.errors[-1]


def test_a_head_without_mistakes_has_nothing_to_gain():
    curve, _ = a_curve(*pictures(400, 0.01))
    assert (curve.verdict, curve.gain_of_doubling) == (None, 0)
    assert "No held-out picture is misclassified" in curve.reason


def test_too_few_of_a_class_say_that_it_cannot_be_told():
    curve, _ = a_curve(*pictures(76, 1.0))
    assert (curve.sizes, curve.verdict) == ((), None)
    assert "19 training pictures, too few" in curve.reason


def test_fewer_of_a_class_leave_the_smallest_size_out():
    curve, _ = a_curve(*pictures(120, 1.0))
    assert curve.sizes == (30, 60, 120)


def test_many_pictures_are_sampled(monkeypatch):
    monkeypatch.setattr(curves, "LARGEST", 200)
    curve, _ = a_curve(*pictures(400, 2.0))
    assert curve.sizes == (25, 50, 100, 200)


def gain_of(curve, num_images):
    return curve.slope * (num_images**-0.5 - (2 * num_images) ** -0.5)


def test_the_gain_of_doubling_is_what_the_law_says_of_twice_the_pictures():
    curve, _ = a_curve(*pictures(400, 2.0))
    assert 0 < curve.gain_of_doubling < curve.errors[-1]
    assert curve.gain_of_doubling == pytest.approx(gain_of(curve, 400), abs=1e-9)


def test_the_gain_is_that_of_all_pictures_also_if_only_a_sample_is_measured(monkeypatch):
    monkeypatch.setattr(curves, "LARGEST", 200)
    curve, _ = a_curve(*pictures(400, 2.0))
    assert curve.gain_of_doubling == pytest.approx(gain_of(curve, 400), abs=1e-9)
    assert "at 400 pictures" in curve.reason


def test_classes_without_pictures_do_not_count_when_the_typical_class_is_sized():
    features, labels = pictures(120, 1.5, num_classes=3)
    head = fit_head(features, (TAP,), ClassLabels(3 * labels, 7))  # four of seven classes are empty
    curve = fit_learning_curve(features, head, 3 * labels, 7)
    assert curve.sizes == (15, 30, 60, 120)


def test_taps_together_are_judged_as_the_head_uses_them():
    features, labels = pictures(400, 2.5)
    both = {**features, "stage5_grid": pictures(400, 2.5, seed=5)[0]["top"]}
    taps = (OTHER, TAP)
    curve, head = a_curve(both, labels, taps)
    assert len(head.taps) == 2
    assert curve.errors[-1] == pytest.approx(head.loo_error, abs=0.02)


def test_the_same_input_gives_the_same_curve():
    assert a_curve(*pictures(200, 2.0))[0] == a_curve(*pictures(200, 2.0))[0]
