"""The record of a model: everything it was made from, as one frozen value and as one JSON document."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from pipeline.decision.finetuned import ArmName, FinetuneReport
from pipeline.decision.nouns import Plan, ScoredQuote
from pipeline.errors import DamagedError
from pipeline.jsonable import from_json, to_json
from pipeline.types import (
    Activation,
    BackboneSpec,
    Certificate,
    Head,
    HeadKind,
    LabelMetrics,
    LearningCurve,
    Manifest,
    Metrics,
    Recipe,
    Rejected,
    TapEvidence,
    TapKind,
)

ModelKind = Literal["head", "fine-tuned network", "network from random weights"]
KINDS: Mapping[ArmName, ModelKind] = {"fine-tune": "fine-tuned network", "scratch": "network from random weights"}

SCHEMA_VERSION = 1
ONLY_IF_KNOWN = ("learning_curve", "quote_scored", "finetune")  # keys that a document lacks if there is no value


@dataclass(frozen=True, slots=True)
class TapSummary:
    """A tap that a head reads, without its weights."""

    tap: str
    kind: TapKind
    penalty: float
    logme: float
    loo_error: float


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadSummary:
    """A head without its weights; see `Head` for the units."""

    taps: tuple[TapSummary, ...]
    temperature: float
    loo_error: float
    loo_log_loss: float
    evidence: tuple[TapEvidence, ...] = ()
    reasons: tuple[str, ...] = ()
    kind: HeadKind = "stacked"
    activation: Activation = "softmax"
    thresholds: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSummary:
    """The pictures that a model was made from."""

    root: str
    fingerprint: str  # of the manifest
    num_files: int
    num_duplicates: int
    classes: tuple[str, ...]
    exclusive: bool = True
    rejected: tuple[Rejected, ...]  # all files that were left out, found by their header or on decoding
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class BackboneSummary:
    """Which pretrained network a model was made with."""

    name: str
    weights: str
    weights_sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureSummary:
    """Where the features of a training came from. Numbers are rows: a picture has one for each of its views."""

    num_images: int
    num_views: int = 0  # augmented views of each training picture
    num_computed: int
    num_reused: int
    num_rejected: int
    backbone: str
    space: str
    taps: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """How and when a model was made."""

    request: str  # digest of everything that determines the model
    created: str  # ISO 8601, UTC
    certificate: Certificate
    features: FeatureSummary
    learning_curve: LearningCurve | None = None
    quote_scored: ScoredQuote | None = None
    finetune: FinetuneReport | None = None  # of a fine-tuned network
    seconds: Mapping[str, float]  # by stage
    versions: Mapping[str, str]  # of packages


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRecord(Provenance):
    """Everything that a model was made from: inputs, decisions, versions, metrics and lineage."""

    dataset: str
    plan: Plan  # as it is once the head is there
    head: HeadSummary
    metrics: Metrics | LabelMetrics
    data: DataSummary
    backbone: BackboneSummary
    recipe: Recipe
    name: str = ""  # this and what follows: once it is saved
    model_version: int = 0
    files: Mapping[str, str] = field(default_factory=dict)  # path within the folder -> SHA-256

    @property
    def is_network(self) -> bool:
        """Whether a whole network was trained, not only a head on frozen features."""
        return self.finetune is not None

    @property
    def kind(self) -> ModelKind:
        """What the model is, which need not be what the plan's strategy asks for next."""
        return KINDS[self.finetune.arm] if self.finetune else "head"

    def to_json(self) -> dict[str, Any]:
        """Return the document; the plan's fields lie beside the others."""
        document = to_json(self)
        absent = {"plan", *(name for name in ONLY_IF_KNOWN if document[name] is None)}
        rest = {name: value for name, value in document.items() if name not in absent}
        return {"schema_version": SCHEMA_VERSION, **plan_part(self.plan), **rest}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> ModelRecord:
        """Read back what `to_json` wrote; DamagedError if it does not hold a record."""
        return from_json(cls, {**document, "plan": parse_plan(document)})


@dataclass(frozen=True, slots=True)
class ModelRef:
    """Where a saved model is, and what it was made from."""

    name: str
    version: int
    path: str
    record: ModelRecord = field(compare=False)

    def __str__(self) -> str:
        return f"{self.name}@{self.version}"


def build_record(
    manifest: Manifest,
    plan: Plan,
    spec: BackboneSpec,
    head: Head,
    metrics: Metrics | LabelMetrics,
    rejected: Sequence[Rejected],
    provenance: Provenance,
) -> ModelRecord:
    """Assemble the record of a model; `rejected` are all files that were left out."""
    return ModelRecord(
        dataset=manifest.dataset,
        plan=plan,
        head=HeadSummary(
            taps=tuple(TapSummary(tap.tap, tap.kind, tap.penalty, tap.logme, tap.loo_error) for tap in head.taps),
            **{item.name: getattr(head, item.name) for item in fields(HeadSummary) if item.name != "taps"},
        ),
        metrics=metrics,
        data=DataSummary(
            root=manifest.root,
            fingerprint=manifest.fingerprint,
            num_files=manifest.num_files,
            num_duplicates=manifest.num_duplicates,
            classes=manifest.classes,
            exclusive=manifest.exclusive,
            rejected=tuple(rejected),
            notes=manifest.notes,
        ),
        backbone=BackboneSummary(spec.name, spec.weights, spec.weights_sha256),
        recipe=spec.recipe,
        **{item.name: getattr(provenance, item.name) for item in fields(Provenance)},
    )


def plan_part(plan: Plan) -> dict[str, Any]:
    """Describe the decision, as `plan` and `onboard` print it and records keep it."""
    document = to_json(plan)
    document["plan"] = {"backbone": document.pop("backbone"), "taps": document.pop("taps")}
    limits = dict(zip(("similar", "different"), plan.similarity.limits, strict=True))
    document["similarity"]["thresholds"] = limits
    for row, signal in zip(document["signals"], plan.signals, strict=True):
        row["margin"] = signal.margin
    if plan.quote:
        document["quote"]["minutes"] = plan.quote.minutes
    return document


def parse_plan(document: Mapping[str, Any]) -> Plan:
    """Read back what `plan_part` wrote.

    Raises
    ------
    DamagedError
        The document does not hold it.
    """
    named = document.get("plan")
    if not isinstance(named, Mapping):
        raise DamagedError("The record holds no plan. Onboard the folder again.")
    return from_json(Plan, {**document, **named})


def metrics_part(metrics: Metrics | LabelMetrics) -> dict[str, Any]:
    """Describe how good a model is, without the rows of its classes."""
    return {name: value for name, value in to_json(metrics).items() if name not in ("per_class", "confusion")}
