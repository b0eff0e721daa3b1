"""How well taps are chosen: `python -m tests.benchmarks.taps WORKSPACE NAME...` prints the regret of the head.

WORKSPACE holds the features of every NAME, a dataset with a train and a test split (`headstart extract`). A cell is a
dataset cut to some training pictures by a seed; regret is the test accuracy of the tap that is best in hindsight on
these very test pictures less that of the head, in points: it flatters hindsight.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

from flows.features.extraction import read_taps
from pipeline.backbones.table import get_backbone
from pipeline.evaluation.classes import evaluate
from pipeline.heads.classes import ClassLabels
from pipeline.heads.fit import fit_head, head_probabilities
from pipeline.heads.ridge import fit_ridge, transform
from pipeline.images.views import ORIGINAL
from pipeline.types import Metrics, Tap
from storage.datasets.manifests import read_manifest
from storage.features.writer import FeatureWriter
from storage.workspace import Workspace

SEEDS = 4
FEW_A_CLASS = (1, 2, 5)
MANY_CLASSES = 50  # from which on so few a class are asked for


class Split(NamedTuple):
    features: Mapping[str, np.ndarray]
    labels: np.ndarray


class Row(NamedTuple):
    size: str
    regret: float  # points
    metrics: Metrics
    kind: str


def read(workspace: Workspace, name: str, backbone: str) -> tuple[Split, Split, tuple[str, ...]]:
    """Read all taps of a dataset's train and test split."""
    spec, manifest = get_backbone(backbone), read_manifest(workspace, name)
    store = FeatureWriter(workspace, spec.space())
    left_out = set(store.rejects([image.digest for image in manifest.images]))
    splits = []
    for split in ("train", "test"):
        images = [image for image in manifest.of_split(split) if image.digest not in left_out]
        stored = read_taps(workspace, spec, (ORIGINAL,), images, [tap.name for tap in spec.taps])
        splits.append(Split(dict(stored), np.array([image.label for image in images])))
    return splits[0], splits[1], manifest.classes


def cuts(labels: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Yield what a cell is called and its training rows."""
    counts = np.bincount(labels)

    def chosen(wanted: Callable[[int], int], seed: int) -> np.ndarray:
        random = np.random.default_rng(seed)
        rows = [random.permutation(np.flatnonzero(labels == one))[: wanted(counts[one])] for one in np.unique(labels)]
        return np.sort(np.concatenate(rows))

    yield "all", np.arange(len(labels))
    for seed in range(SEEDS):
        for num in (300, 100):
            share = min(1, num / len(labels))
            yield str(num), chosen(lambda count, share=share: max(1, round(share * count)), seed)
        if (counts > 0).sum() >= MANY_CLASSES:
            for few in FEW_A_CLASS:
                yield f"{few} a class", chosen(lambda count, few=few: few, seed)


def run(train: Split, test: Split, classes: tuple[str, ...], taps: tuple[Tap, ...]) -> Iterator[Row]:
    """Yield a row for every cell of a dataset."""
    for size, rows in cuts(train.labels):
        features = {name: values[rows] for name, values in train.features.items()}
        truth = ClassLabels(train.labels[rows], len(classes))
        head = fit_head(features, taps, truth)
        metrics = evaluate(test.labels, head_probabilities(head, test.features), classes)
        alone = []
        for tap in taps:
            fit = fit_ridge(features[tap.name], tap.kind, truth.targets, truth.counted)
            scores = transform(test.features[tap.name], tap.kind) @ fit.weight + fit.bias
            alone.append(float((scores.argmax(axis=1) == test.labels).mean()))
        yield Row(size, 100 * (max(alone) - metrics.accuracy), metrics, head.kind)


def main() -> None:
    parser = argparse.ArgumentParser(description="How well taps are chosen.")
    parser.add_argument("workspace")
    parser.add_argument("names", nargs="+", metavar="NAME")
    parser.add_argument("--backbone", default="efficientnet_lite0")
    arguments = parser.parse_args()
    workspace, taps = Workspace.open(arguments.workspace), get_backbone(arguments.backbone).taps
    print("| dataset | pictures | regret, mean | worst | accuracy | balanced | log loss | ECE | by chance | joined |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    by_size: dict[str, list[float]] = {}
    for name in arguments.names:
        train, test, classes = read(workspace, name, arguments.backbone)
        found: dict[str, list[Row]] = {}
        for one in run(train, test, classes, taps):
            found.setdefault(one.size, []).append(one)
        for size, rows in found.items():
            by_size.setdefault(size, []).extend(one.regret for one in rows)
            print(_line(name, size, rows), flush=True)
    print("\n| pictures | mean regret | worst cell |\n|---|---|---|")
    for size, regrets in by_size.items():
        print(f"| {size} | {np.mean(regrets):.2f} | {max(regrets):.1f} |")


def _line(name: str, size: str, rows: list[Row]) -> str:
    def mean(of: Callable[[Row], float]) -> float:
        return float(np.mean([of(one) for one in rows]))

    return (
        f"| {name} | {size} | {mean(lambda one: one.regret):.2f} | {max(one.regret for one in rows):.1f} | "
        f"{mean(lambda one: one.metrics.accuracy):.3f} | {mean(lambda one: one.metrics.balanced_accuracy):.3f} | "
        f"{mean(lambda one: one.metrics.log_loss):.3f} | {mean(lambda one: one.metrics.ece):.3f} | "
        f"{mean(lambda one: one.metrics.ece_by_chance[0]):.3f} | {mean(lambda one: one.kind == 'joined'):.0%} |"
    )


if __name__ == "__main__":
    main()
