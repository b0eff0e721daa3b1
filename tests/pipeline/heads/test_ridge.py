import numpy as np
import pytest
from scipy.linalg import null_space
from scipy.optimize import minimize
from scipy.stats import multivariate_normal

from pipeline.heads import ridge as evidence
from pipeline.heads.ridge import PENALTY_PATH, transform

NUM_ROWS, NUM_CLASSES = 30, 3
BOTH_FORMS = pytest.mark.parametrize("dim", [8, 100])  # below and above the number of rows
BOTH_KINDS = pytest.mark.parametrize("kind", ["gap", "grid"])


def a_task(dim, num_rows=NUM_ROWS, seed=0):
    """Overlapping classes, so that neither end of the penalty path is best."""
    random = np.random.default_rng(seed)
    labels = np.arange(num_rows) % NUM_CLASSES
    centres = random.standard_normal((NUM_CLASSES, dim))
    features = centres[labels] + 2 * random.standard_normal((num_rows, dim))
    return features.astype(np.float32), labels


def fit_ridge(features, kind, labels, num_classes):
    return evidence.fit_ridge(features, kind, np.eye(num_classes)[labels], np.bincount(labels)[labels] > 1)


def solve(rows, targets, penalty, weights=None):
    """Ridge with an unpenalised intercept, by the normal equations."""
    centre, prior = (np.average(values, axis=0, weights=weights) for values in (rows, targets))
    centred = rows - centre
    weighted = centred if weights is None else centred * weights[:, None]
    gram = weighted.T @ centred + penalty * np.eye(rows.shape[1])
    weight = np.linalg.solve(gram, weighted.T @ (targets - prior))
    return weight, prior - centre @ weight


def refit_without_each(rows, targets, penalty):
    scores = np.empty_like(targets)
    for i in range(len(rows)):
        weight, bias = solve(np.delete(rows, i, 0), np.delete(targets, i, 0), penalty)
        scores[i] = rows[i] @ weight + bias
    return scores


@BOTH_FORMS
@BOTH_KINDS
def test_leave_one_out_scores_are_those_of_refits(dim, kind):
    features, labels = a_task(dim)
    fit = fit_ridge(features, kind, labels, NUM_CLASSES)
    rows = transform(features, kind).astype(np.float64)
    expected = refit_without_each(rows, np.eye(NUM_CLASSES)[labels], fit.penalty)
    np.testing.assert_allclose(fit.loo_scores, expected, atol=1e-6)


@BOTH_FORMS
def test_the_penalty_is_the_best_of_the_path_by_refits(dim):
    features, labels = a_task(dim)
    fit = fit_ridge(features, "grid", labels, NUM_CLASSES)
    rows, targets = transform(features, "grid").astype(np.float64), np.eye(NUM_CLASSES)[labels]
    scale = np.square(rows - rows.mean(axis=0)).sum() / min(rows.shape)
    errors = [np.square(targets - refit_without_each(rows, targets, p * scale)).sum() for p in PENALTY_PATH]
    assert fit.penalty == pytest.approx(PENALTY_PATH[np.argmin(errors)] * scale, rel=1e-5)


@BOTH_FORMS
@BOTH_KINDS
def test_weights_are_for_features_that_are_not_centred(dim, kind):
    features, labels = a_task(dim)
    fit = fit_ridge(features, kind, labels, NUM_CLASSES)
    rows = transform(features, kind).astype(np.float64)
    weight, bias = solve(rows, np.eye(NUM_CLASSES)[labels], fit.penalty)
    np.testing.assert_allclose(rows @ fit.weight + fit.bias, rows @ weight + bias, atol=1e-5)
    assert (fit.weight.dtype, fit.bias.dtype) == (np.float32, np.float32)


@BOTH_FORMS
def test_the_evidence_is_the_largest_density_of_the_dense_gaussian(dim):
    features, labels = a_task(dim)
    rows, targets = transform(features, "grid").astype(np.float64), np.eye(NUM_CLASSES)[labels]
    contrasts = null_space(np.ones((1, NUM_ROWS))).T  # what is left when the intercept is integrated out
    kernel = contrasts @ rows @ rows.T @ contrasts.T

    def negative_density(log_alpha_beta, target):
        alpha, beta = np.exp(log_alpha_beta)
        covariance = np.eye(len(kernel)) / beta + kernel / alpha
        return -multivariate_normal.logpdf(target, np.zeros(len(kernel)), covariance)

    best = [
        -minimize(negative_density, (2.0, 2.0), args=(target,), method="Nelder-Mead").fun / len(kernel)
        for target in (contrasts @ targets).T
    ]
    assert fit_ridge(features, "grid", labels, NUM_CLASSES).logme == pytest.approx(np.mean(best), abs=1e-3)


def test_features_that_are_always_zero_change_no_evidence():
    features, labels = a_task(dim=20)
    padded = np.hstack([features, np.zeros((NUM_ROWS, 500), np.float32)])
    plain, wide = (fit_ridge(x, "grid", labels, NUM_CLASSES) for x in (features, padded))
    assert wide.logme == pytest.approx(plain.logme, abs=1e-3)


def test_evidence_is_higher_for_features_that_know_the_class():
    features, labels = a_task(dim=20)
    noise = np.random.default_rng(1).standard_normal((NUM_ROWS, 40)).astype(np.float32)
    assert fit_ridge(features, "grid", labels, 3).logme > fit_ridge(noise, "grid", labels, 3).logme


@BOTH_FORMS
def test_chunks_change_nothing(dim, monkeypatch):
    features, labels = a_task(dim)
    whole = fit_ridge(features, "gap", labels, NUM_CLASSES)
    monkeypatch.setattr(evidence, "CHUNK_ROWS", 7)
    chunked = fit_ridge(features, "gap", labels, NUM_CLASSES)
    np.testing.assert_allclose(chunked.loo_scores, whole.loo_scores, atol=1e-9)
    assert chunked.penalty == pytest.approx(whole.penalty)


@pytest.mark.parametrize("dim", [8, 29, 100])
@pytest.mark.parametrize("num_views", [0, 2])
@pytest.mark.parametrize("widest", [4096, 4], ids=["eigenbasis", "factored"])
def test_many_rows_in_float32_come_to_what_few_in_float64_come_to(dim, num_views, widest, monkeypatch):
    features, labels = a_task(dim)
    features = views_of(features, num_views)
    exact = fit_ridge(features, "grid", labels, NUM_CLASSES)
    monkeypatch.setattr(evidence, "EXACT_ROWS", 20)
    monkeypatch.setattr(evidence, "CHUNK_ROWS", 7)
    monkeypatch.setattr(evidence, "WIDEST_BASIS", widest)
    monkeypatch.setattr(evidence, "PENALTY_PATH", exact.penalty / scale_of(features, dim) * np.ones(1))
    monkeypatch.setattr(evidence, "WIDE_PATH", exact.penalty / gram_scale_of(features) * np.ones(1))
    many = fit_ridge(features, "grid", labels, NUM_CLASSES)
    assert many.penalty == pytest.approx(exact.penalty, rel=1e-4)
    rounding = 1e-4 if dim < NUM_ROWS else 5e-3  # with more values than pictures 1 - H_ii is small
    np.testing.assert_allclose(many.loo_scores, exact.loo_scores, atol=rounding)
    rows = transform(features, "grid")
    np.testing.assert_allclose(rows @ many.weight + many.bias, rows @ exact.weight + exact.bias, atol=rounding)


def test_log_evidence_of_wide_features_is_that_of_a_sample(monkeypatch):
    features, labels = a_task(40, num_rows=89)  # of which 45 evenly spaced ones are every other
    exact = fit_ridge(features[::2], "grid", labels[::2], NUM_CLASSES)
    monkeypatch.setattr(evidence, "EXACT_ROWS", 60)
    monkeypatch.setattr(evidence, "WIDEST_BASIS", 4)
    monkeypatch.setattr(evidence, "EVIDENCE_SAMPLE", 45)
    assert fit_ridge(features, "grid", labels, NUM_CLASSES).logme == pytest.approx(exact.logme)


def energy_of(features):
    """Sum of squares of the centred rows, a picture's rows weighing 1 together."""
    num_views = len(features) // NUM_ROWS - 1
    weights = weights_of(num_views) if num_views else np.ones(NUM_ROWS)
    rows = transform(features, "grid").astype(np.float64)
    return (weights @ np.square(rows - np.average(rows, axis=0, weights=weights))).sum()


def scale_of(features, dim):
    return energy_of(features) / min(dim, NUM_ROWS)


def gram_scale_of(features):
    return energy_of(features) / features.shape[1]


@pytest.mark.parametrize("widest", [4096, 4], ids=["eigenbasis", "factored"])
def test_many_rows_choose_a_penalty_as_good_as_few_do(widest, monkeypatch):
    features, labels = a_task(12, num_rows=200)
    exact = fit_ridge(features, "grid", labels, NUM_CLASSES)
    monkeypatch.setattr(evidence, "EXACT_ROWS", 20)
    monkeypatch.setattr(evidence, "WIDEST_BASIS", widest)
    many = fit_ridge(features, "grid", labels, NUM_CLASSES)
    errors = [np.square(np.eye(NUM_CLASSES)[labels] - fit.loo_scores).sum() for fit in (many, exact)]
    assert errors[0] == pytest.approx(errors[1], rel=0.02)


@BOTH_FORMS
def test_the_same_input_gives_the_same_bits(dim):
    features, labels = a_task(dim)
    first, second = (fit_ridge(features, "gap", labels, NUM_CLASSES) for _ in range(2))
    assert first.weight.tobytes() == second.weight.tobytes()
    assert first.loo_scores.tobytes() == second.loo_scores.tobytes()
    assert (first.penalty, first.logme) == (second.penalty, second.logme)


def test_the_features_given_are_left_as_they_are():
    features, labels = a_task(dim=8)
    before = features.copy()
    fit_ridge(features, "grid", labels, NUM_CLASSES)
    np.testing.assert_array_equal(features, before)


def test_constant_features_predict_the_class_frequencies():
    labels = np.array([0] * 6 + [1] * 3)
    fit = fit_ridge(np.ones((9, 5), np.float32), "gap", labels, 2)
    scores = transform(np.ones((1, 5), np.float32), "gap") @ fit.weight + fit.bias
    np.testing.assert_allclose(scores, [[2 / 3, 1 / 3]], atol=1e-6)
    assert np.isfinite(fit.logme)


def test_a_class_without_pictures_keeps_its_column_at_zero():
    features, labels = a_task(dim=8)
    fit = fit_ridge(features, "grid", labels * 2, 6)
    assert fit.weight.shape == (8, 6)
    assert not fit.weight[:, [1, 3, 5]].any()
    assert not fit.bias[[1, 3, 5]].any()
    assert fit.logme == pytest.approx(fit_ridge(features, "grid", labels, 3).logme)


def test_one_picture_a_class_takes_the_mean_eigenvalue_as_penalty():
    features, _ = a_task(dim=8, num_rows=5)
    fit = fit_ridge(features, "grid", np.arange(5), 5)
    rows = transform(features, "grid")
    assert fit.penalty == pytest.approx(np.square(rows - rows.mean(axis=0)).sum() / 5, rel=1e-5)
    assert np.isfinite(fit.loo_scores).all()


def test_a_picture_alone_in_its_class_leaves_the_choice_of_the_penalty_to_the_others():
    features, labels = a_task(dim=8)
    lonely = np.where(np.arange(NUM_ROWS) == 7, NUM_CLASSES, labels)
    fit = fit_ridge(features, "grid", lonely, NUM_CLASSES + 1)
    rows, targets = transform(features, "grid"), np.eye(NUM_CLASSES + 1)[lonely]
    counted = np.arange(NUM_ROWS) != 7
    scale = np.square(rows - rows.mean(axis=0)).sum() / min(rows.shape)
    errors = [
        np.square((targets - refit_without_each(rows, targets, penalty))[counted]).sum()
        for penalty in scale * PENALTY_PATH
    ]
    best = int(np.argmin(errors))
    assert best != evidence.DEFAULT_PENALTY
    assert fit.penalty == pytest.approx(scale * PENALTY_PATH[best], rel=1e-4)


def views_of(features, num_views, noise=0.5):
    """All originals, then view after view: the same pictures, each time with other noise."""
    random = np.random.default_rng(9)
    others = [features + noise * random.standard_normal(features.shape) for _ in range(num_views)]
    return np.concatenate([features, *others]).astype(np.float32)


def weights_of(num_views):
    """Half for the original, half for its views together."""
    return np.repeat([0.5, *[0.5 / num_views] * num_views], NUM_ROWS)


@BOTH_FORMS
@BOTH_KINDS
@pytest.mark.parametrize("num_views", [1, 3])
def test_pictures_are_held_out_with_all_their_views_as_refits_would(dim, kind, num_views):
    features, labels = a_task(dim)
    stacked = views_of(features, num_views)
    fit = fit_ridge(stacked, kind, labels, NUM_CLASSES)
    rows, targets = transform(stacked, kind).astype(np.float64), np.eye(NUM_CLASSES)[np.tile(labels, num_views + 1)]
    expected = np.empty((NUM_ROWS, NUM_CLASSES))
    for picture in range(NUM_ROWS):
        others = np.arange(len(rows)) % NUM_ROWS != picture
        weight, bias = solve(rows[others], targets[others], fit.penalty, weights_of(num_views)[others])
        expected[picture] = rows[picture] @ weight + bias
    np.testing.assert_allclose(fit.loo_scores, expected, atol=1e-9)


@BOTH_FORMS
def test_weights_are_those_of_all_views(dim):
    features, labels = a_task(dim)
    stacked = views_of(features, 2)
    fit = fit_ridge(stacked, "grid", labels, NUM_CLASSES)
    rows = transform(stacked, "grid").astype(np.float64)
    weight, bias = solve(rows, np.eye(NUM_CLASSES)[np.tile(labels, 3)], fit.penalty, weights_of(2))
    np.testing.assert_allclose(rows @ fit.weight + fit.bias, rows @ weight + bias, atol=1e-5)


@BOTH_FORMS
def test_views_that_equal_their_original_change_nothing(dim):
    features, labels = a_task(dim)
    alone = fit_ridge(features, "gap", labels, NUM_CLASSES)
    thrice = fit_ridge(np.tile(features, (3, 1)), "gap", labels, NUM_CLASSES)
    np.testing.assert_allclose(thrice.loo_scores, alone.loo_scores, atol=1e-9)
    np.testing.assert_allclose(thrice.weight, alone.weight, atol=1e-6)
    assert (thrice.penalty, thrice.logme) == pytest.approx((alone.penalty, alone.logme), abs=1e-6)


@BOTH_FORMS
def test_chunks_change_nothing_with_views(dim, monkeypatch):
    features, labels = a_task(dim)
    whole = fit_ridge(views_of(features, 2), "gap", labels, NUM_CLASSES)
    monkeypatch.setattr(evidence, "CHUNK_ROWS", 7)
    chunked = fit_ridge(views_of(features, 2), "gap", labels, NUM_CLASSES)
    np.testing.assert_allclose(chunked.loo_scores, whole.loo_scores, atol=1e-9)


# ── features ─────────────────────────────────────────────────────────────────────────────────────


@BOTH_KINDS
def test_transformed_rows_have_length_one_and_empty_rows_stay_empty(kind):
    features = np.array([[3.0, -4.0], [0.0, 0.0], [1e-3, 0.0]], np.float32)
    rows = transform(features, kind)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), [1, 0, 1], rtol=1e-6)
    assert rows.dtype == np.float32


def test_only_global_averages_take_the_signed_root():
    features = np.array([[9.0, -16.0]], np.float32)
    np.testing.assert_allclose(transform(features, "gap"), [[3 / 5, -4 / 5]], rtol=1e-6)
    np.testing.assert_allclose(transform(features, "grid"), features / np.hypot(9, 16), rtol=1e-6)
