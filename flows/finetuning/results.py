"""The results of fine-tuning jobs: what is kept when a job has ended, and what `--json` prints."""

from __future__ import annotations

from dataclasses import dataclass

from flows.documents import SavedModel
from flows.versions.promote import Verdict
from pipeline.decision.finetuned import FinetuneReport, Gate
from pipeline.types import Figures


@dataclass(frozen=True, slots=True)
class JobEnd:
    """How any job ended: the part that the outcomes of fine-tuning and audits share."""

    gate: Gate
    model: SavedModel | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FinetuneResult(FinetuneReport):
    """How a fine-tuning job ended."""

    job: str
    dataset: str
    case: int
    model: SavedModel | None = None  # if it passed its gate
    metrics: Figures | None = None  # of that model
    serving: Verdict | None = None
