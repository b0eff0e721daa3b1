"""Fine-tuning against model.fit on arrays in memory, augmented by Keras layers: the same network and batch."""

from __future__ import annotations

import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.backbones.table import get_backbone
from pipeline.decision.schedule import Schedule, plan_finetuning
from pipeline.finetuning.batches import Batches
from pipeline.finetuning.checkpoint import Keeper
from pipeline.finetuning.networks import build_finetuned
from pipeline.finetuning.scoring import Validation, score
from pipeline.finetuning.train import train
from pipeline.quiet_keras import keras
from tests.benchmarks.photos import photo_arrays
from tests.benchmarks.table import ROUNDS, compare
from tests.factories import a_head

NUM_IMAGES = 640
SIZE = 96
NUM_CLASSES = 3

layers = keras.layers

NOWHERE = Keeper(lambda: None, lambda checkpoint: None, lambda: False)  # none is due within an epoch


def measure(scratch: Path) -> list[dict[str, Any]]:
    """Time the second epoch each way, in turn: the first one compiles."""
    spec = get_backbone("efficientnet_lite0")
    spec = replace(spec, recipe=replace(spec.recipe, size=SIZE), moments=None)
    schedule = replace(plan_finetuning(NUM_IMAGES, epochs=2), batch_size=32)
    pixels = photo_arrays(NUM_IMAGES, SIZE)
    labels = np.arange(NUM_IMAGES) % NUM_CLASSES

    def build() -> keras.Model:
        return build_finetuned(spec, a_head([spec.taps[-1]], NUM_CLASSES), schedule)

    ways = {"plain": plain_epoch, "ours": our_epoch}
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            times[name].append(way(build(), pixels, labels, schedule))
    seconds = {name: statistics.median(values) for name, values in times.items()}
    what = f"fine-tuning on {NUM_IMAGES} pictures of {SIZE} px: model.fit on arrays / headstart"
    return [compare(what, "plain", "ours", seconds, ">= 1.0")]


def our_epoch(network: keras.Model, pixels: Any, labels: Any, schedule: Schedule) -> float:
    """Return the seconds of an epoch, without validation."""
    batches, validation = Batches(pixels, labels, NUM_CLASSES, schedule), Validation(pixels[:1], labels[:1])
    curve = train(network, batches, validation, schedule, NOWHERE)
    started = time.perf_counter()
    score(network, validation)
    return curve[2].seconds - curve[1].seconds - (time.perf_counter() - started)


def plain_epoch(network: keras.Model, pixels: Any, labels: Any, schedule: Schedule) -> float:
    """Return the seconds of an epoch as the Keras guides show it: augmentation in layers, arrays in memory."""
    ranges = schedule.augmentation
    model = keras.Sequential(
        [
            keras.Input(pixels.shape[1:]),
            layers.RandomFlip("horizontal"),
            layers.RandomRotation(ranges.turn / 360, fill_mode="nearest"),
            layers.RandomTranslation(ranges.shift, ranges.shift, fill_mode="nearest"),
            layers.RandomZoom(ranges.scale - 1, fill_mode="nearest"),
            layers.RandomBrightness(ranges.colour),
            layers.RandomContrast(ranges.colour),
            network,
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=keras.optimizers.AdamW(schedule.learning_rate), loss=loss)
    array = pixels.astype(np.float32)
    for _ in range(2):
        started = time.perf_counter()
        model.fit(array, labels, batch_size=schedule.batch_size, epochs=1, verbose=0)
        last = time.perf_counter() - started
    return last
