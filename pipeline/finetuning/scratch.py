"""Networks that start from random weights, for the other arm of case 4.

Heavy leaf: importing it loads TensorFlow.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from pipeline.finetuning.networks import iter_layers
from pipeline.quiet_keras import keras

layers = keras.layers

TINY = 64  # pixels; pictures up to that size get the course's network
RESIDUAL_SIZE = 128  # pixels; larger ones are reduced to it
COURSE_FILTERS = (16, 32, 64)
COURSE_UNITS = 500
RESIDUAL_FILTERS = (64, 128, 256, 512)
BLOCKS = 2  # in each stage


def choose_size(short_sides: Sequence[int], at_most: int) -> int:
    """Choose the size that a network from random weights sees: that of the pictures, if they are tiny.

    Parameters
    ----------
    short_sides
        In pixels, of some pictures.
    at_most
        In pixels, the size that the pretrained network sees.
    """
    typical = int(statistics.median(short_sides))
    if typical <= TINY:
        return max(32, min(TINY, round(typical / 8) * 8))
    return min(RESIDUAL_SIZE, at_most)


def build_scratch(size: int, num_classes: int, seed: int = 0) -> keras.Model:
    """Build the network for pictures of a size, from (batch, size, size, 3) pixels 0-255 to (batch, classes) scores."""
    keras.utils.set_random_seed(seed)  # this process trains one thing
    return build_course_network(size, num_classes) if size <= TINY else build_residual_network(size, num_classes)


def build_course_network(size: int, num_classes: int, *, pooling: bool = True) -> keras.Model:
    """Build three 2x2 convolutions of 16, 32 and 64 filters, 2x2 max pooling behind each, and 500 units.

    Their parameters are 208, 2,080 and 8,256; without pooling, the 500 units on 32 pixels have 32,768,500
    (Udacity's CNN lesson, from which CS231n-style arithmetic K·F·F·D + K follows; see `pipeline.backbones.arithmetic`).
    """
    pixels = keras.Input((size, size, 3), name="pixels")
    x = layers.Rescaling(1 / 255, name="scaled")(pixels)
    for number, filters in enumerate(COURSE_FILTERS, start=1):
        x = layers.Conv2D(filters, 2, padding="same", activation="relu", name=f"conv{number}")(x)
        if pooling:
            x = layers.MaxPooling2D(2, name=f"pool{number}")(x)
    x = layers.Flatten(name="flat")(x)
    x = layers.Dense(COURSE_UNITS, activation="relu", name="units")(x)
    return keras.Model(pixels, layers.Dense(num_classes, name="scores")(x), name="course")


def build_residual_network(size: int, num_classes: int) -> keras.Model:
    """Build an 18-layer residual network (He et al. 2016, arXiv:1512.03385), activations before convolutions."""
    pixels = keras.Input((size, size, 3), name="pixels")
    x = layers.Rescaling(1 / 127.5, offset=-1.0, name="scaled")(pixels)
    x = layers.Conv2D(RESIDUAL_FILTERS[0], 7, 2, "same", use_bias=False, name="stem")(x)
    x = layers.MaxPooling2D(3, 2, "same", name="stem_pool")(x)
    for stage, filters in enumerate(RESIDUAL_FILTERS):
        for block in range(BLOCKS):
            x = _block(x, filters, 2 if stage and not block else 1, f"stage{stage}_block{block}")
    x = layers.ReLU(name="last_relu")(layers.BatchNormalization(name="last_norm")(x))
    x = layers.GlobalAveragePooling2D(name="average")(x)
    return keras.Model(pixels, layers.Dense(num_classes, name="scores")(x), name="residual")


def _block(x: keras.KerasTensor, filters: int, stride: int, name: str) -> keras.KerasTensor:
    y = layers.ReLU(name=f"{name}_relu1")(layers.BatchNormalization(name=f"{name}_norm1")(x))
    if stride != 1 or x.shape[-1] != filters:
        x = layers.Conv2D(filters, 1, stride, use_bias=False, name=f"{name}_shortcut")(y)
    y = layers.Conv2D(filters, 3, stride, "same", use_bias=False, name=f"{name}_conv1")(y)
    y = layers.ReLU(name=f"{name}_relu2")(layers.BatchNormalization(name=f"{name}_norm2")(y))
    y = layers.Conv2D(filters, 3, 1, "same", use_bias=False, name=f"{name}_conv2")(y)
    return layers.Add(name=f"{name}_add")([x, y])


def count_multiply_adds(network: keras.Model) -> int:
    """Count the multiplications of one picture's forward pass in kernels; the rest does not matter."""
    total = 0
    for layer in iter_layers(network):
        shape = layer.output.shape if isinstance(layer.output, keras.KerasTensor) else ()
        positions = math.prod(shape[1:-1]) if len(shape) == 4 else 1
        total += sum(positions * math.prod(weight.shape) for weight in layer.weights if len(weight.shape) > 1)
    return total
