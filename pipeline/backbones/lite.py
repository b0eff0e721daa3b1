"""EfficientNet-Lite in Keras, with the weights of its PyTorch checkpoint.

EfficientNet (Tan & Le 2019, arXiv 1905.11946) without squeeze-and-excite and with ReLU6 for swish
(https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite). TensorFlow "same" padding,
BN epsilon 1e-3, inputs (x - 127) / 128.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.quiet_keras import keras

layers = keras.layers

Tensor = Any  # a symbolic keras.KerasTensor
Weights = Mapping[str, NDArray[Any]]

BN_EPSILON = 1e-3
STEM_CHANNELS = 32  # of every Lite network, and so is the top: neither is scaled
TOP_CHANNELS = 1280
CHANNEL_STEP = 8  # widths are multiples of it
_SAME: dict[str, Any] = {"padding": "same", "use_bias": False}  # every convolution


@dataclass(frozen=True, slots=True)
class Stage:
    """A run of inverted bottleneck blocks; the first one strides, the others add a residual."""

    blocks: int
    kernel: int
    stride: int
    expansion: int
    channels: int


STAGES = (  # of Lite0
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)

SCALES = {  # name -> (width, depth), as their authors scaled Lite0
    "efficientnet_lite0": (1.0, 1.0),
    "efficientnet_lite1": (1.0, 1.1),
    "efficientnet_lite2": (1.1, 1.2),
}


def scale_stages(width: float, depth: float) -> tuple[Stage, ...]:
    """Widen and deepen the stages of Lite0; unlike in EfficientNet the first and the last keep their one block.

    >>> [stage.blocks for stage in scale_stages(1.1, 1.2)], [stage.channels for stage in scale_stages(1.1, 1.2)]
    ([1, 3, 3, 4, 4, 5, 1], [16, 24, 48, 88, 120, 208, 352])
    """
    ends = (0, len(STAGES) - 1)
    return tuple(
        replace(
            stage,
            blocks=stage.blocks if number in ends else math.ceil(stage.blocks * depth),
            channels=_scale_channels(stage.channels, width),
        )
        for number, stage in enumerate(STAGES)
    )


def _scale_channels(channels: int, width: float) -> int:
    """Round to the nearest step, and up if that would lose more than a tenth."""
    wanted = channels * width
    rounded = int(wanted + CHANNEL_STEP / 2) // CHANNEL_STEP * CHANNEL_STEP
    return rounded if rounded >= 0.9 * wanted else rounded + CHANNEL_STEP


def build_lite(name: str, size: int, weights: Weights) -> keras.Model:
    """Build the network and load its weights.

    Parameters
    ----------
    name
        One of `SCALES`.
    size
        Height and width of the input in pixels.
    weights
        The checkpoint's arrays by PyTorch parameter name.

    Returns
    -------
    A frozen model from (batch, size, size, 3) RGB values 0-255 to (batch, size/32, size/32, 1280), the output of
    `top_activation`. Layers `stage0` … `stage6` are the outputs of the stages.
    """
    pixels = keras.Input((size, size, 3), name="pixels")
    x = layers.Rescaling(1 / 128, offset=-127 / 128, name="scaled")(pixels)
    stem = layers.Conv2D(STEM_CHANNELS, 3, 2, **_SAME, name="stem_conv")
    x = _normalised(x, stem, weights, "_conv_stem", "_bn0")
    index = 0
    for number, stage in enumerate(scale_stages(*SCALES[name])):
        for position in range(stage.blocks):
            x = _block(x, stage, position, index, weights)
            index += 1
        # an identity, so that the end of every stage has a name whatever its last operation is
        x = layers.Identity(name=f"stage{number}")(x)
    top = layers.Conv2D(TOP_CHANNELS, 1, 1, **_SAME, name="top_conv")
    x = _normalised(x, top, weights, "_conv_head", "_bn1")
    model = keras.Model(pixels, x, name=name)
    model.trainable = False
    return model


def _block(x: Tensor, stage: Stage, position: int, index: int, weights: Weights) -> Tensor:
    """Inverted bottleneck (Sandler et al. 2018, arXiv 1801.04381): expand, depthwise, project, add."""
    name, source = f"block{index}", f"_blocks.{index}"
    y = x
    if stage.expansion != 1:
        expand = layers.Conv2D(x.shape[-1] * stage.expansion, 1, 1, **_SAME, name=f"{name}_expand_conv")
        y = _normalised(y, expand, weights, f"{source}._expand_conv", f"{source}._bn0")
    stride = stage.stride if position == 0 else 1
    depthwise = layers.DepthwiseConv2D(stage.kernel, stride, **_SAME, name=f"{name}_depthwise_conv")
    y = _normalised(y, depthwise, weights, f"{source}._depthwise_conv", f"{source}._bn1")
    project = layers.Conv2D(stage.channels, 1, 1, **_SAME, name=f"{name}_project_conv")
    y = _normalised(y, project, weights, f"{source}._project_conv", f"{source}._bn2", activation=False)
    return y if position == 0 else layers.Add(name=f"{name}_add")([y, x])


def _normalised(
    x: Tensor, conv: keras.layers.Layer, weights: Weights, source: str, norm: str, *, activation: bool = True
) -> Tensor:
    """Add a convolution, its BatchNorm and its activation; fill them from the checkpoint's `source` and `norm`."""
    name = conv.name.removesuffix("_conv")
    bn = layers.BatchNormalization(epsilon=BN_EPSILON, name=f"{name}_bn")
    y = bn(conv(x))
    # PyTorch (out, in, h, w) -> Keras (h, w, in, out); depthwise (channels, 1, h, w) -> (h, w, channels, 1)
    axes = (2, 3, 0, 1) if isinstance(conv, layers.DepthwiseConv2D) else (2, 3, 1, 0)
    conv.set_weights([weights[f"{source}.weight"].transpose(axes)])
    parts = ("weight", "bias", "running_mean", "running_var")
    bn.set_weights([np.asarray(weights[f"{norm}.{part}"]) for part in parts])
    return layers.ReLU(6.0, name=f"{name}_activation")(y) if activation else y
