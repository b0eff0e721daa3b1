"""True labels that do not exclude each other: a picture has any number of them, or none.

Each label's scores become a probability of its own (Platt 1999, on leave-one-out scores, folded into weights and
biases: the head stays linear, and probability = sigmoid(score)). A label is given if its probability reaches the
threshold of the best F1 on leave-one-out probabilities.

A label with fewer than `FEW_PICTURES` pictures with it, or without it, has too few for a fit of its own: its
calibration and threshold are those of all labels together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit

from pipeline.errors import DataError
from pipeline.evaluation.average_precision import mean_average_precision
from pipeline.evaluation.log_loss import log_losses
from pipeline.heads.calibration import Calibration
from pipeline.heads.ridge import Float64
from pipeline.types import Activation, Array, Head, LabelMetrics, LearningCurve, Split

FEW_PICTURES = 10
SMALLEST_SLOPE = 1e-3  # leave-one-out scores of noise rank the wrong way round; a head must not turn them over

Marks = NDArray[np.bool_]
Fitted = TypeVar("Fitted")


@dataclass(frozen=True, slots=True, eq=False)
class LabelSets:
    """The labels of each of n pictures; a label may be on no picture and then keeps its column."""

    marks: Marks  # (n, labels): whether the picture has the label

    activation: ClassVar[Activation] = "sigmoid"
    all_alone: ClassVar[str] = "Every training picture has a label that no other has"

    def __len__(self) -> int:
        return len(self.marks)

    @property
    def targets(self) -> Float64:
        """What a ridge is fitted to: (n, labels), 1 or 0."""
        return self.marks.astype(np.float64)

    @property
    def counted(self) -> Marks:
        """Mark the pictures (n,) all of whose labels another picture has: the rest cannot be held out."""
        alone = self.marks.sum(axis=0) == 1
        return np.logical_not(self.marks[:, alone].any(axis=1))

    def check(self) -> None:
        """Raise DataError if no label tells pictures apart."""
        if not (self.marks.any(axis=0) & ~self.marks.all(axis=0)).any():
            num_pictures, num_labels = self.marks.shape
            raise DataError(
                f"Of {num_labels} labels, none is on some of the {num_pictures} training pictures but not on all of "
                "them, so there is nothing to tell apart. Check the labels in the table."
            )

    def take(self, rows: NDArray[np.intp]) -> LabelSets:
        return LabelSets(self.marks[rows])

    def sample(self, most: int) -> NDArray[np.intp]:
        """Return the rows of at most this many pictures, evenly spaced."""
        return np.linspace(0, len(self) - 1, min(most, len(self))).round().astype(np.intp)

    def error(self, scores: Float64) -> float:
        """Return 1 - mean average precision of scores (n, labels)."""
        return 1 - mean_average_precision(scores, self.marks)

    def calibrate(self, scores: Float64, sample: NDArray[np.intp]) -> Calibration:
        """Calibrate held-out scores (n, labels), on all pictures: rare labels need every one that they are on."""
        slopes, offsets = np.transpose(self._by_label(_platt, scores))
        probabilities = expit(scores * slopes + offsets)
        thresholds = tuple(float(threshold) for threshold in self._by_label(_best_threshold, probabilities))
        log_loss = float(log_losses(np.where(self.marks, probabilities, 1 - probabilities)).mean())
        return Calibration(1.0, offsets, log_loss, self.error(scores), slopes, thresholds)

    def evaluate(
        self, probabilities: Array, classes: Sequence[str], thresholds: Sequence[float], split: Split
    ) -> LabelMetrics:
        """Score probabilities (n, labels)."""
        from pipeline.evaluation.labels import evaluate_labels  # scikit-learn

        return evaluate_labels(self.marks, probabilities, classes, thresholds, split)

    def learning_curve(self, features: Mapping[str, Array], head: Head) -> LearningCurve | None:
        """Return None: the law of the learning curve is known for classes that exclude each other only."""
        return None

    def figure(self, error: float) -> str:
        return f"{1 - error:.3f}"

    def result(self, error: float) -> str:
        return f"mAP (mean average precision) is {1 - error:.3f} on {len(self):,} training pictures, held out in turn"

    def reasons(self, scores: Float64, calibration: Calibration) -> tuple[str, ...]:
        """Say where the thresholds are from."""
        num_labels = self.marks.shape[1]
        few = self._few()
        own = np.array(calibration.thresholds)[~few]
        reasons = []
        if len(own):
            reasons.append(
                f"{len(own)} of {num_labels} labels have the threshold of the best F1 on held-out pictures, "
                f"{own.min():.2f} to {own.max():.2f}."
            )
        if few.any():
            shared = calibration.thresholds[int(few.argmax())]
            reasons.append(
                f"{int(few.sum())} of {num_labels} labels are on fewer than {FEW_PICTURES} training pictures, or "
                f"missing on fewer: they share the threshold of the best F1 over all labels, {shared:.2f}, and the "
                "calibration of all labels."
            )
        return tuple(reasons)

    def _few(self) -> Marks:
        num_with = self.marks.sum(axis=0)
        few: Marks = np.minimum(num_with, len(self) - num_with) < FEW_PICTURES
        return few

    def _by_label(self, fit: Callable[[Float64, Marks], Fitted], values: Float64) -> list[Fitted]:
        """Fit each label's column of values (n, labels); labels on few pictures share the fit of all columns."""
        together, few = fit(values.ravel(), self.marks.ravel()), self._few()
        return [
            together if is_few else fit(column, marks)
            for column, marks, is_few in zip(values.T, self.marks.T, few, strict=True)
        ]


def label_matrix(labels: Sequence[Sequence[int]], num_labels: int) -> Marks:
    """Return a row for each picture and a column for each label, True if the picture has it.

    >>> label_matrix([(0, 2), ()], 3).tolist()
    [[True, False, True], [False, False, False]]
    """
    matrix = np.zeros((len(labels), num_labels), dtype=np.bool_)
    for row, found in enumerate(labels):
        matrix[row, list(found)] = True
    return matrix


def _platt(scores: Float64, positive: Marks) -> tuple[float, float]:
    """Return slope and offset of the least log loss, with Platt's doubt: one picture more on each side."""
    num_positive, num_negative = positive.sum(), (~positive).sum()
    wanted = np.where(positive, (num_positive + 1) / (num_positive + 2), 1 / (num_negative + 2))
    centre, scale = scores.mean(), scores.std() or 1.0
    inputs = (scores - centre) / scale

    def loss(values: Float64) -> tuple[float, Float64]:
        logits = values[0] * inputs + values[1]
        missed = expit(logits) - wanted
        gradient = np.array([(missed * inputs).mean(), missed.mean()])
        return float((np.logaddexp(0, logits) - wanted * logits).mean()), gradient

    found = minimize(
        loss, np.array([1.0, 0.0]), jac=True, method="L-BFGS-B", bounds=[(SMALLEST_SLOPE * scale, None), (None, None)]
    )
    slope = float(found.x[0] / scale)
    return slope, float(found.x[1] - slope * centre)


def _best_threshold(probabilities: Float64, positive: Marks) -> float:
    """Return the threshold of the best F1: half-way between the last picture that gets the label and the next.

    >>> round(_best_threshold(np.array([0.9, 0.8, 0.3, 0.2]), np.array([True, True, False, False])), 3)
    0.55
    """
    order = np.argsort(-probabilities, kind="stable")
    ranked = probabilities[order]
    hits = np.cumsum(positive[order])
    f1 = 2 * hits / (np.arange(1, len(ranked) + 1) + hits[-1])
    below = np.append(ranked[1:], 0.0)
    f1[ranked == below] = -1  # equal probabilities cannot be told apart
    last = int(f1.argmax())
    return float((ranked[last] + below[last]) / 2)
