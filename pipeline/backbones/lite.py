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
    net = _Builder(weights)
    pixels = keras.Input((size, size, 3), name="pixels")
    x = layers.Rescaling(1 / 128, offset=-127 / 128, name="scaled")(pixels)
    x = net.conv(x, STEM_CHANNELS, 3, 2, "stem_conv", "_conv_stem")
    x = net.norm_relu6(x, "stem", "_bn0")
    index = 0
    for number, stage in enumerate(scale_stages(*SCALES[name])):
        for position in range(stage.blocks):
            x = net.block(x, stage, position, index)
            index += 1
        # an identity, so that the end of every stage has a name whatever its last operation is
        x = layers.Identity(name=f"stage{number}")(x)
    x = net.conv(x, TOP_CHANNELS, 1, 1, "top_conv", "_conv_head")
    x = net.norm_relu6(x, "top", "_bn1")
    model = keras.Model(pixels, x, name=name)
    model.trainable = False
    return model


class _Builder:
    """Adds layers and fills each from the checkpoint as soon as it exists."""

    def __init__(self, weights: Weights) -> None:
        self._weights = weights

    def conv(self, x: Tensor, channels: int, kernel: int, stride: int, name: str, source: str) -> Tensor:
        layer = layers.Conv2D(channels, kernel, stride, "same", use_bias=False, name=name)
        y = layer(x)
        # PyTorch (out, in, h, w) -> Keras (h, w, in, out)
        layer.set_weights([self._weights[f"{source}.weight"].transpose(2, 3, 1, 0)])
        return y

    def depthwise(self, x: Tensor, kernel: int, stride: int, name: str, source: str) -> Tensor:
        layer = layers.DepthwiseConv2D(kernel, stride, "same", use_bias=False, name=name)
        y = layer(x)
        # PyTorch (channels, 1, h, w) -> Keras (h, w, channels, 1)
        layer.set_weights([self._weights[f"{source}.weight"].transpose(2, 3, 0, 1)])
        return y

    def norm(self, x: Tensor, name: str, source: str) -> Tensor:
        layer = layers.BatchNormalization(epsilon=BN_EPSILON, name=name)
        y = layer(x)
        parts = ("weight", "bias", "running_mean", "running_var")
        layer.set_weights([np.asarray(self._weights[f"{source}.{part}"]) for part in parts])
        return y

    def norm_relu6(self, x: Tensor, name: str, source: str) -> Tensor:
        return layers.ReLU(6.0, name=f"{name}_activation")(self.norm(x, f"{name}_bn", source))

    def block(self, x: Tensor, stage: Stage, position: int, index: int) -> Tensor:
        """Inverted bottleneck (Sandler et al. 2018, arXiv 1801.04381): expand, depthwise, project, add."""
        name, source = f"block{index}", f"_blocks.{index}"
        y = x
        if stage.expansion != 1:
            y = self.conv(y, x.shape[-1] * stage.expansion, 1, 1, f"{name}_expand_conv", f"{source}._expand_conv")
            y = self.norm_relu6(y, f"{name}_expand", f"{source}._bn0")
        stride = stage.stride if position == 0 else 1
        y = self.depthwise(y, stage.kernel, stride, f"{name}_depthwise_conv", f"{source}._depthwise_conv")
        y = self.norm_relu6(y, f"{name}_depthwise", f"{source}._bn1")
        y = self.conv(y, stage.channels, 1, 1, f"{name}_project_conv", f"{source}._project_conv")
        y = self.norm(y, f"{name}_project_bn", f"{source}._bn2")
        return y if position == 0 else layers.Add(name=f"{name}_add")([y, x])
