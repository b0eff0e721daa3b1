"""The devices that networks are trained on: all GPUs of a host, in the precision that suits them.

Heavy leaf: importing it loads TensorFlow.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext

from pipeline.quiet_keras import keras, tf


@contextmanager
def precision(policy: str) -> Iterator[None]:
    """Build networks with a Keras dtype policy in this block."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def best_precision() -> str:
    """Name the dtype policy that trains fastest here without losing accuracy: bfloat16 on GPUs that have it."""
    capable = [
        tf.config.experimental.get_device_details(device).get("compute_capability", (0, 0)) >= (8, 0)
        for device in tf.config.list_physical_devices("GPU")
    ]
    return "mixed_bfloat16" if capable and all(capable) else "float32"


@contextmanager
def all_gpus(devices: Sequence[str] | None = None) -> Iterator[None]:
    """Build networks in this block that train on every GPU of the host, each on its share of every batch.

    Parameters
    ----------
    devices
        By default all GPUs.
    """
    found = [device.name for device in tf.config.list_logical_devices("GPU")] if devices is None else list(devices)
    with tf.distribute.MirroredStrategy(found).scope() if len(found) > 1 else nullcontext():
        yield


def num_replicas(network: keras.Model) -> int:
    """Count the devices among which TensorFlow divides the batches of a network."""
    strategy = getattr(network, "distribute_strategy", None)
    return int(strategy.num_replicas_in_sync) if strategy else 1
