"""Measure headstart against the practice it replaces: `make bench`.

Every row is a ratio of medians from runs side by side, interleaved in one process, because absolute seconds
on a shared machine mean little. The pictures are crops of the two photographs that scikit-learn ships, 500 x
375 JPEG. The table goes to stdout and, as JSON, to bench.json.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image as Pillow
from sklearn.datasets import load_sample_images

from flows import forward, steps
from pipeline.backbones import get_backbone
from pipeline.decoding import decode_images
from pipeline.engine import BATCH, Engine
from pipeline.engine_files import TAPS_FILE
from pipeline.fingerprint import digest
from pipeline.networks import load_backbone, tap_outputs
from pipeline.quiet_keras import keras
from pipeline.quiet_openvino import ov
from pipeline.types import Image
from storage.workspace import Workspace

NUM_IMAGES = 600
ROUNDS = 3
WIDTH, HEIGHT = 500, 375

SPEC = get_backbone("efficientnet_lite0")


def write_photos(folder: Path) -> None:
    """Write NUM_IMAGES distinct crops in two classes."""
    rng = np.random.default_rng(0)
    for label, photo in zip(("china", "flower"), load_sample_images().images, strict=True):
        (folder / label).mkdir(parents=True)
        picture = Pillow.fromarray(photo)
        for number in range(NUM_IMAGES // 2):
            left = int(rng.integers(0, picture.width - WIDTH))
            top = int(rng.integers(0, picture.height - HEIGHT))
            crop = picture.crop((left, top, left + WIDTH, top + HEIGHT))
            crop.save(folder / label / f"{number:03d}.jpg", quality=85)


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


def headstart_extract(folder: Path, root: Path) -> None:
    """Ours, to a committed shard: the network is compiled already, as the plain way's is built."""
    dataset = steps.scan(steps.Request(str(folder), str(root)))
    steps.extract(str(root), dataset, SPEC.name)


def interleaved(ways: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Run every way ROUNDS times, in turn, and return the median seconds of each."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in seconds.items()}


def engine_with(names: set[str], folder: Path) -> Engine:
    """Compile the backbone's network for some of its taps only."""
    network = ov.Core().read_model(folder / TAPS_FILE)
    kept = [result for result in network.get_results() if result.get_output_tensor(0).get_any_name() in names]
    return Engine(ov.Model(kept, network.get_parameters()))


def measure(folder: Path) -> list[dict[str, object]]:
    scratch = Path(tempfile.mkdtemp(dir=folder))
    photos = folder / "photos"
    write_photos(photos)
    files = sorted(photos.rglob("*.jpg"))
    images = [Image(digest(path.read_bytes()), str(path), 0, "train") for path in files]

    def read(image: Image) -> bytes:
        return Path(image.path).read_bytes()

    compiled = scratch / "compiled"
    steps.onboard(steps.Request(str(photos), str(compiled)))  # compiles the network once
    engine_folder = forward.backbone_engine(Workspace.open(compiled), SPEC)
    numbers = iter(range(10_000))

    def fresh_workspace() -> Path:
        root = scratch / str(next(numbers))
        Workspace.open(root)
        (root / "engines").symlink_to(compiled / "engines")
        return root

    pixels = np.stack([item.pixels for item in decode_images(images, read, SPEC.recipe)])
    all_taps = engine_with({tap.name for tap in SPEC.taps}, engine_folder)
    top_only = engine_with({"top"}, engine_folder)
    command = [sys.executable, "-m", "flows.cli", "onboard", str(photos), "--json", "--workspace"]

    def onboard(root: Path) -> None:
        subprocess.run([*command, str(root)], check=True, capture_output=True)

    rows: list[dict[str, object]] = []

    def compare(what: str, ours: str, theirs: str, seconds: dict[str, float], bar: str) -> None:
        ratio = seconds[theirs] / seconds[ours]
        rows.append({"what": what, "ratio": round(ratio, 2), "bar": bar, "seconds": seconds})
        print(f"{what:<62} {ratio:8.2f}  {bar}", flush=True)

    compare(
        f"extraction to HDF5, all taps, {NUM_IMAGES} photos: plain Keras / headstart",
        "headstart",
        "plain",
        interleaved(
            {
                "plain": lambda: plain_keras(photos, scratch / f"{next(numbers)}.h5"),
                "headstart": lambda: headstart_extract(photos, fresh_workspace()),
            }
        ),
        ">= 2.0",
    )
    alone = interleaved(
        {
            "decode": lambda: list(decode_images(images, read, SPEC.recipe)),
            "infer": lambda: all_taps.run(pixels),
            "both": lambda: headstart_extract(photos, fresh_workspace()),
        }
    )
    alone["limit"] = alone["decode"] + alone["infer"]
    compare("overlap: decode-only + inference-only seconds / extraction", "both", "limit", alone, ">= 0.9")
    compare(
        "inference: top tap alone / all taps",
        "all",
        "top",
        interleaved({"top": lambda: top_only.run(pixels), "all": lambda: all_taps.run(pixels)}),
        ">= 0.91",
    )
    compare(
        "whole command: first onboard / second onboard",
        "second",
        "first",
        interleaved({"first": lambda: onboard(scratch / f"w{next(numbers)}"), "second": lambda: onboard(compiled)}),
        "",
    )
    return rows


def main() -> None:
    print(f"{'':<62} {'ratio':>8}  bar   (batch {BATCH}, {ROUNDS} rounds, medians)")
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(Path(folder))
    Path("bench.json").write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
