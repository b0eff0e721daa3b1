"""Pictures to features on disk: against plain Keras, against the limit of the machine, and the price of taps."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from flows.features import extraction
from flows.features.backbone import backbone_files
from flows.requests import OnboardRequest
from pipeline.backbones.networks import load_backbone, tap_outputs
from pipeline.backbones.table import get_backbone
from pipeline.engine.files import TAPS_FILE
from pipeline.engine.openvino_engine import Engine
from pipeline.fingerprint import digest
from pipeline.images.ahead import decode_images
from pipeline.quiet_keras import keras
from pipeline.quiet_openvino import ov
from pipeline.types import Image
from storage.workspace import Workspace
from tests import factories
from tests.benchmarks.photos import write_photos
from tests.benchmarks.table import compare, interleaved

NUM_IMAGES = 1000
SPEC = get_backbone("efficientnet_lite0")


def measure(scratch: Path) -> list[dict[str, Any]]:
    photos = write_photos(scratch / "photos1000", NUM_IMAGES)
    images = [Image(digest(path.read_bytes()), str(path), (0,), "train") for path in sorted(photos.rglob("*.jpg"))]
    compiled = Workspace.open(scratch / "extraction-compiled")
    network = backbone_files(compiled, SPEC) / TAPS_FILE
    numbers = count()

    def read(image: Image) -> bytes:
        return Path(image.path).read_bytes()

    def headstart() -> None:
        """Scan, extract and commit; the network is compiled already, as the plain way's is built."""
        root = scratch / f"extraction-{next(numbers)}"
        Workspace.open(root)
        (root / "engines").symlink_to(compiled.root / "engines")
        dataset = factories.scan(OnboardRequest(str(photos), str(root)))
        assert extraction.extract(Workspace.open(root), dataset, SPEC).num_computed == NUM_IMAGES

    rows = [
        compare(
            f"{NUM_IMAGES} photos to HDF5, all taps: plain Keras / headstart",
            "plain",
            "headstart",
            interleaved(
                {
                    "plain": lambda: plain_keras(photos, scratch / f"plain-{next(numbers)}.h5"),
                    "headstart": headstart,
                }
            ),
            ">= 2.0",
        )
    ]
    pixels = np.stack([item.pixels for item in decode_images(images, read, SPEC.recipe)])
    all_taps, top_only = Engine.load(network), engine_with({"top"}, network)
    alone = interleaved(
        {
            "decode": lambda: sum(item.pixels is not None for item in decode_images(images, read, SPEC.recipe)),
            "infer": lambda: all_taps.run(pixels),
            "both": headstart,
        }
    )
    alone["limit"] = alone["decode"] + alone["infer"]
    rows.append(compare("decode-only + inference-only seconds / extraction", "limit", "both", alone, ">= 0.9"))
    taps = interleaved({"top": lambda: top_only.run(pixels), "all": lambda: all_taps.run(pixels)})
    rows.append(compare("inference of all taps / of the top tap alone", "all", "top", taps, "<= 1.10"))
    return rows


def plain_keras(folder: Path, out: Path) -> None:
    """The practice: image_dataset_from_directory, model.predict with the same outputs, h5py."""
    import h5py

    backbone = load_backbone(SPEC)
    model = keras.Model(backbone.input, tap_outputs(backbone, SPEC.taps))
    dataset = keras.utils.image_dataset_from_directory(
        folder, image_size=(SPEC.recipe.size,) * 2, crop_to_aspect_ratio=True, shuffle=False, verbose=False
    )
    features = model.predict(dataset, verbose=0)
    with h5py.File(out, "w") as file:
        for name, values in features.items():
            file[name] = values


def engine_with(names: set[str], network: Path) -> Engine:
    """Compile the part of a network that computes some of its taps."""
    whole = ov.Core().read_model(network)
    kept = [result for result in whole.get_results() if result.get_output_tensor(0).get_any_name() in names]
    return Engine(ov.Model(kept, whole.get_parameters()))
