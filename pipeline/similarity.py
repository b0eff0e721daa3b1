"""How far a dataset's activations are from those the network was trained on; needs no source picture.

A BatchNorm layer remembers the mean and variance of its input over the training data (Ioffe & Szegedy 2015,
arXiv:1502.03167). Where another dataset's moments lie elsewhere, the network sees something it was not made
for: that drift explains lost accuracy (Schneider et al. 2020, arXiv:2006.16971) and detects shifts without
labels (arXiv:2107.00191).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.types import Similarity, SimilarityVerdict

# calibrated for efficientnet_lite0 on 160 pictures of each of 10 datasets: held-out ImageNet 0.005, natural
# photographs up to 0.054, everything else from 0.104
SIMILAR_BELOW = 0.05
DIFFERENT_ABOVE = 0.09


@dataclass(frozen=True, slots=True)
class LayerStatistics:
    """What one BatchNorm layer remembers of its input, one value per channel."""

    name: str
    moving_mean: NDArray[np.floating]
    moving_variance: NDArray[np.floating]
    epsilon: float  # the layer adds it to every variance; with it a dead channel's 0 is harmless


def measure_similarity(
    statistics: Sequence[LayerStatistics],
    mean: Sequence[NDArray[np.floating]],
    mean_square: Sequence[NDArray[np.floating]],
    num_images: int,
) -> Similarity:
    """Compare the moments of every BatchNorm layer's input with what the layer remembers.

    Parameters
    ----------
    statistics
        The layers, shallow to deep, at least one.
    mean, mean_square
        (channels,) for each layer, in the same order: mean of x and of x^2 over pictures and positions.
    num_images
        Pictures behind the moments. Between random samples of 100 the distance varies by 0.001 to 0.003.
    """
    moments = zip(statistics, mean, mean_square, strict=True)
    layers = np.array([_layer_distance(layer, first, second) for layer, first, second in moments])
    early, middle, late = (float(third.mean()) for third in _thirds(layers))
    distance = float(layers.mean())
    return Similarity(distance, early, middle, late, num_images, judge_distance(distance))


def judge_distance(distance: float) -> SimilarityVerdict:
    """Name a distance.

    >>> judge_distance(0.0499), judge_distance(0.05), judge_distance(0.0901)
    ('similar', 'ambiguous', 'different')
    """
    if distance < SIMILAR_BELOW:
        return "similar"
    return "different" if distance > DIFFERENT_ABOVE else "ambiguous"


def _layer_distance(layer: LayerStatistics, mean: NDArray[np.floating], mean_square: NDArray[np.floating]) -> float:
    """Median over channels of KL(target || source) between two Gaussians, nats."""
    target_mean = np.asarray(mean, dtype=np.float64)
    source_mean = np.asarray(layer.moving_mean, dtype=np.float64)
    # the difference of two moments can fall a little below 0 for a constant channel
    target = np.maximum(np.asarray(mean_square, dtype=np.float64) - target_mean**2, 0) + layer.epsilon
    source = np.asarray(layer.moving_variance, dtype=np.float64) + layer.epsilon
    ratio = (target + (target_mean - source_mean) ** 2) / source
    return float(np.median(0.5 * (np.log(source / target) + ratio - 1)))


def _thirds(layers: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """Cut into three runs of nearly equal length; with fewer than three layers each third is all of them."""
    return np.array_split(layers, 3) if len(layers) >= 3 else [layers] * 3
