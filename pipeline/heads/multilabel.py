"""Features to a classifier of labels that do not exclude each other: any number of them, or none, a picture.

Ridge on 0/1 targets, a column a label, on every tap; taps stacked by held-out squared error as for labels that
exclude each other. Then each label's scores become a probability of its own (Platt 1999, on leave-one-out scores,
folded into weights and biases: the head is plain linear, and probability = sigmoid(score)) and get the threshold that
gives the best F1 on leave-one-out probabilities.

A label with fewer than `FEW_POSITIVES` pictures with it, or without it, says too little about itself: its calibration
and threshold are those of all labels together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit

from pipeline.errors import DataError
from pipeline.evaluation.average_precision import mean_average_precision
from pipeline.evaluation.labels import Targets, label_matrix
from pipeline.heads.ridge import Float64, RidgeFit, fit_targets
from pipeline.heads.stacking import SELECTION_SIZE, Stack, share_taps
from pipeline.images.views import view_sets
from pipeline.types import Array, Head, HeadTap, Tap

FEW_POSITIVES = 10
SMALLEST_SLOPE = 1e-3  # leave-one-out scores of noise rank the wrong way round; a head must not turn them over
SHOWN = 5  # labels that a reason names


@dataclass(frozen=True, slots=True)
class _Calibration:
    """Probability = sigmoid(slope * score + offset), label by label."""

    slopes: Float64  # (labels,), positive
    offsets: Float64  # (labels,)

    def probabilities(self, scores: Float64) -> Float64:
        values: Float64 = expit(scores * self.slopes + self.offsets)
        return values


def fit_multilabel_head(
    features: Mapping[str, Array],
    taps: Sequence[Tap],
    labels: Sequence[Sequence[int]],
    num_labels: int,
    groups: Sequence[int] | None = None,
) -> Head:
    """Fit a classifier on those candidate taps, and those views, that earn a place in it; see `heads.fit_head`.

    Parameters
    ----------
    labels
        Of every row, the labels it has: integers below `num_labels`. A label without pictures keeps its column.
    groups
        (rows,) the picture of each row, where there are views: all originals, then view after view.

    Raises
    ------
    DataError
        When no label tells pictures apart.
    """
    num_pictures = len(labels) if groups is None else len(set(groups))
    targets = label_matrix(labels[:num_pictures], num_labels)
    _check_targets(targets)
    sample = np.arange(num_pictures)
    if num_pictures > SELECTION_SIZE:
        sample = np.linspace(0, num_pictures - 1, SELECTION_SIZE).round().astype(np.intp)
    stacks = _fit_stacks(features, taps, targets, sample, view_sets(len(labels) // num_pictures - 1))
    errors = [float(np.square(targets[sample] - stack.loo_scores()).mean()) for stack in stacks]
    best = stacks[int(np.argmin(errors))]
    evidence = tuple(_evidence_row(tap, best, targets[sample]) for tap in taps)
    chosen = [tap for tap in taps if tap.name in best.shares]
    if len(sample) < num_pictures:
        whole = _fit(features, chosen, targets, np.arange(num_pictures), [best.views])
        best = replace(best, fits=whole[best.views])
    scores = best.loo_scores()
    calibration = _calibrate(scores, targets)
    probabilities = calibration.probabilities(scores)
    thresholds = _thresholds(probabilities, targets)
    loo_error = _ranking_error(scores, targets)
    return Head(
        taps=tuple(_head_tap(tap, best, calibration, targets) for tap in chosen),
        temperature=1.0,
        loo_error=loo_error,
        loo_log_loss=_log_loss(probabilities, targets),
        evidence=evidence,
        reasons=(
            _choice(evidence, loo_error, num_pictures),
            *_few_reasons(targets, thresholds, num_labels),
            *_view_reasons(best.views, errors),
        ),
        activation="sigmoid",
        thresholds=tuple(float(threshold) for threshold in thresholds),
        held_out=probabilities.astype(np.float32),
    )


def _check_targets(targets: Targets) -> None:
    if not (targets.any(axis=0) & ~targets.all(axis=0)).any():
        raise DataError(
            f"Of {targets.shape[1]} labels none is on some of the {len(targets)} training pictures but not on all, so "
            "there is nothing to tell apart. Check the table's labels."
        )


# ── which taps and views ─────────────────────────────────────────────────────────────────────────

Views = tuple[int, ...]


def _fit_stacks(
    features: Mapping[str, Array],
    taps: Sequence[Tap],
    targets: Targets,
    sample: NDArray[np.intp],
    sets: Sequence[Views],
) -> list[Stack]:
    all_fits = _fit(features, taps, targets, sample, sets)
    return [Stack(views, fits, _shares(fits, targets[sample])) for views, fits in all_fits.items()]


def _fit(
    features: Mapping[str, Array],
    taps: Sequence[Tap],
    targets: Targets,
    pictures: NDArray[np.intp],
    sets: Sequence[Views],
) -> dict[Views, dict[str, RidgeFit]]:
    """Fit every tap on every set of views; a tap's features are asked for once."""
    fits: dict[Views, dict[str, RidgeFit]] = {views: {} for views in sets}
    wanted, counted = targets[pictures].astype(np.float64), _countable(targets[pictures])
    for tap in taps:
        rows = features[tap.name]
        for views in sets:
            of_views = np.concatenate([view * len(targets) + pictures for view in views])
            fits[views][tap.name] = fit_targets(rows[of_views], tap.kind, wanted, counted)
    return fits


def _countable(targets: Targets) -> NDArray[np.bool_]:
    """Mark the pictures (n,) that have no label alone: such a label is unknown where its picture is held out."""
    alone = targets.sum(axis=0) == 1
    return np.logical_not(targets[:, alone].any(axis=1))


def _shares(fits: Mapping[str, RidgeFit], targets: Targets) -> dict[str, float]:
    counted = _countable(targets)
    if not counted.any():
        return {name: 1 / len(fits) for name in fits}
    errors = np.stack([(targets - fit.loo_scores)[counted].ravel() for fit in fits.values()])
    shares = share_taps(errors @ errors.T)
    return {name: float(share) for name, share in zip(fits, shares, strict=True) if share}


def _head_tap(tap: Tap, stack: Stack, calibration: _Calibration, targets: Targets) -> HeadTap:
    """Fold a tap's share and the calibration into its weights: a head is the plain mean of its taps."""
    fit = stack.fits[tap.name]
    factors = stack.shares[tap.name] * len(stack.shares) * calibration.slopes
    return HeadTap(
        tap=tap.name,
        kind=tap.kind,
        weight=(fit.weight * factors).astype(np.float32),
        bias=(fit.bias * factors + calibration.offsets).astype(np.float32),
        penalty=fit.penalty,
        logme=fit.logme,
        loo_error=_ranking_error(fit.loo_scores, targets),
    )


def _ranking_error(scores: Float64, targets: Targets) -> float:
    return 1 - mean_average_precision(scores, targets)


# ── probabilities and thresholds ─────────────────────────────────────────────────────────────────


def _calibrate(scores: Float64, targets: Targets) -> _Calibration:
    together = _platt(scores.ravel(), targets.ravel())
    few = _is_few(targets)
    pairs = [
        together if few[label] else _platt(scores[:, label], targets[:, label]) for label in range(targets.shape[1])
    ]
    slopes, offsets = np.array(pairs).T
    return _Calibration(slopes, offsets)


def _platt(scores: Float64, positive: NDArray[np.bool_]) -> tuple[float, float]:
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


def _thresholds(probabilities: Float64, targets: Targets) -> Float64:
    together = _best_threshold(probabilities.ravel(), targets.ravel())
    few = _is_few(targets)
    return np.array(
        [
            together if few[label] else _best_threshold(probabilities[:, label], targets[:, label])
            for label in range(targets.shape[1])
        ]
    )


def _best_threshold(probabilities: Float64, positive: NDArray[np.bool_]) -> float:
    """Return the threshold of the best F1: half-way between the last picture that gets the label and the next."""
    order = np.argsort(-probabilities, kind="stable")
    ranked = probabilities[order]
    hits = np.cumsum(positive[order])
    f1 = 2 * hits / (np.arange(1, len(ranked) + 1) + hits[-1])
    below = np.append(ranked[1:], 0.0)
    f1[ranked == below] = -1  # equal probabilities cannot be told apart
    last = int(f1.argmax())
    return float((ranked[last] + below[last]) / 2)


def _is_few(targets: Targets) -> NDArray[np.bool_]:
    num_with = targets.sum(axis=0)
    few: NDArray[np.bool_] = np.minimum(num_with, len(targets) - num_with) < FEW_POSITIVES
    return few


def _log_loss(probabilities: Float64, targets: Targets) -> float:
    likely = np.where(targets, probabilities, 1 - probabilities)
    return float(-np.log(np.maximum(likely, 1e-15)).mean())


# ── why ──────────────────────────────────────────────────────────────────────────────────────────


def _evidence_row(tap: Tap, stack: Stack, targets: Targets) -> dict[str, str | float]:
    fit = stack.fits[tap.name]
    return {
        "tap": tap.name,
        "kind": tap.kind,
        "logme": fit.logme,
        "loo_error": _ranking_error(fit.loo_scores, targets),
        "penalty": fit.penalty,
        "share": stack.shares.get(tap.name, 0.0),
    }


def _choice(evidence: Sequence[Mapping[str, Any]], loo_error: float, num_pictures: int) -> str:
    chosen = sorted((row for row in evidence if row["share"]), key=lambda row: -row["share"])
    result = f"mAP is {1 - loo_error:.3f} on {num_pictures:,} pictures held out one at a time"
    if len(evidence) == 1:
        return f"The only candidate tap is {chosen[0]['tap']}; {result}."
    names = ", ".join(f"{row['tap']} ({row['share']:.2f})" for row in chosen)
    best = min(evidence, key=lambda row: row["loo_error"])
    sampled = f" (compared on {SELECTION_SIZE:,} of them)" if num_pictures > SELECTION_SIZE else ""
    return (
        f"Of {len(evidence)} taps{sampled}, the least leave-one-out squared error is that of {names}; "
        f"{result}, against {1 - best['loo_error']:.3f} for the best tap alone, {best['tap']}."
    )


def _few_reasons(targets: Targets, thresholds: Float64, num_labels: int) -> tuple[str, ...]:
    few = np.flatnonzero(_is_few(targets))
    own = np.delete(thresholds, few)
    reasons = []
    if len(own):
        reasons.append(
            f"{len(own)} of {num_labels} labels have the threshold of the best F1 on held-out pictures, "
            f"{own.min():.2f} to {own.max():.2f}."
        )
    if len(few):
        reasons.append(
            f"{len(few)} of {num_labels} labels are on fewer than {FEW_POSITIVES} training pictures, or missing on "
            f"fewer: they share the threshold of the best F1 over all labels, {thresholds[few[0]]:.2f}, and their "
            "calibration."
        )
    return tuple(reasons)


def _view_reasons(views: Views, errors: Sequence[float]) -> tuple[str, ...]:
    if len(errors) == 1:
        return ()
    return (
        f"Trained on {len(views) - 1 or 'none'} of the augmented views: the leave-one-out squared error of originals "
        f"is {min(errors[1:]):.4f} with them and {errors[0]:.4f} without.",
    )
