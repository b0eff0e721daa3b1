"""A head from the feature store against the practice it replaces: the frozen backbone inside the training loop."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from flows.requests import OnboardRequest
from flows.stopwatch import timed
from pipeline.backbones.networks import load_backbone
from pipeline.backbones.table import get_backbone
from pipeline.quiet_keras import keras
from storage.workspace import Workspace
from tests import factories
from tests.benchmarks.photos import write_photos
from tests.benchmarks.table import compare

NUM_IMAGES = 1000
EPOCHS = 20
EPOCHS_RUN = 3  # of the practice; the last is timed, and every epoch does the same work


def measure(scratch: Path) -> list[dict[str, Any]]:
    photos = write_photos(scratch / "photos1000", NUM_IMAGES)
    compiled = scratch / "training-compiled"
    factories.onboard(OnboardRequest(str(photos), str(compiled)))  # the network is compiled, as the practice's is built

    cold_root = scratch / "training-cold"
    Workspace.open(cold_root)
    (cold_root / "engines").symlink_to(compiled / "engines")
    request = OnboardRequest(str(photos), str(cold_root))
    with timed():
        started = time.perf_counter()
        document = factories.onboard(request)
        cold = time.perf_counter() - started
    seconds = {
        "practice": practice_epoch(photos) * EPOCHS,
        "cold": cold,
        "warm": document["seconds"]["train"],  # reading the features and fitting the head, all taps considered
    }
    return [
        compare(
            f"{EPOCHS} epochs with the frozen backbone inside / onboarding from nothing",
            "practice",
            "cold",
            seconds,
            ">= 15",
        ),
        compare(
            f"{EPOCHS} epochs with the frozen backbone inside / head from stored features",
            "practice",
            "warm",
            seconds,
            ">= 200",
        ),
    ]


def practice_epoch(folder: Path) -> float:
    """Return the seconds of one epoch of a dense layer on the frozen backbone, as the Keras guides show it."""
    spec = get_backbone("efficientnet_lite0")
    dataset = keras.utils.image_dataset_from_directory(
        folder, image_size=(spec.recipe.size,) * 2, crop_to_aspect_ratio=True, batch_size=32, verbose=False
    )
    backbone = load_backbone(spec)
    pixels = keras.Input((spec.recipe.size, spec.recipe.size, 3))
    features = keras.layers.GlobalAveragePooling2D()(backbone(pixels, training=False))
    model = keras.Model(pixels, keras.layers.Dense(2, activation="softmax")(features))
    model.compile(optimizer="adam", loss="sparse_categorical_crossentropy")
    for _ in range(EPOCHS_RUN):
        started = time.perf_counter()
        model.fit(dataset, epochs=1, verbose=0)
        last = time.perf_counter() - started
    return last
