"""The quote: minutes, disk and memory that a plan will cost, and how right that was afterwards.

Rates are those of earlier runs on the same machine if there were any (`storage.measurements`, kind "rates"); else
estimates for a machine with two cores, and the quote says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.decision.nouns import Quote, QuoteItem, Strategy
from pipeline.decision.plan import FINETUNING
from pipeline.decision.schedule import plan_finetuning
from pipeline.types import Tap

# two cores of an AMD EPYC: docs/evidence.md
ROUGH_EXTRACTED = 110.0  # pictures a second at 224 pixels
ROUGH_TRAINED = 10.0  # likewise, through the whole network and back
ROUGH_START = 20.0  # seconds: TensorFlow, compiling the network, saving and proving the model
OWN_SIZE = 224  # pixels that the rough rates are for
FLOATS_A_SECOND = 2e10  # multiply-adds of the head's linear algebra
EIGENVALUES = 15  # multiply-adds of an eigendecomposition, over n^3
BASE_BYTES = 1.8e9  # of memory with few pictures: TensorFlow, OpenVINO and what they compile (flowers5: 1.80)
TRAINING_BYTES = 1.0e9  # beside it, while a whole network is trained
FLOAT_BYTES = 4
COPIES = 2  # of the features of taps side by side
MANY = 5_000  # pictures: above, all taps are tried side by side, and logistic regression on them
JOINED_FLOATS_A_SECOND = 5e10  # of the products of float32 matrices that this takes


@dataclass(frozen=True, slots=True)
class Rates:
    """What this machine did in earlier runs; None if it has not done it yet."""

    extracted: float | None = None  # pictures a second
    trained: float | None = None  # pictures a second


@dataclass(frozen=True, slots=True)
class Work:
    """What there is to do."""

    num_missing: int  # rows of features to compute
    num_rows: int  # of features that the head is fitted on
    num_train: int  # pictures
    num_classes: int
    size: int  # pixels, side of the square given to the network
    row_bytes: int  # of stored features
    taps: Sequence[Tap]


def plan_quote(work: Work, rates: Rates) -> Quote:
    """Predict minutes, disk and peak memory."""
    shrink = (OWN_SIZE / work.size) ** 2
    extracting = work.num_missing / (rates.extracted or ROUGH_EXTRACTED * shrink)
    training = plan_finetuning(work.num_train).epochs * work.num_train / (rates.trained or ROUGH_TRAINED * shrink)
    width = sum(tap.dim for tap in work.taps)
    squares = 3 * 8 * width**2 if work.num_train > MANY else 0
    peak = BASE_BYTES + COPIES * FLOAT_BYTES * work.num_rows * width + squares
    return Quote(
        items=(
            QuoteItem("start", ROUGH_START, measured=False),
            QuoteItem("extract", extracting, measured=rates.extracted is not None),
            QuoteItem("head", _head_seconds(work), measured=False),
        ),
        gigabytes=work.num_missing * work.row_bytes / 1e9,
        peak_gigabytes=peak / 1e9,
        finetuning=QuoteItem("fine-tuning", training, measured=rates.trained is not None),
        finetuning_gigabytes=work.num_train * work.size**2 * 3 / 1e9,  # decoded pictures
        finetuning_peak_gigabytes=(BASE_BYTES + TRAINING_BYTES) / 1e9,
    )


def _head_seconds(work: Work) -> float:
    """Count the multiply-adds of a ridge a tap, products and eigenvalues, and of many pictures' taps side by side."""
    total = 0.0
    for tap in work.taps:
        small = min(work.num_rows, tap.dim)
        total += 2 * work.num_rows * tap.dim * small + EIGENVALUES * small**3
    seconds = total / FLOATS_A_SECOND
    if work.num_train > MANY:
        width = sum(tap.dim for tap in work.taps)
        seconds += (3 * work.num_rows * width**2 + 4 * width**3) / JOINED_FLOATS_A_SECOND
    return seconds


def describe_quote(quote: Quote, strategy: Strategy) -> str:
    """Say what a plan will cost, in one line."""
    parts = ", ".join(f"{item.what} {item.seconds / 60:.1f}" for item in quote.items if item.seconds >= 3)
    more = f"{quote.finetuning.seconds / 60:.0f} minutes and {quote.finetuning_gigabytes:.2f} GB"
    training = f"fine-tuning {more} more" if strategy in FINETUNING else f"fine-tuning would take {more} more"
    rough = [item.what for item in (*quote.items[1:2], quote.finetuning) if not item.measured]
    note = f" ({' and '.join(rough)}: estimated, not yet measured on this machine)" if rough else ""
    return (
        f"{quote.minutes:.1f} minutes to the head ({parts}), {quote.gigabytes:.2f} GB of disk, "
        f"{quote.peak_gigabytes:.1f} GB of memory; {training}{note}"
    )


def score_quote(
    quote: Quote, seconds: Mapping[str, float], num_bytes: float, peak_bytes: float
) -> dict[str, dict[str, float | None]]:
    """Compare the estimate with the actual cost, up to the head.

    Parameters
    ----------
    seconds
        Of the stages of the run, as the record has them, and their `total`.
    """
    stages = {"extract": "extract", "head": "train"}
    rows = [
        ("minutes", quote.minutes, seconds["total"] / 60),
        *(
            (f"{item.what} (minutes)", item.seconds / 60, seconds.get(stages[item.what], 0.0) / 60)
            for item in quote.items
            if item.what in stages
        ),
        ("disk (GB)", quote.gigabytes, num_bytes / 1e9),
        ("peak memory (GB)", quote.peak_gigabytes, peak_bytes / 1e9),
    ]
    return {
        what: {"predicted": predicted, "actual": actual, "ratio": actual / predicted if predicted else None}
        for what, predicted, actual in rows
    }
