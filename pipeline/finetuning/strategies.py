"""Every strategy of the textbook, run on the same pictures within one budget.

Heavy leaf: importing it loads TensorFlow.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

from pipeline.backbones.table import TOP
from pipeline.decision.audited import StrategyRow
from pipeline.decision.finetuned import Gate
from pipeline.decision.regret import pack_correct
from pipeline.decision.schedule import Schedule
from pipeline.evaluation.classes import evaluate
from pipeline.finetuning.arms import (
    Arm,
    ArmContext,
    compare_with_head,
    finetune_arm,
    fit_stored,
    predict_stored,
    scratch_arm,
)
from pipeline.finetuning.devices import all_gpus
from pipeline.finetuning.inputs import FinetuneInputs, labels_of
from pipeline.finetuning.scoring import predict_images, scale_scores
from pipeline.finetuning.scratch import count_multiply_adds
from pipeline.quiet_keras import keras
from pipeline.types import Array, Tap

BACKWARD = 2  # multiply-adds of a backward pass, in forward passes


def run_strategies(context: ArmContext, schedule: Schedule) -> tuple[tuple[StrategyRow, ...], Gate]:
    """Run all four; returns a row for each, the cheap ones first, and the gate of the fine-tuned network."""
    inputs = context.inputs
    with all_gpus():
        started = time.monotonic()
        tuned, _ = finetune_arm(context, fit_stored(inputs, inputs.fit_on, inputs.taps), schedule)
        network = _calibrated(tuned)
        gate = compare_with_head(inputs, network, tuned.recipe)
        finetune = _network_row(inputs, network, tuned, started)
        started = time.monotonic()
        fresh = scratch_arm(context, tuned)
        scratch = _network_row(inputs, _calibrated(fresh), fresh, started)
    # a head reads the network once a picture
    cost = count_multiply_adds(network) * (len(inputs.fit_on) + len(inputs.validate_on))
    on_top = _head_row(inputs, "head-on-top", [tap for tap in inputs.spec.taps if tap.name == TOP], cost)
    return (on_top, _head_row(inputs, "head-on-evidence", inputs.spec.taps, cost), finetune, scratch), gate


def _calibrated(arm: Arm) -> keras.Model:
    network = arm.in_float32()
    scale_scores(network, arm.validation)
    return network


def _head_row(inputs: FinetuneInputs, strategy: str, taps: Sequence[Tap], multiply_adds: int) -> StrategyRow:
    """Fit a head on all training pictures, like the one that serves."""
    started = time.monotonic()
    head = fit_stored(inputs, inputs.train_on, taps)
    row = _row(inputs, strategy, predict_stored(inputs, head, inputs.test_on), multiply_adds, started)
    return replace(row, taps=tuple(part.tap for part in head.taps), loo_error=head.loo_error)


def _network_row(inputs: FinetuneInputs, network: keras.Model, arm: Arm, started: float) -> StrategyRow:
    epochs = len(arm.curve) - 1
    multiply_adds = count_multiply_adds(network) * (1 + BACKWARD) * epochs * len(inputs.fit_on)
    found = predict_images(network, inputs.test_on, inputs.read, arm.recipe)
    row = _row(inputs, arm.name, found, multiply_adds, started)
    return replace(row, epochs=epochs, curve=arm.curve, val_accuracy=arm.best_accuracy)


def _row(
    inputs: FinetuneInputs, strategy: str, probabilities: Array, multiply_adds: int, started: float
) -> StrategyRow:
    labels = labels_of(inputs.test_on)
    metrics = evaluate(labels, probabilities, inputs.manifest.classes, inputs.test_split)
    seconds = round(time.monotonic() - started, 1)
    correct = pack_correct(probabilities, labels)
    return StrategyRow(strategy, metrics.accuracy, metrics.log_loss, correct, multiply_adds, seconds)
