"""Frozen forward passes on a GPU in Keras.

Heavy leaf: importing it loads TensorFlow.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Any

import numpy as np

from pipeline.backbones.networks import load_backbone, tap_outputs
from pipeline.engine.extract import FeatureEngine, Rows, Tag
from pipeline.images.ahead import work_ahead
from pipeline.quiet_keras import keras, tf
from pipeline.types import Array, BackboneSpec, Pixels

BATCH = 64  # rows of every pass
NUM_FEEDERS = 2  # threads: one batch is copied to the device, another one's outputs back, while a third computes
NUM_AHEAD = 3  # batches on their way; their memory on the device is bounded by it


class KerasEngine(FeatureEngine):
    """A network of Keras from (batch, size, size, 3) pixels to named float32 outputs, on the best device there is.

    Building one switches TF32 off in the whole process: its 10 bits of mantissa would give features that the canary
    refuses.
    """

    def __init__(self, network: keras.Model, batch: int) -> None:
        tf.config.experimental.enable_tensor_float_32_execution(False)
        self.batch = batch
        self.dims = {name: int(output.shape[-1]) for name, output in network.output.items()}
        self._compute = tf.function(
            lambda pixels: network(pixels, training=False),
            input_signature=[tf.TensorSpec((batch, *network.input.shape[1:]), tf.float32)],
            autograph=False,
        )

    def stream(self, batches: Iterable[tuple[Tag, Rows]]) -> Iterator[tuple[Tag, Mapping[str, Array]]]:
        return work_ahead(batches, self._run_batch, NUM_FEEDERS, NUM_AHEAD)

    def _run_batch(self, tagged: tuple[Tag, Rows]) -> tuple[Tag, Mapping[str, Array]]:
        tag, pixels = tagged
        outputs: Mapping[str, Any] = self._compute(tf.constant(_filled(pixels, self.batch)))
        return tag, {name: outputs[name].numpy()[: len(pixels)] for name in self.dims}


@cache  # the parts of one pass, and its views, share it
def load_keras_engine(spec: BackboneSpec, batch: int = BATCH) -> KerasEngine:
    """Load a backbone and read all its taps."""
    backbone = load_backbone(spec)
    return KerasEngine(keras.Model(backbone.input, tap_outputs(backbone, spec.taps)), batch)


def _filled(rows: Rows, batch: int) -> Pixels:
    """Repeat the last row until there are `batch` of them."""
    return np.stack([rows[min(place, len(rows) - 1)] for place in range(batch)])


def sees_gpu() -> bool:
    """Tell whether TensorFlow found a GPU: a machine can have one without the CUDA libraries that it needs."""
    return bool(tf.config.list_physical_devices("GPU"))
