"""The scores that a network gives to pictures, and how good they are.

Heavy leaf: importing it loads TensorFlow.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from pipeline.finetuning.batches import Pictures, whole
from pipeline.images.ahead import ReadImage, batched, decode_images
from pipeline.quiet_keras import keras
from pipeline.types import Array, Image, Pixels, Recipe

PREDICTED_AT_ONCE = 64  # pictures


@dataclass(frozen=True, slots=True)
class Validation:
    """Pictures that are not trained on, and their classes."""

    pictures: Pictures
    labels: Sequence[int]


def predict_images(network: keras.Model, images: Sequence[Image], read: ReadImage, recipe: Recipe) -> Array:
    """Return the probabilities (n, classes) of pictures exactly as the recipe makes them, not rounded.

    Raises
    ------
    DataError
        A picture is gone, or has changed since its features were computed.
    """
    pixels = (whole(*found) for found in decode_images(images, read, recipe))
    scores = _run(network, (np.stack(batch) for batch in batched(pixels, PREDICTED_AT_ONCE)))
    probabilities: Array = softmax(scores, axis=1)
    return probabilities


def scale_scores(network: keras.Model, validation: Validation) -> float:
    """Scale a network's scores so that its probabilities are honest on validation pictures; returns the factor.

    Guo et al. 2017, arXiv:1706.04599: one number, and no picture changes its class.
    """
    scores, labels = predict_scores(network, validation.pictures), np.asarray(validation.labels, np.intp)
    found = minimize_scalar(lambda power: _score(np.exp(power) * scores, labels)[1], bounds=(-3, 3), method="bounded")
    factor = float(np.exp(found.x))
    for layer in network.layers:
        if isinstance(layer, keras.layers.Dense) and layer.name.endswith("scores"):
            layer.set_weights([weight * np.float32(factor) for weight in layer.get_weights()])
    return factor


def predict_scores(network: keras.Model, pictures: Pictures) -> Array:
    """Return the scores of pictures (n, size, size, 3) uint8, as (n, classes)."""
    return _run(network, (np.stack([pictures[place] for place in span]) for span in _spans(len(pictures))))


def score(network: keras.Model, validation: Validation) -> tuple[float, float]:
    """Return a network's accuracy and log loss (nats)."""
    return _score(predict_scores(network, validation.pictures), np.asarray(validation.labels, np.intp))


def measure_mirror(network: keras.Model, validation: Validation, num_pictures: int = 512) -> tuple[float, float]:
    """Return the accuracy on pictures as they are and on their mirror images, of at most this many, evenly spaced."""
    places = np.linspace(0, len(validation.labels) - 1, min(num_pictures, len(validation.labels))).round().astype(int)
    labels = np.asarray(validation.labels, np.intp)[places]
    pixels = [np.stack([validation.pictures[place] for place in places[span]]) for span in _spans(len(places))]
    plain, mirrored = _run(network, iter(pixels)), _run(network, (batch[:, :, ::-1] for batch in pixels))
    return _score(plain, labels)[0], _score(mirrored, labels)[0]


def _spans(num: int) -> Iterator[range]:
    return (range(start, min(start + PREDICTED_AT_ONCE, num)) for start in range(0, num, PREDICTED_AT_ONCE))


def _run(network: keras.Model, batches: Iterator[NDArray[np.uint8] | Pixels]) -> Array:
    """Run batches; the last one is filled up, because another shape is another compilation."""
    rows = []
    for batch in batches:
        filled = np.zeros((PREDICTED_AT_ONCE, *batch.shape[1:]), np.float32)
        filled[: len(batch)] = batch
        rows.append(np.asarray(network.predict_on_batch(filled))[: len(batch)])
    scores: Array = np.concatenate(rows)
    return scores


def _score(scores: Array, labels: NDArray[np.intp]) -> tuple[float, float]:
    """Return accuracy and log loss (nats)."""
    likely = log_softmax(scores, axis=1)[np.arange(len(labels)), labels]
    return float((scores.argmax(axis=1) == labels).mean()), float(-likely.mean())
