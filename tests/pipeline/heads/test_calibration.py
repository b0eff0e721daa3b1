import numpy as np
import pytest
from scipy.special import log_softmax

from pipeline.heads import calibration
from pipeline.heads.calibration import calibrate, fit_temperature


def drawn(num_pictures, temperature=8.0, offsets=(0.0, 0.0, 0.0), seed=0):
    """Scores, and labels drawn from exactly the softmax of them."""
    random = np.random.default_rng(seed)
    scores = random.normal(0.3, 0.4, (num_pictures, 3))
    noise = random.gumbel(size=scores.shape)
    return scores, (temperature * scores + np.array(offsets) + noise).argmax(axis=1)


def log_loss(scores, labels):
    return -log_softmax(scores, axis=1)[np.arange(len(labels)), labels].mean()


def test_the_temperature_that_labels_were_drawn_with_is_found():
    assert fit_temperature(*drawn(20_000)) == pytest.approx(8, rel=0.05)


def test_no_other_temperature_has_a_lower_loss():
    scores, labels = drawn(500)
    best = fit_temperature(scores, labels)
    assert log_loss(best * scores, labels) < min(log_loss(factor * best * scores, labels) for factor in (0.7, 1.4))


def test_offsets_that_labels_were_drawn_with_are_found():
    scores, labels = drawn(20_000, offsets=(1.0, 0.0, -1.0))
    found = calibrate(scores, labels)
    assert found.temperature == pytest.approx(8, rel=0.05)
    np.testing.assert_allclose(found.offsets - found.offsets.mean(), [1, 0, -1], atol=0.1)


def test_shifted_scores_times_the_temperature_are_the_logits():
    scores, labels = drawn(500, offsets=(1.0, 0.0, -1.0))
    found = calibrate(scores, labels)
    logits = found.temperature * found.scores(scores)
    np.testing.assert_allclose(logits, found.temperature * scores + found.offsets)


def test_few_pictures_get_no_offsets():
    scores, labels = drawn(99, offsets=(2.0, 0.0, -2.0))
    assert not calibrate(scores, labels).offsets.any()
    assert calibrate(*drawn(100, offsets=(2.0, 0.0, -2.0))).offsets.any()


def test_what_is_reported_was_not_fitted_on():
    scores, labels = drawn(120)
    labels = np.random.default_rng(1).permutation(labels)  # nothing to learn: a fit can only flatter itself
    found = calibrate(scores, labels)
    assert found.log_loss > log_loss(found.temperature * found.scores(scores), labels)
    assert found.error == pytest.approx(2 / 3, abs=0.15)


def test_scores_without_mistakes_stay_modest():
    scores = np.eye(3)[np.arange(60) % 3]
    assert 1 < fit_temperature(scores, np.arange(60) % 3) < 20


@pytest.mark.parametrize("num_pictures", [1, 2, 4, 7])
def test_a_handful_of_pictures_is_enough(num_pictures):
    found = calibrate(*drawn(num_pictures))
    assert np.isfinite([found.temperature, found.log_loss, found.error]).all()


@pytest.mark.parametrize("num_pictures", [2, 3, 4])
def test_too_few_pictures_for_folds_are_judged_by_a_fit_on_all_of_them(num_pictures):
    scores, labels = drawn(num_pictures, seed=2)
    found = calibrate(scores, labels)
    assert found.log_loss == pytest.approx(log_loss(found.temperature * scores, labels))


def test_a_class_without_pictures_is_no_trouble():
    scores, labels = drawn(300)
    wide = np.hstack([scores, np.zeros((300, 1))])
    found = calibrate(wide, labels)
    assert np.isfinite(found.offsets).all()
    assert found.offsets[3] < found.offsets[:3].min()


def test_the_same_input_gives_the_same_bits():
    first, second = (calibration.calibrate(*drawn(200)) for _ in range(2))
    assert first.offsets.tobytes() == second.offsets.tobytes()
    assert (first.temperature, first.log_loss, first.error) == (second.temperature, second.log_loss, second.error)
