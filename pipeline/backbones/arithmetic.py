"""The parameter and shape arithmetic of convolutional networks, as the field writes it.

K filters of F x F over D_in channels, stride S, input height (or width) H. "same" and "valid" are
TensorFlow's padding rules (https://www.tensorflow.org/api_docs/python/tf/nn#notes_on_padding_2).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Padding = Literal["same", "valid"]


@dataclass(frozen=True, slots=True)
class LayerRow:
    """One layer of a network."""

    name: str
    kind: str  # Keras class
    output_shape: tuple[int | None, ...]  # without the batch
    num_parameters: int
    arithmetic: str  # how parameters and spatial size follow from kernel, depth and stride; may be empty
    taps: tuple[str, ...]  # names of the taps that read this layer


def conv_parameters(filters: int, kernel: int, depth_in: int, *, bias: bool = True) -> int:
    """K·F·F·D_in + K.

    >>> conv_parameters(16, 2, 3), conv_parameters(32, 2, 16), conv_parameters(64, 2, 32)
    (208, 2080, 8256)
    """
    return filters * kernel * kernel * depth_in + (filters if bias else 0)


def dense_parameters(units: int, dim_in: int, *, bias: bool = True) -> int:
    """Units x inputs, plus one bias a unit.

    >>> dense_parameters(500, 32 * 32 * 64) == 32_768_500
    True
    """
    return units * dim_in + (units if bias else 0)


def conv_output_size(size: int, kernel: int, stride: int, padding: Padding) -> int:
    """ceil(H/S) with "same" padding, ceil((H-F+1)/S) with "valid".

    >>> conv_output_size(224, 3, 2, "same"), conv_output_size(224, 3, 2, "valid")
    (112, 111)
    """
    covered = size if padding == "same" else size - kernel + 1
    return -(-covered // stride)
