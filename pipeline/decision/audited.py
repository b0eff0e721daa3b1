"""The results of an audit: what each strategy reached, and what the plan's choice cost and saved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.decision.finetuned import Curve, Gate
from pipeline.types import LearningCurve, Split


@dataclass(frozen=True, slots=True)
class StrategyRow:
    """What a strategy reached on the test pictures."""

    strategy: str
    accuracy: float  # 0-1
    log_loss: float  # nats
    correct: str  # which pictures it got right, as `pack_correct` writes it
    multiply_adds: int  # of everything it computed
    seconds: float
    # of a head
    taps: tuple[str, ...] | None = None
    loo_error: float | None = None  # leave-one-out, 0-1
    # of a trained network
    epochs: int | None = None
    curve: Curve | None = None
    val_accuracy: float | None = None  # of the best epoch


@dataclass(frozen=True, slots=True)
class Signals:
    """What the plan was decided from."""

    backbone: str
    size: int  # pixels
    num_train: int
    num_classes: int
    smallest_class: int  # training pictures
    distance: float  # nats
    similar: bool
    loo_error: float
    learning_curve: LearningCurve | None = None


@dataclass(frozen=True, slots=True)
class Regret:
    """How a choice compares with the best strategy in hindsight, in points of accuracy (0-100)."""

    chosen: str
    best: str  # in hindsight, on all pictures
    points: float  # by split halves; below 0 if hindsight on the other half was worse than the choice
    naive_points: float  # against the best on the same pictures; never below 0, and too large
    standard_error: float  # of the naive difference, paired


@dataclass(frozen=True, slots=True)
class Compute:
    """The multiply-adds of what the plan chose."""

    spent: int
    share_of_finetuning: float
    share_of_everything: float  # of running every strategy


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What a plan's choice cost in accuracy and saved in compute."""

    delivered: str  # strategy
    regret: Regret
    constant_policies: Mapping[str, Regret]  # of always choosing one strategy
    compute: Compute


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditResult(Judgement):
    """How an audit ended; kept as the outcome of its job and as a measurement."""

    schema_version: int = 1
    job: str
    dataset: str
    case: int
    textbook: str
    chosen: str
    signals: Signals
    budget_epochs: int
    num_test: int
    test_split: Split
    strategies: tuple[StrategyRow, ...]  # the cheap ones first
    gate: Gate  # of the fine-tuned network
    model: None = None  # an audit saves none
    seconds: Mapping[str, float]  # by stage


@dataclass(frozen=True, slots=True)
class Refit:
    """A threshold, and what it would have cost: regret in points plus the price of the compute, mean over audits."""

    what: str  # "similar" or "different" data
    current: int  # training pictures; from this many on, data are large
    refitted: int | None  # None: never within what was audited, or too few audits
    num_audits: int
    num_datasets: int
    current_cost: float
    refitted_cost: float
    held_out_cost: float | None  # of thresholds refitted without the dataset they are judged on


@dataclass(frozen=True, slots=True)
class AuditList:
    """The audits of a workspace, and the thresholds refitted from them; what `headstart audits --json` prints."""

    workspace: str
    audits: tuple[AuditResult, ...]
    thresholds: tuple[Refit, ...]
