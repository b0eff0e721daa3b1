"""A network as a table: every layer's output shape and parameters, by the field's own arithmetic.

Heavy leaf: importing it loads TensorFlow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.arithmetic import conv_output_size, conv_parameters, dense_parameters
from pipeline.quiet_keras import keras
from pipeline.types import Tap

layers = keras.layers


@dataclass(frozen=True, slots=True)
class LayerRow:
    """One layer of a network."""

    name: str
    kind: str  # Keras class
    output_shape: tuple[int | None, ...]  # without the batch
    num_parameters: int
    arithmetic: str  # how parameters and spatial size follow from kernel, depth and stride; may be empty
    taps: tuple[str, ...]  # taps that read this layer


def inspect_network(network: keras.Model, taps: Sequence[Tap]) -> list[LayerRow]:
    """List the layers of a network, shallow to deep."""
    return [
        LayerRow(
            name=layer.name,
            kind=type(layer).__name__,
            output_shape=tuple(layer.output.shape[1:]),
            num_parameters=layer.count_params(),
            arithmetic=_arithmetic(layer),
            taps=tuple(tap.name for tap in taps if tap.layer == layer.name),
        )
        for layer in network.layers
    ]


def _arithmetic(layer: keras.layers.Layer) -> str:
    if isinstance(layer, layers.DepthwiseConv2D):
        kernel, depth = layer.kernel_size[0], layer.input.shape[-1]
        number = conv_parameters(depth, kernel, 1, bias=layer.use_bias)  # every filter sees one channel
        return f"{depth}·{kernel}·{kernel}·1{_plus_bias(layer, depth)} = {number:,}; {_sizes(layer)}"
    if isinstance(layer, layers.Conv2D):
        kernel, depth = layer.kernel_size[0], layer.input.shape[-1]
        product = f"{layer.filters}·{kernel}·{kernel}·{depth}{_plus_bias(layer, layer.filters)}"
        number = conv_parameters(layer.filters, kernel, depth, bias=layer.use_bias)
        return f"{product} = {number:,}; {_sizes(layer)}"
    if isinstance(layer, layers.Dense):
        number = dense_parameters(layer.units, layer.input.shape[-1], bias=layer.use_bias)
        return f"{layer.input.shape[-1]}·{layer.units}{_plus_bias(layer, layer.units)} = {number:,}"
    if isinstance(layer, layers.BatchNormalization):
        return f"4·{layer.input.shape[-1]}"
    return ""


def _plus_bias(layer: keras.layers.Layer, number: int) -> str:
    return f" + {number}" if layer.use_bias else ""


def _sizes(layer: keras.layers.Layer) -> str:
    height, kernel, stride = layer.input.shape[1], layer.kernel_size[0], layer.strides[0]
    size = conv_output_size(height, kernel, stride, layer.padding)
    rule = f"{height}/{stride}" if layer.padding == "same" else f"({height}-{kernel}+1)/{stride}"
    return f"⌈{rule}⌉ = {size}"
