"""Seconds from features to a decision and a head, and what 50,000 pictures take."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.backbones.table import get_backbone
from pipeline.heads.classes import ClassLabels
from pipeline.heads.fit import fit_head
from pipeline.heads.ridge import fit_ridge
from tests.benchmarks.table import row

NUM_CLASSES = 10


def a_task(num_rows: int, dim: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Overlapping classes with a spectrum that falls off like that of a network's features, float32."""
    classes, random = np.random.default_rng(0), np.random.default_rng(seed)
    labels = np.arange(num_rows) % NUM_CLASSES
    scales = (1 + np.arange(dim, dtype=np.float32)) ** -0.5
    centres = classes.standard_normal((NUM_CLASSES, dim), dtype=np.float32)
    features = random.standard_normal((num_rows, dim), dtype=np.float32)
    features += centres[labels]
    features *= scales
    return features, labels


def measure(folder: Path) -> list[dict[str, Any]]:
    """Fit heads as the train step does, without TensorFlow; figures are the wall clock's."""
    taps = get_backbone("efficientnet_lite0").taps
    features = {tap.name: a_task(2000, tap.dim, seed)[0] for seed, tap in enumerate(taps)}
    truth = ClassLabels(a_task(2000, 1)[1], NUM_CLASSES)
    seconds, cpu = _seconds(lambda: fit_head(features, taps, truth))
    rows = [row("head: 2,000 pictures, 8 taps, s", seconds, "< 10", cpu_seconds=cpu)]
    many, labels = a_task(50_000, 2000)
    truth = ClassLabels(labels, NUM_CLASSES)
    before = _most_gib()
    seconds, cpu = _seconds(lambda: fit_ridge(many, "grid", truth.targets, truth.counted))
    what = "head: 50,000 x 2,000: path, exact leave-one-out, LogME, s"
    rows.append(row(what, seconds, "< 60", cpu_seconds=cpu))
    rows.append(row("the same: memory beside the features, GiB", _most_gib() - before, "< 2"))
    return rows


def _seconds(work: Callable[[], object]) -> tuple[float, float]:
    """Return the wall clock's seconds and the processors', which other processes do not change much."""
    started, before = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - started, time.process_time() - before


def _most_gib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
