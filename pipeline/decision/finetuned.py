"""The results of fine-tuning: curves, the race, the gate, and the report that is saved with a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pipeline.decision.schedule import Schedule

ArmName = Literal["fine-tune", "scratch"]


@dataclass(frozen=True, slots=True)
class EpochRow:
    """One epoch of a training. Rates are 0-1."""

    epoch: int  # 0 is the network before training
    step: int  # of the optimizer, since the start
    val_accuracy: float
    val_log_loss: float  # nats
    seconds: float  # of training and validating so far, over all attempts
    train_loss: float | None = None  # mean over the steps of the epoch

    @property
    def merit(self) -> tuple[float, float]:
        """Return what the best epoch has the most of: accuracy first, then the smaller log loss."""
        return self.val_accuracy, -self.val_log_loss


Curve = tuple[EpochRow, ...]  # a row for each epoch, the first one before training


def best_epoch(curve: Curve) -> EpochRow:
    """Return the best epoch of a training; the row before training does not count."""
    return max(curve[1:], key=lambda row: row.merit)


@dataclass(frozen=True, slots=True)
class Gate:
    """A trained network compared with the head on the same pictures. Rates are 0-1."""

    num_images: int
    head_accuracy: float
    model_accuracy: float
    num_gained: int  # pictures that only the network gets right
    num_lost: int  # pictures that only the head gets right
    difference: float  # model - head
    standard_error: float  # of the difference, paired
    passed: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Race:
    """A network from random weights compared with fine-tuning at equal cost. Rates are 0-1, of validation pictures."""

    epochs: int  # of the network from random weights
    cost: float  # of these epochs, in epochs of fine-tuning
    finetuned_accuracy: float  # after one epoch
    scratch_accuracy: float  # best of its epochs
    continued: bool
    reason: str


@dataclass(frozen=True, slots=True)
class MirrorTest:
    """How well the untrained network knows mirrored pictures, and whether training mirrors them. Rates are 0-1."""

    accuracy: float
    mirrored_accuracy: float
    tolerance: float
    used: bool


@dataclass(frozen=True, slots=True)
class ScratchReport:
    """How a network from random weights was trained in the race."""

    network: str
    size: int  # pixels, side of the square it sees
    num_parameters: int
    multiply_adds: int  # of one picture's forward pass
    finetuned_multiply_adds: int  # the same for the pretrained network
    schedule: Schedule
    curve: Curve
    race: Race


@dataclass(frozen=True, slots=True)
class StartedFrom:
    """The head that fine-tuning started from."""

    version: int
    taps: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FinetuneReport:
    """How a network was fine-tuned; saved in the model's record as `finetune`."""

    started_from: StartedFrom
    num_fit: int  # training pictures
    num_validation: int  # pictures that choose the epoch and decide the gate
    schedule: Schedule
    gate: Gate
    arm: ArmName  # the better one
    curve: Curve  # of the pretrained network
    mirror: MirrorTest
    precision: str  # Keras dtype policy
    calibration: float  # factor of the scores
    scratch: ScratchReport | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobAsked:
    """What a job was asked to do; `job.json` in its folder."""

    dataset: str
    fingerprint: str  # of the dataset's manifest
    case: int
    head_version: int  # of the head that the job starts from
    epochs: int  # at most
    num_train: int  # training pictures
    what: Literal["finetune", "audit"] = "finetune"


@dataclass(frozen=True, slots=True, kw_only=True)
class JobStatus(EpochRow):
    """The newest epoch of a job; `status.json` in its folder."""

    arm: ArmName
    num_epochs: int  # that the arm trains at most
