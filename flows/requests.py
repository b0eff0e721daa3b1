"""What runs are asked to do: one frozen request for each kind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.backbones.table import AUTO_MINUTES, DEFAULT_BACKBONE
from pipeline.decision.nouns import Strategy
from pipeline.decision.schedule import AUDIT_EPOCHS, CHECKPOINT_SECONDS

if TYPE_CHECKING:
    from pipeline.decision.plan import Wishes


@dataclass(frozen=True, slots=True)
class OnboardRequest:
    """What a run is asked to do."""

    folder: str  # or a table (CSV) that names the pictures below its own folder
    workspace: str
    name: str | None = None  # of the dataset; by default that of the folder or table
    backbone: str = DEFAULT_BACKBONE
    weights: str | None = None  # of a backbone that is not embedded: "imagenet", "none" or a file
    recipe: str = "exact"  # or "scaled": large JPEGs are decoded smaller, several times faster
    size: int | None = None  # pixels, side of the square given to the network; by default its own
    views: int = 0  # augmented views of each training picture that the head trains on, beside the original
    rehash: bool = False  # read every file again instead of trusting size and time
    case: int | None = None  # 1 to 4, instead of the rule's
    strategy: Strategy | None = None  # instead of the case's
    auto_minutes: float = AUTO_MINUTES  # that comparing backbones may take, where `backbone` is "auto"
    by: str = ""  # who asks; named beside what they chose instead of the rule

    def wishes(self) -> Wishes:
        from pipeline.decision.plan import Wishes  # NumPy: not for the help of a command

        return Wishes(self.case, self.strategy, self.by)


@dataclass(frozen=True, slots=True)
class FinetuneRequest:
    """What a run is asked to do."""

    name: str  # of the model, which is that of its dataset
    workspace: str
    epochs: int | None = None  # at most so many; by default by a table
    layer_decay: float = 1.0  # rate of each stage over that of the stage behind it
    unfreeze_epochs: float = 0.0  # the head learns alone for so long, then stage after stage joins
    checkpoint_seconds: float = CHECKPOINT_SECONDS  # what a kill costs at most


@dataclass(frozen=True, slots=True)
class AuditRequest:
    """What an audit is asked to do."""

    name: str  # of the model, which is that of its dataset
    workspace: str
    epochs: int = AUDIT_EPOCHS  # of fine-tuning: the budget of every strategy that trains a whole network
    checkpoint_seconds: float = CHECKPOINT_SECONDS


@dataclass(frozen=True, slots=True)
class RefreshRequest:
    """What a run is asked to do."""

    workspace: str
    names: tuple[str, ...] = ()  # of datasets; none: all that are known
    force: bool = False  # train even where too little changed to matter


@dataclass(frozen=True, slots=True)
class PredictBatchRequest:
    """What to predict, and where to."""

    model: str  # NAME, the version that serves, or NAME@VERSION, or a model's folder
    folder: str
    output: str  # a .csv or .parquet file
    workspace: str
    top: int = 3  # classes named per picture
    every: bool = False  # also predict again what another version of the model has predicted
