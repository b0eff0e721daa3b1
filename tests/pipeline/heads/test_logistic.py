import numpy as np
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression

from pipeline.heads.logistic import NUM_FOLDS, TENTHS, _folds, fit_logistic

NUM, DIM, CLASSES = 240, 12, 3


def a_task(seed=0, num=NUM, noise=1.5):
    rng = np.random.default_rng(seed)
    labels = np.arange(num) % CLASSES
    centres = np.random.default_rng(7).normal(size=(CLASSES, DIM))
    return (centres[labels] + noise * rng.normal(size=(num, DIM)) + 3).astype(np.float32), labels


def probabilities(fit, inputs):
    return softmax(TENTHS * (inputs @ fit.weight + fit.bias), axis=1)


def test_probabilities_are_those_of_scikit_learn_with_the_same_penalty():
    inputs, labels = a_task()
    fit = fit_logistic(inputs.copy(), labels, CLASSES)
    theirs = LogisticRegression(C=1 / fit.penalty, tol=1e-8, max_iter=1000).fit(inputs, labels)
    np.testing.assert_allclose(probabilities(fit, inputs), theirs.predict_proba(inputs), atol=5e-3)


def test_new_pictures_are_classified():
    inputs, labels = a_task()
    fit = fit_logistic(inputs, labels, CLASSES)
    others, truth = a_task(seed=1, num=900)
    right = (probabilities(fit, others).argmax(axis=1) == truth).mean()
    assert right > 0.8


def test_no_picture_is_judged_by_what_has_seen_it():
    rng = np.random.default_rng(0)
    inputs, labels = rng.normal(size=(120, 200)).astype(np.float32), np.arange(120) % CLASSES
    fit = fit_logistic(inputs.copy(), labels, CLASSES)  # noise, of which anything can be learned by heart
    assert (probabilities(fit, inputs).argmax(axis=1) == labels).mean() > 0.9
    assert (fit.held_out.argmax(axis=1) == labels).mean() < 0.5


def test_folds_have_their_share_of_every_class():
    labels = np.repeat(np.arange(3), [60, 30, 6])
    folds = _folds(labels)
    for fold in range(NUM_FOLDS):
        assert np.bincount(labels[folds == fold], minlength=3).tolist() == [20, 10, 2]


def test_a_class_without_pictures_is_rare_and_not_impossible():
    inputs, labels = a_task()
    fit = fit_logistic(inputs.copy(), labels, CLASSES + 1)
    chances = probabilities(fit, inputs)[:, CLASSES]
    assert np.isfinite(fit.weight).all()
    assert 0 < chances.max() < 0.05


def test_constant_features_say_how_frequent_classes_are():
    labels = np.repeat(np.arange(3), [60, 40, 20])
    fit = fit_logistic(np.ones((120, 5), np.float32), labels, 3)
    found = probabilities(fit, np.ones((1, 5), np.float32))[0]
    np.testing.assert_allclose(found, np.array([60, 40, 20]) / 120, atol=1e-2)


def test_the_same_input_gives_the_same_bits():
    first, again = (fit_logistic(a_task()[0], a_task()[1], CLASSES) for _ in range(2))
    np.testing.assert_array_equal(first.weight, again.weight)
    np.testing.assert_array_equal(first.held_out, again.held_out)
