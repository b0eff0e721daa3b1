"""Networks that are fine-tuned: a pretrained backbone and a trained head, from pixels to scores.

Heavy leaf: importing it loads TensorFlow.
"""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.backbones.networks import build_backbone
from pipeline.decision.schedule import Schedule
from pipeline.delivery.model import build_classifier
from pipeline.quiet_keras import keras
from pipeline.types import BackboneSpec, Head

layers = keras.layers

GRADIENT_FLOOR = 1e-4  # of averages under a square root


class FrozenNorm(keras.layers.BatchNormalization):  # type: ignore[misc]  # Keras has no types
    """BatchNorm that uses its stored statistics, in training too; its scale and offset learn.

    Calling a backbone with `training=False` is not enough: Keras overrules that with what the whole is called with.
    """

    def call(self, inputs: keras.KerasTensor, training: bool | None = None, mask: object = None) -> keras.KerasTensor:
        return super().call(inputs, training=False, mask=mask)


def build_finetuned(spec: BackboneSpec, head: Head, schedule: Schedule) -> keras.Model:
    """Build backbone and trained head with all weights trainable, from pixels to (batch, classes) float32 scores."""
    backbone = build_backbone(spec)
    backbone.trainable = True  # before it is copied: a copy of a frozen layer cannot be thawed
    if schedule.frozen_statistics and any(isinstance(one, layers.BatchNormalization) for one in iter_layers(backbone)):
        backbone = _with_frozen_norms(backbone)
    return in_float32(build_classifier(backbone, spec, head, floor=GRADIENT_FLOOR))


def build_deliverable(spec: BackboneSpec, head: Head) -> keras.Model:
    """Build the same network from plain layers, to take the weights after training."""
    return build_classifier(build_backbone(spec), spec, head, floor=GRADIENT_FLOOR)


def in_float32(network: keras.Model) -> keras.Model:
    """Make a network of another precision give its scores in float32."""
    if network.output.dtype == "float32":
        return network
    return keras.Model(network.input, layers.Activation("linear", dtype="float32", name="float32")(network.output))


def iter_layers(network: keras.Model) -> Iterator[keras.Layer]:
    """Iterate over the layers of a network, and over those of the networks in it."""
    for layer in network.layers:
        if isinstance(layer, keras.Model):
            yield from iter_layers(layer)
        else:
            yield layer


def variable_stages(network: keras.Model) -> list[int]:
    """Return the stage of each trainable variable, counted from the head: 0 is everything after the last map.

    A stage ends where the maps of the network halve.
    """
    sides = {}
    for layer in iter_layers(network):
        shape: tuple[int | None, ...] = layer.output.shape if isinstance(layer.output, keras.KerasTensor) else ()
        for variable in layer.trainable_variables:
            sides[id(variable)] = (shape[1] or 0) if len(shape) == 4 else 0
    levels = sorted({0, *sides.values()})
    return [levels.index(sides[id(variable)]) for variable in network.trainable_variables]


def _with_frozen_norms(backbone: keras.Model) -> keras.Model:
    def copied(layer: keras.Layer) -> keras.Layer:
        kind = FrozenNorm if type(layer) is layers.BatchNormalization else type(layer)
        return kind.from_config(layer.get_config())

    frozen = keras.models.clone_model(backbone, clone_function=copied)
    frozen.set_weights(backbone.get_weights())
    return frozen
