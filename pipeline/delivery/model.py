"""The one file that is delivered, made of backbone and head, and the proof that it equals the cached path.

Heavy leaf: importing it loads TensorFlow.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.backbones.networks import load_backbone, tap_outputs
from pipeline.errors import DamagedError, ImageError, NumericsError
from pipeline.images.ahead import ReadImage
from pipeline.images.decode import decode
from pipeline.quiet_keras import keras
from pipeline.types import Activation, Array, BackboneSpec, Certificate, Head, HeadTap, Image, Recipe

layers, ops = keras.layers, keras.ops

PIXELS = "pixels"  # the layer of a delivered model that holds what the recipe makes of a picture
PROBABILITY_TOLERANCE = 1e-3  # float16 features cost up to 3e-4, Keras against OpenVINO 1e-5


def build_model(spec: BackboneSpec, head: Head) -> keras.Model:
    """Build the model of a head on a frozen backbone; see `frame` for what goes in and comes out."""
    return frame(build_classifier(load_backbone(spec), spec, head), spec.recipe, head.activation)


def build_classifier(backbone: keras.Model, spec: BackboneSpec, head: Head, *, floor: float = 0.0) -> keras.Model:
    """Put a head on a backbone: from (batch, size, size, 3) pixels 0-255 to (batch, classes) scores.

    Parameters
    ----------
    floor
        Averages below it count as it in the square root, whose slope at 0 is infinite; 0 if nothing is trained.
    """
    pixels = keras.Input(backbone.input.shape[1:], name="prepared")
    used = tuple(tap for tap in spec.taps if tap.name in {part.tap for part in head.taps})
    features = keras.Model(backbone.input, tap_outputs(backbone, used), name=spec.name)(pixels)
    share = head.temperature / len(head.taps)  # the mean over taps and the temperature, folded into the weights
    scores = [_scores(features[part.tap], part, share, floor) for part in head.taps]
    total = layers.Add(name="scores")(scores) if len(scores) > 1 else scores[0]
    return keras.Model(pixels, total, name="classifier")


def frame(classifier: keras.Model, recipe: Recipe, activation: Activation = "softmax") -> keras.Model:
    """Build the model from (batch, height, width, 3) decoded RGB pictures, 0-255, to (batch, classes) probabilities.

    Cropping, resizing, scaling and classifier are inside, in layers that plain Keras loads. Pictures of one batch
    share their size; any size will do.
    """
    pictures = keras.Input((None, None, 3), name="pictures")
    resizing = layers.Resizing(
        recipe.size,
        recipe.size,
        interpolation="bicubic",
        crop_to_aspect_ratio=True,
        antialias=True,
        name="resized",
    )
    pixels = ops.clip(resizing(pictures), 0.0, 255.0)
    scores = classifier(layers.Identity(name=PIXELS)(pixels))
    return keras.Model(pictures, layers.Activation(activation, name="probabilities")(scores), name="headstart")


def read_model(path: Path) -> keras.Model:
    """Load a delivered model; code hidden in the file is not run.

    Raises
    ------
    DamagedError
        When the file is no delivered model.
    """
    try:
        model = keras.models.load_model(path, compile=False, safe_mode=True)
        model.get_layer(PIXELS)
    except (ValueError, OSError, KeyError, TypeError) as error:
        raise DamagedError(f"{path} is no model that headstart can run: {error}") from error
    return model


def pixels_to_probabilities(model: keras.Model) -> keras.Model:
    """Return the part of a delivered model behind the recipe, from (batch, size, size, 3) pixels."""
    return keras.Model(model.get_layer(PIXELS).output, model.output, name="pixels_to_probabilities")


def certify(
    path: Path,
    images: Sequence[Image],
    read: ReadImage,
    recipe: Recipe,
    probabilities: Array,
    rows: Sequence[int],
    thresholds: Sequence[float] = (),
) -> Certificate:
    """Load a delivered model from its file and compare it with the cached path on real pictures.

    Parameters
    ----------
    images
        The pictures; one whose file is gone by now is skipped.
    recipe
        How they are decoded; what comes after that is inside the model.
    probabilities
        (n, classes) that the head gives on stored features.
    rows
        Which of them belongs to each image.
    thresholds
        Of the labels, if they do not exclude each other.

    Raises
    ------
    NumericsError
        When a probability differs by more than PROBABILITY_TOLERANCE, or no picture could be read.
    """
    model = read_model(path)
    # in two steps, because cropping and resizing take pictures of any size one by one, and the network batches
    prepared = keras.Model(model.input, model.get_layer(PIXELS).output)
    pixels, expected = [], []
    for image, row in zip(images, rows, strict=True):
        with suppress(OSError, ImageError):
            picture = np.asarray(decode(read(image), recipe), np.float32)
            pixels.append(np.asarray(prepared(picture[None])))
            expected.append(probabilities[row])
    if not pixels:
        raise NumericsError(f"None of {len(images)} pictures could be read to prove the model; run again.")
    found = np.asarray(pixels_to_probabilities(model)(np.concatenate(pixels), training=False))
    wanted = np.stack(expected)
    difference = float(np.abs(found - wanted).max())
    if not difference <= PROBABILITY_TOLERANCE:
        raise NumericsError(
            f"The model file differs from the cached path by {difference:.1e} in probability on {len(pixels)} "
            f"pictures, wanted at most {PROBABILITY_TOLERANCE:.0e}; it was not saved. Install the versions in "
            "constraints.txt and run again."
        )
    if thresholds:  # every label of a picture
        agree = ((found >= thresholds) == (wanted >= thresholds)).all(axis=1)
    else:
        agree = found.argmax(axis=1) == wanted.argmax(axis=1)
    return Certificate(len(pixels), difference, float(agree.mean()), PROBABILITY_TOLERANCE, passed=True)


def _scores(features: Any, part: HeadTap, share: float, floor: float) -> Any:
    if part.kind == "gap":
        size = ops.absolute(features)
        features = ops.sign(features) * ops.sqrt(ops.maximum(size, floor) if floor else size)
    normalised = layers.UnitNormalization(axis=-1, name=f"{part.tap}_normalised")(features)
    dense = layers.Dense(part.weight.shape[1], name=f"{part.tap}_scores")
    scores = dense(normalised)
    dense.set_weights([part.weight * share, part.bias * share])
    return scores
