"""The results of fine-tuning jobs: what is kept when a job has ended, and what `--json` prints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from flows.documents import SavedModel
from flows.versions.promote import Verdict
from pipeline.decision.finetuned import FinetuneReport, Gate
from pipeline.types import Split


@dataclass(frozen=True, slots=True)
class JobEnd:
    """How any job ended: the part that the outcomes of fine-tuning and audits share."""

    gate: Gate
    model: SavedModel | None = None


@dataclass(frozen=True, slots=True)
class Figures:
    """How good a model is, without the rows of its classes; see `Metrics` for the units."""

    split: Split
    num_images: int
    accuracy: float
    accuracy_interval: tuple[float, float]
    balanced_accuracy: float
    macro_f1: float
    log_loss: float
    ece: float
    ece_by_chance: tuple[float, float] = (0.0, 0.0)
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class FinetuneResult(FinetuneReport):
    """How a fine-tuning job ended."""

    job: str
    dataset: str
    case: int
    model: SavedModel | None = None  # if it passed its gate
    metrics: Figures | None = None  # of that model
    serving: Verdict | None = None
