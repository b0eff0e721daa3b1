import numpy as np
import pytest

from pipeline.heads.stacking import SMALLEST_SHARE, share_taps


def errors_of(*scales, num_rows=4000):
    """Independent residuals of the given sizes, one row a tap."""
    return np.random.default_rng(3).normal(size=(len(scales), num_rows)) * np.array(scales)[:, None]


def test_independent_taps_share_in_inverse_proportion_to_their_squared_error():
    errors = errors_of(1.0, 2.0)
    assert share_taps(errors @ errors.T) == pytest.approx([0.8, 0.2], abs=0.02)


def test_a_tap_that_would_get_less_than_the_smallest_share_gets_none():
    errors = errors_of(1.0, 10.0)
    assert share_taps(errors @ errors.T).tolist() == [1.0, 0.0]


def test_no_other_mixture_of_the_kept_taps_has_less_error():
    errors = errors_of(1.0, 1.2, 1.5)
    products = errors @ errors.T
    shares = share_taps(products)
    assert shares.sum() == pytest.approx(1)
    assert shares.min() >= SMALLEST_SHARE
    others = np.random.default_rng(4).dirichlet(np.ones(3), 500)
    assert (shares @ products @ shares) <= np.einsum("ij,jk,ik->i", others, products, others).min() + 1e-9


def test_of_many_equal_taps_as_many_are_kept_as_can_have_the_smallest_share():
    errors = errors_of(*[1.0] * 12)
    shares = share_taps(errors @ errors.T)
    assert shares.sum() == pytest.approx(1)
    assert 8 <= (shares > 0).sum() <= 10


def test_leaving_one_of_two_similar_taps_out_lifts_the_other_above_the_smallest_share():
    good, also_good, weak, own, other = errors_of(1.0, 1.0, 1.7, 0.3, 0.3)
    errors = np.stack([good, also_good, weak + own, weak + other])
    shares = share_taps(errors @ errors.T)
    assert (shares > 0).sum() == 3
    assert shares[2:].max() > SMALLEST_SHARE


def test_taps_without_any_error_share_evenly_enough_to_be_used():
    assert share_taps(np.zeros((2, 2))).sum() == pytest.approx(1)
