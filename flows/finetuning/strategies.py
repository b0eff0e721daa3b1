"""Every strategy of the textbook, run on the same pictures within one budget.

Heavy leaf: importing it loads TensorFlow.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from flows.features.fitting import labels_of, read_taps
from flows.features.forward import reader
from flows.finetuning.arms import (
    Runner,
    compare_with_head,
    finetune_arm,
    fit_start,
    in_float32_weights,
    scratch_arm,
)
from flows.finetuning.ground import Ground, Log, OnEpoch
from pipeline.backbones.table import TOP
from pipeline.decision.regret import pack_correct
from pipeline.decision.schedule import Schedule
from pipeline.finetuning.scoring import calibrate, predict_images
from pipeline.finetuning.scratch import count_multiply_adds
from pipeline.heads.fit import fit_head, head_probabilities
from pipeline.images.views import ORIGINAL
from pipeline.types import Array
from storage.jobs.folder import Job

BACKWARD = 2  # multiply-adds of a backward pass, in forward passes


def run_strategies(
    ground: Ground,
    schedule: Schedule,
    job: Job,
    log: Log,
    on_epoch: OnEpoch,
    checkpoint_seconds: float,
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Run all four, the cheap ones first; returns a row for each, and the fine-tuned network's gate."""
    from pipeline.finetuning.devices import all_gpus

    runner = Runner(ground, job, log, on_epoch, checkpoint_seconds)
    rows = [
        _head_row(ground, "head-on-top", [TOP]),
        _head_row(ground, "head-on-evidence", [tap.name for tap in ground.spec.taps]),
    ]
    with all_gpus():
        started = time.monotonic()
        start = fit_start(ground)
        tuned = finetune_arm(runner, start, schedule)
        network = in_float32_weights(tuned)
        calibrate(network, tuned.validation)
        gate = compare_with_head(ground, network, tuned.recipe)
        cost = count_multiply_adds(network)
        rows.append(_network_row(ground, "fine-tune", network, tuned, cost, started))
        for row in rows[:2]:  # both read the network once a picture
            row["multiply_adds"] = cost * len(ground.fit_on + ground.validate_on)
        started = time.monotonic()
        fresh = scratch_arm(runner, tuned)
        network = in_float32_weights(fresh)
        calibrate(network, fresh.validation)
        rows.append(_network_row(ground, "scratch", network, fresh, count_multiply_adds(network), started))
    return rows, asdict(gate)


def _head_row(ground: Ground, strategy: str, names: Sequence[str]) -> dict[str, Any]:
    """Fit a head on all training pictures, as the one that serves."""
    started = time.monotonic()
    train = [image for image in (*ground.fit_on, *ground.validate_on) if image.split == "train"]
    taps = [tap for tap in ground.spec.taps if tap.name in names]

    def read(images: Sequence[Any], used: Sequence[str]) -> Any:
        return read_taps(ground.workspace, ground.spec, (ORIGINAL,), images, used)

    head = fit_head(read(train, names), taps, labels_of(train), len(ground.manifest.classes))
    found = head_probabilities(head, read(ground.test_on, [part.tap for part in head.taps]))
    return {
        "strategy": strategy,
        **_score(ground, found),
        "seconds": round(time.monotonic() - started, 1),
        "taps": [part.tap for part in head.taps],
        "loo_error": head.loo_error,
    }


def _network_row(
    ground: Ground, strategy: str, network: Any, arm: Any, multiply_adds: int, started: float
) -> dict[str, Any]:
    epochs = len(arm.curve) - 1
    found = predict_images(network, ground.test_on, reader(ground.manifest), arm.recipe)
    return {
        "strategy": strategy,
        **_score(ground, found),
        "seconds": round(time.monotonic() - started, 1),
        "multiply_adds": multiply_adds * (1 + BACKWARD) * epochs * len(ground.fit_on),
        "epochs": epochs,
        "curve": arm.curve,
        "val_accuracy": arm.best_accuracy,
    }


def _score(ground: Ground, probabilities: Array) -> dict[str, Any]:
    from pipeline.evaluation.classes import evaluate

    labels = labels_of(ground.test_on)
    metrics = evaluate(labels, probabilities, ground.manifest.classes, ground.test_split)
    return {
        "accuracy": metrics.accuracy,
        "log_loss": metrics.log_loss,
        "correct": pack_correct(probabilities, labels),
    }
