"""The scores that a network gives to pictures, and how good they are.

Heavy leaf: importing it loads TensorFlow.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from pipeline.finetuning.batches import Bytes, Pictures, whole
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
    scores = _predict(network, (whole(*found) for found in decode_images(images, read, recipe)))
    probabilities: Array = softmax(scores, axis=1)
    return probabilities


def scale_scores(network: keras.Model, validation: Validation) -> float:
    """Scale a network's scores so that its probabilities are honest on validation pictures; returns the factor.

    Guo et al. 2017, arXiv:1706.04599: one number, and no picture changes its class.
    """
    scores = _predict_all(network, validation)
    found = minimize_scalar(
        lambda power: _score(np.exp(power) * scores, validation.labels)[1], bounds=(-3, 3), method="bounded"
    )
    factor = float(np.exp(found.x))
    for layer in network.layers:
        if isinstance(layer, keras.layers.Dense) and layer.name.endswith("scores"):
            layer.set_weights([weight * np.float32(factor) for weight in layer.get_weights()])
    return factor


def score(network: keras.Model, validation: Validation) -> tuple[float, float]:
    """Return a network's accuracy and log loss (nats)."""
    return _score(_predict_all(network, validation), validation.labels)


def measure_mirror(network: keras.Model, validation: Validation, num_pictures: int = 512) -> tuple[float, float]:
    """Return the accuracy on pictures as they are and on their mirror images, of at most this many, evenly spaced."""
    num = len(validation.labels)
    places = np.linspace(0, num - 1, min(num_pictures, num)).round().astype(int)
    labels = [validation.labels[place] for place in places]
    pictures = [validation.pictures[place] for place in places]
    plain, mirrored = _predict(network, pictures), _predict(network, (picture[:, ::-1] for picture in pictures))
    return _score(plain, labels)[0], _score(mirrored, labels)[0]


def _predict_all(network: keras.Model, validation: Validation) -> Array:
    pictures = validation.pictures
    return _predict(network, (pictures[place] for place in range(len(pictures))))


def _predict(network: keras.Model, pictures: Iterable[Bytes | Pixels]) -> Array:
    """Return the scores (n, classes) of pictures, each (size, size, 3).

    The last batch is filled up, because another shape is another compilation.
    """
    rows = []
    for batch in batched(pictures, PREDICTED_AT_ONCE):
        filled = np.zeros((PREDICTED_AT_ONCE, *batch[0].shape), np.float32)
        filled[: len(batch)] = batch
        rows.append(np.asarray(network.predict_on_batch(filled))[: len(batch)])
    scores: Array = np.concatenate(rows)
    return scores


def _score(scores: Array, labels: Sequence[int]) -> tuple[float, float]:
    """Return accuracy and log loss (nats)."""
    likely = log_softmax(scores, axis=1)[np.arange(len(labels)), labels]
    return float((scores.argmax(axis=1) == labels).mean()), float(-likely.mean())
