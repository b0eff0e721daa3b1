import numpy as np
import pytest

pytestmark = pytest.mark.heavy


def counts(network):
    return {layer.name: layer.count_params() for layer in network.layers if layer.weights}


def test_the_courses_network_has_the_courses_parameter_counts(keras):
    from pipeline.finetuning.scratch import build_course_network

    pooled, unpooled = (build_course_network(32, 10, pooling=pooling) for pooling in (True, False))
    for network in (pooled, unpooled):
        assert [counts(network)[f"conv{number}"] for number in (1, 2, 3)] == [208, 2_080, 8_256]
    assert counts(pooled)["units"] == 4 * 4 * 64 * 500 + 500
    assert counts(unpooled)["units"] == 32_768_500
    assert pooled.get_layer("pool1").output.shape[1:] == (16, 16, 16)
    assert pooled.output.shape == (None, 10)


def test_tiny_pictures_get_the_courses_network_and_larger_ones_a_residual_one(keras):
    from pipeline.finetuning.scratch import build_scratch

    assert build_scratch(32, 3).name == "course"
    assert build_scratch(96, 3).name == "residual"


@pytest.mark.parametrize(
    ("sides", "at_most", "size"), [([28] * 3, 224, 32), ([60] * 3, 224, 64), ([500] * 3, 224, 128), ([500], 96, 96)]
)
def test_a_network_sees_the_pixels_that_pictures_have(keras, sides, at_most, size):
    from pipeline.finetuning.scratch import choose_size

    assert choose_size(sides, at_most) == size


@pytest.mark.parametrize("size", [32, 96])
def test_equal_seeds_give_equal_weights(keras, size):
    from pipeline.finetuning.scratch import build_scratch

    first, again, other = (build_scratch(size, 3, seed).get_weights() for seed in (1, 1, 2))
    assert all(np.array_equal(mine, same) for mine, same in zip(first, again, strict=True))
    assert not all(np.array_equal(mine, same) for mine, same in zip(first, other, strict=True))


def test_multiply_adds_are_those_of_the_arithmetic(keras):
    from pipeline.finetuning.scratch import build_course_network, count_multiply_adds

    convolutions = 32**2 * 2 * 2 * 3 * 16 + 16**2 * 2 * 2 * 16 * 32 + 8**2 * 2 * 2 * 32 * 64
    assert count_multiply_adds(build_course_network(32, 10)) == convolutions + 1024 * 500 + 500 * 10


def test_the_residual_network_has_eighteen_layers(keras):
    from pipeline.finetuning.scratch import build_residual_network

    network = build_residual_network(64, 5)
    on_the_way = [layer for layer in network.layers if layer.weights and "norm" not in layer.name]
    assert sum("shortcut" not in layer.name for layer in on_the_way) == 18
