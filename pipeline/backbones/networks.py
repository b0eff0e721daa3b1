"""Backbones in Keras, their taps and the moments of their BatchNorm inputs.

Heavy leaf: importing it loads TensorFlow.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from pipeline.backbones.applications import load_application, norm_layers
from pipeline.backbones.lite import build_lite
from pipeline.backbones.table import WHEEL, get_weights_path
from pipeline.backbones.torch_checkpoint import read_checkpoint
from pipeline.quiet_keras import keras
from pipeline.types import BackboneSpec, Tap

layers, ops = keras.layers, keras.ops

GRID_SIDE = 3  # cells of the coarse average grid: spatial layout at 9 values a channel


def build_backbone(spec: BackboneSpec) -> keras.Model:
    """Build a frozen backbone from (batch, size, size, 3) RGB pixels 0-255, with its preprocessing inside.

    Raises
    ------
    NotFoundError
        When its weights are not installed, or cannot be downloaded, or their file is gone.
    DamagedError
        When the weights are not the ones the spec names.
    """
    if spec.source != WHEEL:
        return load_application(spec)
    return build_lite(spec.name, spec.recipe.size, read_checkpoint(get_weights_path(spec.name), spec.weights_sha256))


# shared by all callers: a run converts the backbone for the pass and builds the delivered model on it
load_backbone = cache(build_backbone)


def tap_outputs(backbone: keras.Model, taps: tuple[Tap, ...]) -> dict[str, Any]:
    """Return the symbolic output of every tap, (batch, dim) each, by tap name."""
    # not only its layers: ConvNeXt adds with a bare operation
    outputs = {operation.name: operation.output for operation in backbone.operations}
    return {tap.name: _pool(outputs[tap.layer], tap) for tap in taps}


def _pool(feature_map: Any, tap: Tap) -> Any:
    if tap.kind == "gap":
        return layers.GlobalAveragePooling2D(name=tap.name)(feature_map)
    grid = layers.AdaptiveAveragePooling2D(GRID_SIDE, name=f"{tap.name}_cells")(feature_map)
    return layers.Flatten(name=tap.name)(grid)


def moment_output(backbone: keras.Model) -> Any:
    """Return one symbolic (batch, 2 x channels of all BatchNorm layers) output.

    Per image: the mean over positions of every channel of every BatchNorm layer's *input*, then the mean
    of its square, layer after layer as in `norm_layers`.
    """
    moments = []
    for layer in norm_layers(backbone):
        places = tuple(range(1, len(layer.input.shape) - 1))  # none if the input is a row, not a map
        moments += [ops.mean(layer.input, axis=places), ops.mean(ops.square(layer.input), axis=places)]
    return ops.concatenate(moments, axis=-1)
