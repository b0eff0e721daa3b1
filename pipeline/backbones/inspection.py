"""The layers of a network as rows: output shape, parameters, and how these follow from kernel, depth and stride.

Heavy leaf: importing it loads TensorFlow.
"""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.backbones.arithmetic import LayerRow, conv_output_size, conv_parameters, dense_parameters
from pipeline.quiet_keras import keras
from pipeline.types import Tap

layers = keras.layers


def inspect_network(network: keras.Model, taps: Sequence[Tap]) -> list[LayerRow]:
    """List the layers of a network, shallow to deep; bare operations, such as ConvNeXt's additions, are among them."""
    return [
        LayerRow(
            name=layer.name,
            kind=type(layer).__name__,
            output_shape=tuple(layer.output.shape[1:]),
            num_parameters=layer.count_params() if isinstance(layer, layers.Layer) else 0,
            arithmetic=_arithmetic(layer),
            taps=tuple(tap.name for tap in taps if tap.layer == layer.name),
        )
        for layer in network.operations
    ]


def _arithmetic(layer: keras.Operation) -> str:
    if isinstance(layer, layers.BatchNormalization):
        return f"{2 + layer.scale + layer.center}·{layer.input.shape[-1]}"  # mean and variance, scale, offset
    if isinstance(layer, layers.Dense):
        depth = layer.input.shape[-1]
        number = dense_parameters(layer.units, depth, bias=layer.use_bias)
        return f"{depth}·{layer.units}{_plus_bias(layer, layer.units)} = {number:,}"
    if isinstance(layer, layers.Conv2D | layers.DepthwiseConv2D | layers.SeparableConv2D):
        product, number = _convolution(layer)
        # the textbook's formula is for square kernels
        return f"{product} = {number:,}{_sizes(layer)}" if number == layer.count_params() else ""
    return ""


def _convolution(layer: keras.layers.Layer) -> tuple[str, int]:
    """Write the product that counts a convolution's parameters, and compute it."""
    kernel, depth, bias = layer.kernel_size[0], layer.input.shape[-1], layer.use_bias
    if isinstance(layer, layers.SeparableConv2D):  # a depthwise one, then one of 1 x 1
        number = conv_parameters(depth, kernel, 1, bias=False) + conv_parameters(layer.filters, 1, depth, bias=bias)
        pointwise = f"{layer.filters}·1·1·{depth}{_plus_bias(layer, layer.filters)}"
        return f"{depth}·{kernel}·{kernel}·1 + {pointwise}", number
    # every filter of a depthwise convolution sees one channel, others those of their group
    is_depthwise = isinstance(layer, layers.DepthwiseConv2D)
    filters, seen = (depth, 1) if is_depthwise else (layer.filters, depth // layer.groups)
    number = conv_parameters(filters, kernel, seen, bias=bias)
    return f"{filters}·{kernel}·{kernel}·{seen}{_plus_bias(layer, filters)}", number


def _plus_bias(layer: keras.layers.Layer, number: int) -> str:
    return f" + {number}" if layer.use_bias else ""


def _sizes(layer: keras.layers.Layer) -> str:
    height, kernel, stride = layer.input.shape[1], layer.kernel_size[0], layer.strides[0]
    size = conv_output_size(height, kernel, stride, layer.padding)
    if size != layer.output.shape[1]:  # a dilated kernel
        return ""
    rule = f"{height}/{stride}" if layer.padding == "same" else f"({height}-{kernel}+1)/{stride}"
    return f"; ⌈{rule}⌉ = {size}"
