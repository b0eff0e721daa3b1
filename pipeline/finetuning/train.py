"""The training of a whole network, in plain Keras 3: it can stop at any step and continue as if it had not.

Heavy leaf: importing it loads TensorFlow.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import replace

import numpy as np

from pipeline.decision.finetuned import Curve, EpochRow
from pipeline.decision.schedule import Schedule, norm_momentum
from pipeline.errors import CancelledError
from pipeline.finetuning.batches import Batch, Batches
from pipeline.finetuning.checkpoint import Keeper, TrainingState, restore, step_of, to_checkpoint, values_of
from pipeline.finetuning.devices import num_replicas
from pipeline.finetuning.networks import iter_layers, variable_stages
from pipeline.finetuning.optimizer import StagedAdamW
from pipeline.finetuning.scoring import Validation, score
from pipeline.quiet_keras import keras

CLIP_NORM = 1.0
SECONDS_BETWEEN_LOOKS = 1.0  # for a request to stop

OnRow = Callable[[EpochRow], None]


def train(
    network: keras.Model,
    batches: Batches,
    validation: Validation,
    schedule: Schedule,
    keeper: Keeper,
    on_epoch: OnRow = lambda row: None,
    stop_after: int | None = None,
) -> Curve:
    """Train until the schedule ends or validation has not improved for its patience.

    The network has the weights of the best epoch then.

    Parameters
    ----------
    network
        From (batch, size, size, 3) pixels to (batch, classes) scores.
    stop_after
        Epochs to pause after; call it again without to continue.

    Raises
    ------
    CancelledError
        The keeper was asked to stop. A checkpoint is written first, as after any other exception.
    """
    _compile(network, schedule, batches.num_steps)
    state = restore(network, keeper.read())
    guard = _Guard(network, state, keeper)
    try:
        if not state.curve:
            _close_epoch(network, state, validation, on_epoch)
        while not _is_over(state, schedule) and len(state.curve) - 1 < (stop_after or schedule.epochs):
            _run_epoch(network, batches, state, guard)
            _close_epoch(network, state, validation, on_epoch)
            guard.save()
    except BaseException:
        guard.save()  # whatever stops the training, its work is kept
        raise
    if state.best:
        for variable, value in zip(network.variables, state.best, strict=True):
            variable.assign(value)
    return tuple(state.curve)


def _is_over(state: TrainingState, schedule: Schedule) -> bool:
    epoch = len(state.curve) - 1
    return epoch >= schedule.epochs or epoch - state.best_epoch >= schedule.patience


def _compile(network: keras.Model, schedule: Schedule, num_steps: int) -> None:
    total = schedule.epochs * num_steps
    for layer in iter_layers(network):
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = norm_momentum(total)
    warmup = max(1, int(schedule.warmup * total))
    rate = keras.optimizers.schedules.CosineDecay(
        0.0, decay_steps=max(1, total - warmup), warmup_target=schedule.learning_rate, warmup_steps=warmup
    )
    optimizer = StagedAdamW(
        rate,
        stages=variable_stages(network),
        layer_decay=schedule.layer_decay,
        unfreeze_steps=int(schedule.unfreeze_epochs * num_steps),
        decoupled_decay=schedule.weight_decay,
        clip=CLIP_NORM,
    )
    loss = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=schedule.label_smoothing)
    network.compile(optimizer=optimizer, loss=loss)
    optimizer.build(network.trainable_variables)


def _run_epoch(network: keras.Model, batches: Batches, state: TrainingState, guard: _Guard) -> None:
    epoch = len(state.curve) - 1
    first = step_of(network) - epoch * batches.num_steps
    if first < batches.num_steps:  # else it was stopped while validating
        guard.begin()
        feed = _shared_out(batches.of_epoch(epoch, first), num_replicas(network))
        try:
            network.fit(
                feed,
                steps_per_epoch=batches.num_steps - first,
                epochs=1,
                verbose=0,
                shuffle=False,
                callbacks=[guard],
            )
        finally:
            _close(feed)
        guard.end()


def _shared_out(batches: Iterator[Batch], num_shares: int) -> Generator[Batch, None, None]:
    """Cut every batch into a share for each replica: TensorFlow hands out what a generator yields in turn."""
    for pixels, targets, weights in batches:
        shares = (np.array_split(part, num_shares) for part in (pixels, targets, weights))
        yield from zip(*shares, strict=True)


def _close(feed: Generator[Batch, None, None]) -> None:
    """End a feed, and with it the threads that make its batches."""
    while True:
        try:
            return feed.close()
        except ValueError:  # TensorFlow's own thread is in it, for as long as a batch takes
            time.sleep(0.01)


def _close_epoch(network: keras.Model, state: TrainingState, validation: Validation, on_epoch: OnRow) -> None:
    """Validate, and add the epoch's row to the curve."""
    started = time.monotonic()
    accuracy, log_loss = score(network, validation)
    state.seconds += time.monotonic() - started
    loss = state.loss / state.num_losses if state.num_losses else None
    row = EpochRow(len(state.curve), step_of(network), accuracy, log_loss, state.seconds, loss)
    if row.epoch and (not state.best or row.merit > state.curve[state.best_epoch].merit):
        state.best_epoch, state.best = row.epoch, values_of(network.variables)
    state.curve.append(row)
    state.loss, state.num_losses = 0.0, 0
    on_epoch(row)


class _Guard(keras.callbacks.Callback):  # type: ignore[misc]  # Keras has no types
    """Writes a checkpoint now and then, and stops when asked to."""

    def __init__(self, network: keras.Model, state: TrainingState, keeper: Keeper) -> None:
        super().__init__()
        self._network, self._state, self._keeper = network, state, keeper
        self._saved = self._looked = time.monotonic()
        self._saved_at: tuple[int, int] | None = None
        self._logs: Mapping[str, float] | None = None
        self._num_batches = 0
        self._begun: float | None = None

    def begin(self) -> None:
        self._begun = time.monotonic()

    def end(self) -> None:
        """Add what the running epoch has measured so far to the state."""
        now = self._measured()
        self._state.seconds, self._state.loss, self._state.num_losses = now.seconds, now.loss, now.num_losses
        self._begun, self._logs, self._num_batches = None, None, 0

    def _measured(self) -> TrainingState:
        """Return the state with what the running epoch has measured so far."""
        state = replace(self._state)
        if self._begun is not None:
            state.seconds += time.monotonic() - self._begun
        if self._logs is not None:
            state.loss += float(self._logs["loss"]) * self._num_batches
            state.num_losses += self._num_batches
        return state

    def on_train_batch_end(self, batch: int, logs: Mapping[str, float] | None = None) -> None:
        self._logs, self._num_batches = logs, batch + 1
        now = time.monotonic()
        if now - self._looked >= SECONDS_BETWEEN_LOOKS:
            self._looked = now
            if self._keeper.is_cancelled():
                raise CancelledError("The job was cancelled. Finished work is saved; start it again to continue.")
        if now - self._saved >= self._keeper.checkpoint_seconds:
            self.save()

    def save(self) -> None:
        """Write a checkpoint of this very step, unless the last one is of it."""
        at = (step_of(self._network), len(self._state.curve))
        if at != self._saved_at:
            self._keeper.write(to_checkpoint(self._network, self._measured()))
            self._saved, self._saved_at = time.monotonic(), at
