"""The nouns of a decision: what was measured, what follows from it, and what it will cost. Frozen, with units."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

SimilarityVerdict = Literal["similar", "ambiguous", "different"]
SizeVerdict = Literal["small", "large"]
Strategy = Literal["head-on-top", "head-on-evidence", "fine-tune", "fine-tune-or-scratch"]
ScoredQuote = Mapping[str, Mapping[str, float | None]]  # what was quoted -> predicted, actual and their ratio


@dataclass(frozen=True, slots=True)
class Reference:
    """A known dataset, as far away as it is with the same backbone."""

    name: str
    distance: float


@dataclass(frozen=True, slots=True)
class Drift:
    """D_BN with a backbone for which no thresholds are known: it is reported, and decides nothing."""

    backbone: str
    distance: float
    early: float
    middle: float
    late: float
    interval: tuple[float, float]


@dataclass(frozen=True, slots=True)
class Similarity:
    """Distance between a dataset's activation statistics and a backbone's own (D_BN, nats)."""

    distance: float
    early: float  # mean over the first third of the layers: blur, sensor, size
    middle: float
    late: float  # semantic shift
    num_images: int
    verdict: SimilarityVerdict
    interval: tuple[float, float] | None = None  # 95 %, by resampling pictures
    limits: tuple[float, float] = (0.05, 0.09)  # similar below, different above; by default the embedded backbone's
    measured_with: str = "efficientnet_lite0"  # the backbone whose BatchNorm layers remember
    why_with: str = ""  # why not with the one that features come from, if so
    references: tuple[Reference, ...] = ()  # the nearest known datasets below and above, by distance
    own: Drift | None = None  # with the backbone that features come from, if it has no thresholds


@dataclass(frozen=True, slots=True)
class Size:
    """How much there is to learn from."""

    num_train: int  # distinct training pictures
    num_classes: int
    smallest_class: int  # training pictures
    verdict: SizeVerdict
    effective_classes: float | None = None  # this many of equal size are as varied; num_classes if all are equal


@dataclass(frozen=True, slots=True)
class Signal:
    """A measured number, and the boundary it was held against."""

    name: str
    value: float
    threshold: float
    says: str  # which side of the threshold means what

    @property
    def margin(self) -> float:
        """Distance to the boundary, in the signal's own unit; below 0 if the value is below it."""
        return self.value - self.threshold


@dataclass(frozen=True, slots=True)
class Alternative:
    """A strategy that is not taken."""

    strategy: Strategy
    why_not: str


@dataclass(frozen=True, slots=True)
class Change:
    """What was decided instead of what the rule says: by a person, or by evidence that was found later."""

    what: Literal["case", "strategy", "backbone"]
    value: str
    instead_of: str
    by: str  # who asked for it, or "evidence"
    why: str = ""


@dataclass(frozen=True, slots=True)
class RankedBackbone:
    """How well a sample of the data is told apart with a backbone's features."""

    backbone: str
    error: float | None = None  # leave-one-out squared error a picture of a head on all taps; None if not tried
    logme: float | None = None  # log evidence of the best tap, per sample and class
    why_not: str = ""  # why it was not tried


@dataclass(frozen=True, slots=True)
class QuoteItem:
    """A part of the work."""

    what: str  # "start", "extract", "head" or "fine-tuning"
    seconds: float
    measured: bool  # by an earlier run on this machine


@dataclass(frozen=True, slots=True)
class Quote:
    """What bringing a dataset to a head is predicted to cost, and what fine-tuning costs beside that."""

    items: tuple[QuoteItem, ...]
    gigabytes: float  # of disk
    peak_gigabytes: float  # of memory
    finetuning: QuoteItem
    finetuning_gigabytes: float  # of disk, while it trains
    finetuning_peak_gigabytes: float

    @property
    def minutes(self) -> float:
        return sum(item.seconds for item in self.items) / 60


@dataclass(frozen=True, slots=True)
class Plan:
    """What will be done and why; a value that can be printed, saved and tested."""

    backbone: str
    case: int  # 1 small+similar, 2 small+different, 3 large+similar, 4 large+different
    strategy: Strategy
    taps: tuple[str, ...]  # candidates for the head
    similarity: Similarity
    size: Size
    reasons: tuple[str, ...]
    textbook: Strategy = "head-on-evidence"  # what the table of the four cases says, whatever came after
    signals: tuple[Signal, ...] = ()
    alternatives: tuple[Alternative, ...] = ()
    changes: tuple[Change, ...] = ()
    quote: Quote | None = None
    backbones: tuple[RankedBackbone, ...] = ()  # compared for this plan, best first; none if a person named one
