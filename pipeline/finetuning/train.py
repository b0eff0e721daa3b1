"""Training a whole network, so that it can stop at any step and go on as if it had not.

Plain Keras 3. Heavy leaf: importing it loads TensorFlow.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from pipeline.backbones.networks import build_backbone
from pipeline.decision.schedule import CHECKPOINT_SECONDS, Schedule, norm_momentum
from pipeline.delivery.model import build_classifier
from pipeline.errors import CancelledError, DamagedError
from pipeline.finetuning.batches import Batch, Batches
from pipeline.finetuning.devices import num_replicas
from pipeline.finetuning.optimizer import StagedAdamW
from pipeline.finetuning.scoring import Network, Validation, score
from pipeline.quiet_keras import keras
from pipeline.types import BackboneSpec, Checkpoint, Head

layers, ops = keras.layers, keras.ops

GRADIENT_FLOOR = 1e-4  # of averages under a square root
CLIP_NORM = 1.0
SECONDS_BETWEEN_LOOKS = 1.0  # for a request to stop


class Keeper(Protocol):
    """Where a training's checkpoints go, and who may stop it."""

    def read(self) -> Checkpoint | None: ...

    def write(self, checkpoint: Checkpoint) -> None: ...

    def is_cancelled(self) -> bool: ...


@dataclass(slots=True)
class _State:
    """What a training is at, beside its variables."""

    curve: list[dict[str, float]] = field(default_factory=list)  # row 0 is the network as it came
    best: list[Any] = field(default_factory=list)  # the network's variables after the best epoch so far
    best_epoch: int = 0
    loss: float = 0.0  # sum over the steps of the epoch under way
    num_losses: int = 0
    seconds: float = 0.0  # of training and validating, over all attempts


# ── networks ─────────────────────────────────────────────────────────────────────────────────────


class FrozenNorm(keras.layers.BatchNormalization):  # type: ignore[misc]  # Keras has no types
    """BatchNorm that uses the statistics it remembers, in training too; its scale and offset learn.

    Calling a backbone with `training=False` is not enough: Keras overrules that with what the whole is called with.
    """

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        return super().call(inputs, training=False, mask=mask)


def build_finetuned(spec: BackboneSpec, head: Head, schedule: Schedule) -> Network:
    """Build backbone and trained head with all weights trainable, from pixels to (batch, classes) float32 scores."""
    backbone = build_backbone(spec)
    backbone.trainable = True  # before it is copied: a copy of a frozen layer cannot be thawed
    if schedule.frozen_statistics and any(isinstance(layer, layers.BatchNormalization) for layer in _layers(backbone)):
        backbone = _with_frozen_norms(backbone)
    return in_float32(build_classifier(backbone, spec, head, floor=GRADIENT_FLOOR))


def build_deliverable(spec: BackboneSpec, head: Head) -> Network:
    """Build the same network of plain layers, to take the weights after training."""
    return build_classifier(build_backbone(spec), spec, head, floor=GRADIENT_FLOOR)


def _with_frozen_norms(backbone: Network) -> Network:
    def copied(layer: Any) -> Any:
        kind = FrozenNorm if type(layer) is layers.BatchNormalization else type(layer)
        return kind.from_config(layer.get_config())

    frozen = keras.models.clone_model(backbone, clone_function=copied)
    frozen.set_weights(backbone.get_weights())
    return frozen


def in_float32(network: Network) -> Network:
    """Let a network of another precision give its scores in float32."""
    if network.output.dtype == "float32":
        return network
    return keras.Model(network.input, layers.Activation("linear", dtype="float32", name="float32")(network.output))


# ── training ─────────────────────────────────────────────────────────────────────────────────────


def train(
    network: Network,
    batches: Batches,
    validation: Validation,
    schedule: Schedule,
    keeper: Keeper,
    on_epoch: Callable[[dict[str, float]], None] = lambda row: None,
    *,
    stop_after: int | None = None,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
) -> list[dict[str, float]]:
    """Train until the schedule ends or validation has not improved for its patience; leaves the best epoch's weights.

    Parameters
    ----------
    network
        From (batch, size, size, 3) pixels to (batch, classes) scores.
    stop_after
        Epochs to pause after; calling again without it goes on.

    Returns
    -------
    The curve: a row for each epoch, the first one for the network as it came.

    Raises
    ------
    CancelledError
        When the keeper was asked to stop. A checkpoint is written then, as after any other exception.
    """
    _compile(network, schedule, batches.num_steps)
    state = _restore(network, keeper.read())
    guard = _Guard(network, state, keeper, checkpoint_seconds)
    try:
        if not state.curve:
            _close_epoch(network, state, validation, on_epoch)
        while not _is_over(state, schedule) and len(state.curve) - 1 < (stop_after or schedule.epochs):
            _run_epoch(network, batches, state, guard)
            _close_epoch(network, state, validation, on_epoch)
            guard.save()
    except BaseException:
        guard.save()  # whatever stops us, what was done is kept
        raise
    if state.best:
        for variable, value in zip(network.variables, state.best, strict=True):
            variable.assign(value)
    return list(state.curve)


def _is_over(state: _State, schedule: Schedule) -> bool:
    epoch = len(state.curve) - 1
    return epoch >= schedule.epochs or epoch - state.best_epoch >= schedule.patience


def _compile(network: Network, schedule: Schedule, num_steps: int) -> None:
    total = schedule.epochs * num_steps
    for layer in _layers(network):
        if isinstance(layer, layers.BatchNormalization):
            layer.momentum = norm_momentum(total)
    warmup = max(1, int(schedule.warmup * total))
    rate = keras.optimizers.schedules.CosineDecay(
        0.0, decay_steps=max(1, total - warmup), warmup_target=schedule.learning_rate, warmup_steps=warmup
    )
    optimizer = StagedAdamW(
        rate,
        stages=_stages(network),
        layer_decay=schedule.layer_decay,
        unfreeze_steps=int(schedule.unfreeze_epochs * num_steps),
        decoupled_decay=schedule.weight_decay,
        clip=CLIP_NORM,
    )
    loss = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=schedule.label_smoothing)
    network.compile(optimizer=optimizer, loss=loss)
    optimizer.build(network.trainable_variables)


def _run_epoch(network: Network, batches: Batches, state: _State, guard: _Guard) -> None:
    epoch = len(state.curve) - 1
    first = _step(network) - epoch * batches.num_steps
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


def _close_epoch(
    network: Network, state: _State, validation: Validation, on_epoch: Callable[[dict[str, float]], None]
) -> None:
    """Validate, and write the epoch's row of the curve."""
    started = time.monotonic()
    accuracy, log_loss = score(network, validation)
    state.seconds += time.monotonic() - started
    row = {
        "epoch": len(state.curve),
        "step": _step(network),
        "train_loss": state.loss / state.num_losses if state.num_losses else float("nan"),
        "val_accuracy": accuracy,
        "val_log_loss": log_loss,
        "seconds": state.seconds,
    }
    if not state.curve:
        del row["train_loss"]
    elif not state.best or _merit(row) > _merit(state.curve[state.best_epoch]):
        state.best_epoch, state.best = len(state.curve), _values(network.variables)
    state.curve.append(row)
    state.loss, state.num_losses = 0.0, 0
    on_epoch(dict(row))


def _merit(row: Mapping[str, float]) -> tuple[float, float]:
    return row["val_accuracy"], -row["val_log_loss"]


class _Guard(keras.callbacks.Callback):  # type: ignore[misc]  # Keras has no types
    """Keeps a checkpoint now and then, and stops when asked to."""

    def __init__(self, network: Network, state: _State, keeper: Keeper, checkpoint_seconds: float) -> None:
        super().__init__()
        self._network, self._state, self._keeper = network, state, keeper
        self._interval = checkpoint_seconds
        self._saved = self._looked = time.monotonic()
        self._saved_at: tuple[int, int] | None = None
        self._logs: Mapping[str, Any] | None = None
        self._num_batches = 0
        self._begun: float | None = None

    def begin(self) -> None:
        self._begun = time.monotonic()

    def end(self) -> None:
        """Add what the running epoch has measured so far to the state."""
        if self._begun is not None:
            self._state.seconds += time.monotonic() - self._begun
        self._begun = None
        if self._logs is not None:
            self._state.loss += float(self._logs["loss"]) * self._num_batches
            self._state.num_losses += self._num_batches
        self._logs, self._num_batches = None, 0

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        self._logs, self._num_batches = logs, batch + 1
        now = time.monotonic()
        if now - self._looked >= SECONDS_BETWEEN_LOOKS:
            self._looked = now
            if self._keeper.is_cancelled():
                raise CancelledError("The job was cancelled; what it has done is kept. Start it again to go on.")
        if now - self._saved >= self._interval:
            self.save()

    def save(self) -> None:
        """Write a checkpoint of this very step, unless the last one is of it."""
        state, network = self._state, self._network
        at = (_step(network), len(state.curve))
        if at == self._saved_at:
            return
        loss, num_losses, seconds = state.loss, state.num_losses, state.seconds
        if self._logs is not None:
            loss += float(self._logs["loss"]) * self._num_batches
            num_losses += self._num_batches
        if self._begun is not None:
            seconds += time.monotonic() - self._begun
        arrays = {f"{group}/{place}": value for group, place, value in _arrays(network, state)}
        numbers = {"curve": state.curve, "best_epoch": state.best_epoch, "num_best": len(state.best)}
        running = {"loss": loss, "num_losses": num_losses, "seconds": seconds}
        self._keeper.write(Checkpoint(at[0], arrays, {**numbers, **running}))
        self._saved, self._saved_at = time.monotonic(), at


# ── checkpoints ──────────────────────────────────────────────────────────────────────────────────


def _arrays(network: Network, state: _State) -> Iterator[tuple[str, int, Any]]:
    for group, values in (
        ("network", _values(network.variables)),
        ("optimizer", _values(network.optimizer.variables)),
        ("best", state.best),
    ):
        for place, value in enumerate(values):
            yield group, place, value


def _step(network: Network) -> int:
    return int(ops.convert_to_numpy(network.optimizer.iterations))


def _values(variables: Sequence[Any]) -> list[Any]:
    return [np.array(ops.convert_to_numpy(variable)) for variable in variables]


def _restore(network: Network, checkpoint: Checkpoint | None) -> _State:
    if checkpoint is None:
        return _State()
    for group, variables in (("network", network.variables), ("optimizer", network.optimizer.variables)):
        for place, variable in enumerate(variables):
            value = checkpoint.arrays.get(f"{group}/{place}")
            if value is None or tuple(value.shape) != tuple(variable.shape):
                raise DamagedError(
                    f"The checkpoint of step {checkpoint.step} does not fit the network: {group} variable {place} is "
                    f"{None if value is None else tuple(value.shape)}, wanted {tuple(variable.shape)}. Use the "
                    "versions in constraints.txt, or remove the job's checkpoints to begin anew."
                )
            variable.assign(value)
    state = checkpoint.state
    best = [checkpoint.arrays[f"best/{place}"] for place in range(state["num_best"])]
    curve = [dict(row) for row in state["curve"]]
    return _State(curve, best, state["best_epoch"], state["loss"], state["num_losses"], state["seconds"])


# ── stages ───────────────────────────────────────────────────────────────────────────────────────


def _layers(network: Network) -> Iterator[Any]:
    for layer in network.layers:
        if isinstance(layer, keras.Model):
            yield from _layers(layer)
        else:
            yield layer


def _stages(network: Network) -> list[int]:
    """Tell how many halvings lie between each trainable variable and the head: 0 for what is behind the last map."""
    sides = {}
    for layer in _layers(network):
        shape: tuple[Any, ...] = layer.output.shape if isinstance(layer.output, keras.KerasTensor) else ()
        for variable in layer.trainable_variables:
            sides[id(variable)] = shape[1] if len(shape) == 4 else 0
    levels = sorted({0, *sides.values()})
    return [levels.index(sides[id(variable)]) for variable in network.trainable_variables]
