"""What storing features in float16 costs in accuracy: the same features, rounded or not, under the same head.

`python -m tests.benchmarks.float16 DIR...`, each DIR with a train and a test folder of class folders.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np

from pipeline.backbones.table import get_backbone
from pipeline.engine.conversion import convert_backbone
from pipeline.engine.extract import extract_features
from pipeline.engine.files import TAPS_FILE
from pipeline.engine.openvino_engine import Engine
from pipeline.fingerprint import digest
from pipeline.heads.classes import ClassLabels
from pipeline.heads.fit import fit_head, head_probabilities
from pipeline.types import Image

SPEC = get_backbone("efficientnet_lite0")


def features_of(folder: Path, classes: list[str], engine: Engine):
    """Extract the features and labels of a folder of class folders."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    images = {
        digest(path.read_bytes()): Image(
            digest(path.read_bytes()), str(path), (classes.index(path.relative_to(folder).parts[0]),), "train"
        )
        for path in paths
    }
    blocks = list(extract_features(images.values(), lambda image: Path(image.path).read_bytes(), SPEC.recipe, engine))
    taps = {tap.name: np.concatenate([block.taps[tap.name] for block in blocks]) for tap in SPEC.taps}
    return taps, np.array([images[key].label for block in blocks for key in block.digests])


def main(folders: list[str]) -> None:
    """Print a row per dataset: test accuracy of both, how many predictions differ, the largest probability change."""
    with tempfile.TemporaryDirectory() as scratch:
        convert_backbone(SPEC, Path(scratch))
        engine = Engine.load(Path(scratch) / TAPS_FILE)
    print(f"{'dataset':<24} {'train':>6} {'test':>6} {'float32':>8} {'float16':>8} {'differ':>7} {'probability':>12}")
    for folder in map(Path, folders):
        classes = sorted(path.name for path in (folder / "train").iterdir())
        train, train_labels = features_of(folder / "train", classes, engine)
        test, test_labels = features_of(folder / "test", classes, engine)
        probabilities = []
        for dtype in (np.float32, np.float16):
            stored = {name: rows.astype(dtype) for name, rows in train.items()}
            head = fit_head(stored, SPEC.taps, ClassLabels(train_labels, len(classes)))
            probabilities.append(head_probabilities(head, {name: rows.astype(dtype) for name, rows in test.items()}))
        found = [rows.argmax(axis=1) for rows in probabilities]
        accuracy = [(rows == test_labels).mean() for rows in found]
        change = np.abs(probabilities[0] - probabilities[1]).max()
        print(
            f"{folder.name:<24} {len(train_labels):6} {len(test_labels):6} {accuracy[0]:8.4f} {accuracy[1]:8.4f} "
            f"{(found[0] != found[1]).sum():7} {change:12.1e}",
            flush=True,
        )


if __name__ == "__main__":
    main(sys.argv[1:])
