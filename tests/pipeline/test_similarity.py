import numpy as np
import pytest

from pipeline.similarity import DIFFERENT_ABOVE, SIMILAR_BELOW, LayerStatistics, judge_distance, measure_similarity


def a_layer(mean=0.0, variance=1.0, epsilon=0.0, channels=4):
    return LayerStatistics("bn", np.full(channels, mean), np.full(channels, variance), epsilon)


def moments(mean, variance, channels=4):
    return np.full(channels, mean), np.full(channels, mean**2 + variance)


def measure(layers, targets):
    means, squares = zip(*targets, strict=True)
    return measure_similarity(layers, means, squares, num_images=160)


def test_the_same_moments_are_at_distance_zero():
    found = measure([a_layer(2.0, 3.0)], [moments(2.0, 3.0)])
    assert found.distance == pytest.approx(0, abs=1e-12)
    assert (found.verdict, found.num_images) == ("similar", 160)


def test_the_distance_is_the_divergence_of_two_gaussians():
    found = measure([a_layer(1.0, 4.0)], [moments(3.0, 2.0)])
    assert found.distance == pytest.approx(0.5 * (np.log(4 / 2) + (2 + (3 - 1) ** 2) / 4 - 1))


def test_the_divergence_agrees_with_an_integral():
    x = np.linspace(-30, 30, 200_001)
    target, source = (np.exp(-((x - m) ** 2) / (2 * v)) / np.sqrt(2 * np.pi * v) for m, v in ((0.5, 2), (-1, 3)))
    integral = np.trapezoid(target * (np.log(target) - np.log(source)), x)
    found = measure([a_layer(-1, 3)], [moments(0.5, 2)])
    assert found.distance == pytest.approx(integral, rel=1e-6)


def test_a_dead_channel_with_variance_zero_is_finite():
    found = measure([a_layer(0.0, 0.0, epsilon=1e-3)], [moments(0.0, 0.0)])
    assert found.distance == pytest.approx(0, abs=1e-12)


def test_a_variance_that_rounds_below_zero_is_zero():
    layer = a_layer(5.0, 1.0, epsilon=1e-3)
    mean, square = moments(5.0, 0.0)
    assert np.isfinite(measure([layer], [(mean, square - 1e-9)]).distance)


def test_one_wild_channel_does_not_move_the_median():
    mean, square = moments(0.0, 1.0, channels=5)
    mean[0], square[0] = 1000.0, 1e6 + 1
    assert measure([a_layer(channels=5)], [(mean, square)]).distance == pytest.approx(0, abs=1e-12)


def test_thirds_follow_the_depth():
    shifts = (2.0, 2.0, 0.0, 0.0, 4.0, 4.0)
    found = measure([a_layer()] * 6, [moments(shift, 1.0) for shift in shifts])
    assert (found.early, found.middle, found.late) == pytest.approx((2.0, 0.0, 8.0))
    assert found.distance == pytest.approx(10 / 3)


def test_a_network_of_two_layers_has_one_depth():
    found = measure([a_layer()] * 2, [moments(0.0, 1.0), moments(2.0, 1.0)])
    assert (found.early, found.middle, found.late) == pytest.approx((1.0, 1.0, 1.0))


def test_layers_and_moments_must_match_one_to_one():
    with pytest.raises(ValueError, match="zip"):
        measure([a_layer()] * 2, [moments(0.0, 1.0)])


@pytest.mark.parametrize(
    ("distance", "verdict"),
    [
        (0.0, "similar"),
        (np.nextafter(SIMILAR_BELOW, 0), "similar"),
        (SIMILAR_BELOW, "ambiguous"),
        (DIFFERENT_ABOVE, "ambiguous"),
        (np.nextafter(DIFFERENT_ABOVE, 1), "different"),
    ],
)
def test_thresholds_are_exact(distance, verdict):
    assert judge_distance(distance) == verdict
