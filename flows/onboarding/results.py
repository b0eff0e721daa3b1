"""What onboarding, extraction and planning answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from flows.documents import FinetuneRun, SavedModel
from flows.features.extraction import Extracted, summarize_features
from flows.versions.promote import Verdict
from pipeline.decision.nouns import Plan
from pipeline.jsonable import to_json
from pipeline.report.record import ModelRef, metrics_part, plan_part
from pipeline.types import BackboneSpec, Rejected


@dataclass(frozen=True, slots=True)
class PlanResult:
    """What would be done with a dataset."""

    dataset: str
    plan: Plan
    rejected: tuple[Rejected, ...]  # files that are not usable pictures
    notes: tuple[str, ...]  # on the dataset, for example pictures left out for their two labels
    seconds: Mapping[str, float]  # by stage

    def to_json(self) -> dict[str, Any]:
        """Return what `headstart plan --json` prints."""
        return {**to_json(self), **plan_part(self.plan)}


@dataclass(frozen=True, slots=True)
class ExtractResult:
    """Which features of a dataset are stored now."""

    dataset: str
    fingerprint: str
    spec: BackboneSpec
    extracted: Extracted
    notes: tuple[str, ...]  # on the dataset
    seconds: Mapping[str, float]  # by stage
    pack: str | None = None  # the file that all of them were also written to

    def to_json(self) -> dict[str, Any]:
        """Return what `headstart extract --json` prints."""
        document = to_json(self)
        del document["spec"]
        rejected = document.pop("extracted")["rejected"]
        return {**document, "features": to_json(summarize_features(self.spec, self.extracted)), "rejected": rejected}


@dataclass(frozen=True, slots=True)
class OnboardResult:
    """The model of a dataset, and what it took to make or find it."""

    dataset: str
    workspace: str
    spec: BackboneSpec
    extracted: Extracted
    model: ModelRef
    trained: bool  # by this run; else an earlier run had made it
    serving: Verdict
    seconds: Mapping[str, float]  # by stage
    finetune: FinetuneRun | None = None  # if the plan asks for it

    @property
    def plan(self) -> Plan:
        """The plan as it is once the head is there."""
        return self.model.record.plan

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why this case, this strategy and this head."""
        record = self.model.record
        curve = (record.learning_curve.reason,) if record.learning_curve else ()
        return (*record.plan.reasons, *record.head.reasons, *curve)

    def to_json(self) -> dict[str, Any]:
        """Return what `headstart onboard --json` prints."""
        record = self.model.record
        return {
            "dataset": self.dataset,
            "workspace": self.workspace,
            **plan_part(record.plan),
            "reasons": list(self.reasons),
            "features": to_json(summarize_features(self.spec, self.extracted)),
            "model": to_json(SavedModel(self.model.name, self.model.version, self.model.path)),
            "trained": self.trained,
            "serving": to_json(self.serving),
            "metrics": metrics_part(record.metrics),
            "certificate": to_json(record.certificate),
            "rejected": [asdict(item) for item in self.extracted.rejected],
            "notes": list(record.data.notes),
            "seconds": dict(self.seconds),
            **({"finetune": to_json(self.finetune)} if self.finetune else {}),
        }
