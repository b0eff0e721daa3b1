import numpy as np
import pytest

from pipeline.decision.similarity import (
    SURE_FROM,
    describe_details,
    describe_verdict,
    judge_distance,
    measure_layers,
    similarity_of,
)
from pipeline.types import LayerStatistics
from tests.factories import a_similarity

LIMITS = (0.05, 0.09)


def a_layer(mean=0.0, variance=1.0, epsilon=0.0, channels=4):
    return LayerStatistics("bn", np.full(channels, mean), np.full(channels, variance), epsilon)


def moments(mean, variance, channels=4):
    return np.full(channels, mean), np.full(channels, mean**2 + variance)


def measure(layers, targets, num_images=160):
    """Measure pictures that are all alike."""
    row = np.concatenate([values for target in targets for values in target])
    return similarity_of(layers, np.tile(row, (num_images, 1)), LIMITS)


def pictures(num, shift=0.0, seed=0, channels=200):
    """Moments of pictures whose channels have means of their own around a shift, and variance 1 in all."""
    means = np.random.default_rng(seed).normal(shift, 0.6, (num, channels))
    return np.concatenate([means, means**2 + 0.64], axis=1).astype(np.float32)


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
    with pytest.raises(ValueError, match="8 moments do not belong to layers that have 16"):
        measure([a_layer()] * 2, [moments(0.0, 1.0)])


@pytest.mark.parametrize(
    ("distance", "verdict"),
    [
        (0.0, "similar"),
        (np.nextafter(LIMITS[0], 0), "similar"),
        (LIMITS[0], "ambiguous"),
        (LIMITS[1], "ambiguous"),
        (np.nextafter(LIMITS[1], 1), "different"),
    ],
)
def test_thresholds_are_exact(distance, verdict):
    assert judge_distance(distance, LIMITS) == verdict


# ── how sure ─────────────────────────────────────────────────────────────────────────────────────


def test_pictures_that_are_all_alike_leave_no_doubt():
    found = measure([a_layer()], [moments(0.5, 1.0)])
    assert found.interval == pytest.approx((found.distance, found.distance))


def test_the_interval_is_the_same_every_time():
    layer = a_layer(channels=200)
    first, second = (similarity_of([layer], pictures(100, 0.4), LIMITS) for _ in range(2))
    assert first == second


def test_the_interval_holds_the_distance_of_all_pictures():
    """Not the quantiles of resampled distances: they would hold it in hardly any of these."""
    layer = a_layer(channels=200)
    everything = pictures(50_000, 0.4, seed=99)
    truth = float(measure_layers([layer], everything.mean(axis=0, dtype=np.float64)).mean())
    intervals = [similarity_of([layer], pictures(100, 0.4, seed), LIMITS).interval for seed in range(40)]
    assert sum(low <= truth <= high for low, high in intervals) >= 34


def test_the_middle_of_the_interval_is_not_shifted_by_the_sample_size():
    """A divergence of few pictures is too large by its sampling error, which is taken off."""
    layer = a_layer(channels=200)
    everything = pictures(50_000, 0.4, seed=99)
    truth = float(measure_layers([layer], everything.mean(axis=0, dtype=np.float64)).mean())
    intervals = [similarity_of([layer], pictures(25, 0.4, seed), LIMITS).interval for seed in range(40)]
    middles = [(low + high) / 2 for low, high in intervals]
    half_width = np.mean([(high - low) / 2 for low, high in intervals])
    assert abs(np.mean(middles) - truth) < 0.25 * half_width


@pytest.mark.parametrize("num", [2, 3, 5])
def test_the_interval_of_a_distance_has_no_negative_end(num):
    layer = a_layer(channels=200)
    for seed in range(20):
        low, high = similarity_of([layer], pictures(num, 0.0, seed), LIMITS).interval
        assert 0 <= low <= high


def test_more_pictures_narrow_the_interval():
    layer = a_layer(channels=200)
    widths = [np.ptp(similarity_of([layer], pictures(num, 0.4), LIMITS).interval) for num in (25, 400)]
    assert widths[0] > 2 * widths[1]


def test_one_picture_has_no_interval():
    assert measure([a_layer()], [moments(0.5, 1.0)], num_images=1).interval is None


# ── in words ─────────────────────────────────────────────────────────────────────────────────────


def details(backbone="efficientnet_lite0", **changed):
    return describe_details(a_similarity(**changed), backbone)


def test_a_sure_verdict_on_similar_data_needs_no_more_words():
    assert details(interval=(0.02, 0.04)) == ()


def test_an_interval_across_a_threshold_is_told():
    (reason,) = details(interval=(0.04, 0.06))
    assert reason == (
        "This is not certain: with 95 % confidence the distance lies between 0.040 and 0.060, on both sides of 0.05."
    )


def test_few_pictures_are_told():
    (reason,) = details(interval=(0.02, 0.04), num_images=SURE_FROM - 1)
    assert reason.endswith("Fewer than 100 pictures were measured, which makes it less sure.")
    assert details(interval=(0.02, 0.04), num_images=SURE_FROM) == ()


@pytest.mark.parametrize(
    ("early", "late", "words"),
    [
        (
            0.3,
            0.1,
            "Mostly image quality differs, such as blur, sensor or size (early layers 0.300, late layers 0.100)",
        ),
        (0.08, 0.2, "Mostly content differs: the pictures show other things"),
        (0.2, 0.25, "Both image quality and content differ"),
    ],
)
def test_the_depth_of_a_shift_is_read_out(early, late, words):
    (reason,) = details(distance=0.15, verdict="different", early=early, late=late)
    assert words in reason


def test_a_shift_that_no_third_of_the_layers_stands_for_has_no_depth():
    assert details(distance=0.1, verdict="different", early=0.08, middle=0.2, late=0.08) == ()


def test_whoever_measured_in_another_networks_place_is_named():
    (reason,) = details("vgg16", why_with="it has no BatchNorm layers that remember data")
    assert reason == (
        "Similarity was measured with efficientnet_lite0 instead of vgg16: it has no BatchNorm layers that remember "
        "data."
    )


def test_a_verdict_is_told_with_the_limits_of_its_own_backbone():
    similarity = a_similarity(distance=0.2, verdict="different", limits=(0.1, 0.15))
    assert describe_verdict(similarity).endswith(
        "The distance (D_BN) is 0.200 on 128 pictures; above 0.15 is different."
    )
