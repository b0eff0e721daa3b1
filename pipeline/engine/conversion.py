"""Conversion from Keras to OpenVINO, once per network; refused if the two do not agree.

Heavy leaf: importing it loads TensorFlow and OpenVINO.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.backbones.applications import norm_layers
from pipeline.backbones.networks import load_backbone, moment_output, tap_outputs
from pipeline.engine.canary import canary_pictures, relative_difference
from pipeline.engine.files import CLASSIFIER_FILE, MOMENTS_FILE, PROBABILITIES, STATISTICS_FILE, TAPS_FILE
from pipeline.engine.openvino_engine import DEFAULT_TUNING, Engine
from pipeline.errors import NumericsError
from pipeline.images.decode import decode, prepare
from pipeline.quiet_keras import keras, tf
from pipeline.quiet_openvino import ov
from pipeline.types import BackboneSpec, Recipe

TOLERANCE = 1e-4  # of an output's norm; measured with efficientnet_lite0: below 1e-6


def convert_backbone(spec: BackboneSpec, folder: Path) -> None:
    """Write the engine files of a backbone into `folder`: all taps, and BatchNorm moments with their statistics.

    Two networks, because reading BatchNorm inputs breaks the fusion of convolution and BatchNorm: the main
    pass would lose 45 % of its speed. They are traced and converted as one, which halves the cost. The second
    is written only for backbones that similarity is measured with.

    Raises
    ------
    NumericsError
        When OpenVINO's outputs differ from Keras's by more than `TOLERANCE`.
    """
    backbone = load_backbone(spec)
    outputs = tap_outputs(backbone, spec.taps)
    if spec.moments:
        outputs[spec.moments.name] = moment_output(backbone)
    network = _convert(keras.Model(backbone.input, outputs, name=spec.name), spec.recipe)
    _save(network, {tap.name for tap in spec.taps}, folder / TAPS_FILE)
    if spec.moments:
        _save(network, {spec.moments.name}, folder / MOMENTS_FILE)
        _write_statistics(backbone, folder / STATISTICS_FILE)


def convert_classifier(pixels_to_probabilities: keras.Model, recipe: Recipe, folder: Path) -> None:
    """Write the engine file of a delivered classifier into `folder`; same check as for a backbone."""
    named = keras.Model(pixels_to_probabilities.input, {PROBABILITIES: pixels_to_probabilities.output})
    _save(_convert(named, recipe), {PROBABILITIES}, folder / CLASSIFIER_FILE)


def _convert(network: keras.Model, recipe: Recipe) -> ov.Model:
    """Convert a Keras network with named outputs for batches of any size; compare the two on the built-in pictures."""
    call = tf.function(lambda pixels: network(pixels, training=False), autograph=False)
    shape = tf.TensorSpec((None, recipe.size, recipe.size, 3), tf.float32, name="pixels")
    traced = call.get_concrete_function(shape)
    converted = ov.convert_model(traced)
    probe = np.stack([prepare(decode(data, recipe), recipe) for data in canary_pictures()])
    wanted = {name: np.asarray(values) for name, values in traced(tf.constant(probe)).items()}
    found = Engine(converted, replace(DEFAULT_TUNING, batch=len(probe))).run(probe)
    for name, values in wanted.items():
        difference = relative_difference(found[name], values)
        if not difference <= TOLERANCE:
            raise NumericsError(
                f"OpenVINO computes '{name}' of {network.name} with a relative difference of {difference:.1e} "
                f"from Keras, wanted at most {TOLERANCE:.0e}. Check the openvino version against constraints.txt."
            )
    return converted


def _write_statistics(backbone: keras.Model, path: Path) -> None:
    arrays: dict[str, Any] = {}
    for index, layer in enumerate(norm_layers(backbone)):
        mean, variance = (np.asarray(weight) for weight in (layer.moving_mean, layer.moving_variance))
        arrays[f"{index:03d}.{layer.name}"] = np.stack([mean, variance, np.full_like(mean, layer.epsilon)])
    np.savez(path, **arrays)


def _save(network: ov.Model, names: set[str], path: Path) -> None:
    """Save the part of a network that computes these outputs."""
    part = network.clone()
    results = [result for result in part.get_results() if result.get_output_tensor(0).get_any_name() in names]
    part = ov.Model(results, part.get_parameters(), part.get_friendly_name())
    ov.save_model(part, path, compress_to_fp16=False)
