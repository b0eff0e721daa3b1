import pytest

from pipeline.backbones.arithmetic import conv_output_size, conv_parameters, dense_parameters


@pytest.mark.parametrize(
    ("filters", "kernel", "depth_in", "parameters"),
    [(16, 2, 3, 208), (32, 2, 16, 2_080), (64, 2, 32, 8_256), (1, 1, 1, 2), (512, 3, 512, 2_359_808)],
)
def test_a_convolution_has_the_parameters_of_the_textbook(filters, kernel, depth_in, parameters):
    assert conv_parameters(filters, kernel, depth_in) == parameters
    assert conv_parameters(filters, kernel, depth_in, bias=False) == parameters - filters


def test_a_dense_layer_has_the_parameters_of_the_textbook():
    assert dense_parameters(500, 32 * 32 * 64) == 32_768_500
    assert dense_parameters(10, 500) == 5_010
    assert dense_parameters(10, 500, bias=False) == 5_000


def test_the_small_network_of_the_course_adds_up():
    # three 2x2 convolutions on 32x32 RGB, each followed by 2x2 pooling, then 500 and 10 units
    size, depth, total = 32, 3, 0
    for filters in (16, 32, 64):
        assert conv_output_size(size, 2, 1, "same") == size
        total += conv_parameters(filters, 2, depth)
        size, depth = conv_output_size(size, 2, 2, "valid"), filters
    assert (size, depth, total) == (4, 64, 10_544)
    assert total + dense_parameters(500, size * size * depth) + dense_parameters(10, 500) == 528_054


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding", "out"),
    [
        (224, 3, 2, "same", 112),
        (224, 3, 2, "valid", 111),
        (7, 3, 1, "same", 7),
        (7, 3, 1, "valid", 5),
        (7, 7, 1, "valid", 1),
        (5, 2, 2, "same", 3),
        (5, 2, 2, "valid", 2),
        (1, 1, 1, "valid", 1),
    ],
)
def test_output_sizes_round_up(size, kernel, stride, padding, out):
    assert conv_output_size(size, kernel, stride, padding) == out


@pytest.mark.heavy
@pytest.mark.parametrize("size", [15, 32])
@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (2, 2), (3, 2), (5, 3), (4, 1)])
def test_keras_counts_and_shapes_convolutions_the_same_way(keras, size, padding, kernel, stride):
    for bias in (True, False):
        layer = keras.layers.Conv2D(6, kernel, stride, padding, use_bias=bias)
        shape = layer.compute_output_shape((None, size, size, 3))
        layer.build((None, size, size, 3))
        assert layer.count_params() == conv_parameters(6, kernel, 3, bias=bias)
        assert shape[1] == shape[2] == conv_output_size(size, kernel, stride, padding)


@pytest.mark.heavy
def test_keras_counts_dense_and_depthwise_layers_the_same_way(keras):
    dense = keras.layers.Dense(7)
    dense.build((None, 30))
    assert dense.count_params() == dense_parameters(7, 30)
    depthwise = keras.layers.DepthwiseConv2D(3, use_bias=False)
    depthwise.build((None, 8, 8, 12))
    # one filter a channel, each one deep
    assert depthwise.count_params() == conv_parameters(12, 3, 1, bias=False)
