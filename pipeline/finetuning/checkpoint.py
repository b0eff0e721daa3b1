"""The state of a training, and its checkpoints: written, read back into a network, and who keeps them.

Heavy leaf: importing it loads TensorFlow.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pipeline.decision.finetuned import EpochRow
from pipeline.decision.schedule import CHECKPOINT_SECONDS
from pipeline.errors import DamagedError
from pipeline.jsonable import from_json, to_json
from pipeline.quiet_keras import keras
from pipeline.types import Checkpoint

Values = list[NDArray[np.generic]]


@dataclass(frozen=True, slots=True)
class Keeper:
    """Where a training's checkpoints are kept, and whether the training is to stop."""

    read: Callable[[], Checkpoint | None]
    write: Callable[[Checkpoint], None]
    is_cancelled: Callable[[], bool]
    checkpoint_seconds: float = CHECKPOINT_SECONDS  # between two checkpoints


@dataclass(slots=True)
class TrainingState:
    """Where a training is, beside its variables."""

    curve: list[EpochRow] = field(default_factory=list)  # row 0 is the network before training
    best: Values = field(default_factory=list)  # the network's variables after the best epoch so far
    best_epoch: int = 0
    loss: float = 0.0  # sum over the steps of the current epoch
    num_losses: int = 0
    seconds: float = 0.0  # of training and validating, over all attempts


def to_checkpoint(network: keras.Model, state: TrainingState) -> Checkpoint:
    """Return everything that a training needs to continue from this step."""
    groups = {
        "network": values_of(network.variables),
        "optimizer": values_of(network.optimizer.variables),
        "best": state.best,
    }
    arrays = {f"{group}/{place}": value for group, values in groups.items() for place, value in enumerate(values)}
    numbers = {
        "curve": [to_json(row) for row in state.curve],
        "best_epoch": state.best_epoch,
        "num_best": len(state.best),
        "loss": state.loss,
        "num_losses": state.num_losses,
        "seconds": state.seconds,
    }
    return Checkpoint(step_of(network), arrays, numbers)


def restore(network: keras.Model, checkpoint: Checkpoint | None) -> TrainingState:
    """Give a network and its optimizer the values of a checkpoint; without one, a training begins.

    Raises
    ------
    DamagedError
        The checkpoint is of another network.
    """
    if checkpoint is None:
        return TrainingState()
    for group, variables in (("network", network.variables), ("optimizer", network.optimizer.variables)):
        for place, variable in enumerate(variables):
            value = checkpoint.arrays.get(f"{group}/{place}")
            if value is None or tuple(value.shape) != tuple(variable.shape):
                raise DamagedError(
                    f"The checkpoint of step {checkpoint.step} does not fit the network: {group} variable {place} is "
                    f"{None if value is None else tuple(value.shape)}, wanted {tuple(variable.shape)}. Use the "
                    "versions in constraints.txt, or remove the job's checkpoints to start over."
                )
            variable.assign(value)
    state = checkpoint.state
    best = [checkpoint.arrays[f"best/{place}"] for place in range(state["num_best"])]
    curve = [from_json(EpochRow, row) for row in state["curve"]]
    return TrainingState(curve, best, state["best_epoch"], state["loss"], state["num_losses"], state["seconds"])


def step_of(network: keras.Model) -> int:
    """Return how many steps a network's optimizer has done."""
    return int(keras.ops.convert_to_numpy(network.optimizer.iterations))


def values_of(variables: Sequence[keras.Variable]) -> Values:
    """Copy the values of variables."""
    return [np.array(keras.ops.convert_to_numpy(variable)) for variable in variables]
