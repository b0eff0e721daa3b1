import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from pipeline.evaluation.average_precision import average_precision, mean_average_precision

ROWS = st.lists(st.tuples(st.integers(0, 6), st.booleans(), st.integers(0, 3)), min_size=1, max_size=30)


@given(ROWS)
def test_it_is_that_of_scikit_learn_ties_and_weights_included(rows):
    scores, positive, weights = (np.array(column) for column in zip(*rows, strict=True))
    found = average_precision(scores.astype(float), positive, np.stack([weights, np.ones_like(weights)]))
    for row, held in enumerate((weights, np.ones_like(weights))):
        if (held * positive).sum():
            wanted = average_precision_score(positive, scores, sample_weight=held)
            assert found[row] == pytest.approx(wanted, abs=1e-12)
        else:
            assert np.isnan(found[row])


def test_the_mean_is_over_labels_that_some_picture_has():
    scores = np.array([[0.9, 0.1, 0.5], [0.2, 0.8, 0.5], [0.3, 0.4, 0.5]])
    targets = np.array([[True, True, False], [False, False, False], [False, False, False]])
    assert mean_average_precision(scores, targets) == pytest.approx((1 + 1 / 3) / 2)


def test_without_any_label_it_is_zero():
    assert mean_average_precision(np.zeros((3, 2)), np.zeros((3, 2), dtype=bool)) == 0
