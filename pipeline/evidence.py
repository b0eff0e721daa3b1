"""What one tap knows about a task: exact leave-one-out ridge and log evidence from one eigendecomposition.

With `X` the transformed, centred features (n, dim), `Y` the centred one-hot targets (n, classes) and
`X = R U'` in the eigenbasis of `X'X` (eigenvalues `w`, `R = X U`), every ridge fit is a division:

    fitted   R (R'Y / (w + penalty))
    leverage H_ii = 1/n + sum_j R_ij^2 / (w_j + penalty)           the 1/n is the intercept
    held out Y_i - (Y - fitted)_i / (1 - H_ii)                      exactly what a refit without i predicts
    evidence -1/2 sum_j log(1 + w_j / t) - m/2 log(2 pi e q / m),   q = Y'Y - sum_j (R'Y)_j^2 / (w_j + t)

The evidence is LogME (You et al. 2021, arXiv:2102.11005) with the noise maximised out, which leaves one
number `t`, the prior's precision over the noise's, and the intercept integrated out, which leaves `m = n - 1`
observations. Directions without features have `w = 0` and count for nothing; the public code adds their
`log alpha` all the same, which biases comparisons between taps of different width.

With augmented views a picture is a group of V rows: its original and the views. They are left out together,
because the others would give away the one that is asked for. The original weighs 1/2 and the views share the
other half (`X` and `Y` carry the roots `s`), so that a picture stays one observation and equal views change
nothing. The same identity holds for blocks, and what is asked for is the original:

    held out Y_g - (I - H_gg)^-1 (Y - fitted)_g / s                 H_gg = s s'/n + R_g diag(1 / (w + penalty)) R_g'

Targets of 0/1, -1/+1 or centred give the same fit up to an affine map, because there is an intercept.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations_with_replacement

import numpy as np
from numpy.typing import NDArray

from pipeline.types import Array, TapKind

Float64 = NDArray[np.float64]
Labels = NDArray[np.integer]

# in mean eigenvalues; on 8 real datasets of 100 to 1,400 pictures leave-one-out chose 0.001 to 2
PENALTY_PATH = np.logspace(-4, 4, 25)
DEFAULT_PENALTY = len(PENALTY_PATH) // 2  # the mean eigenvalue itself, for when nothing can be held out
EVIDENCE_PATH = np.logspace(-6, 6, 121)  # fine enough: within 1e-3 of the maximum, per picture
CHUNK_ROWS = 4096  # rows that are squared at a time


@dataclass(frozen=True, slots=True)
class RidgeFit:
    """One tap's linear classifier and how well it would have predicted each training picture unseen."""

    weight: Array  # (dim, classes), for transformed but uncentred features
    bias: Array  # (classes,)
    penalty: float  # ridge lambda
    logme: float  # log evidence per observation, mean over classes
    loo_scores: Float64  # (n, classes)


@dataclass(frozen=True, slots=True)
class _Spectrum:
    """Features and targets in the eigenbasis of the features; rows are all originals, then view after view."""

    roots: Float64  # (V,): of the weights of a picture's V rows, the original first
    eigenvalues: Float64  # (r,), ascending, at least 0; r = min(n V, dim)
    rotated: Float64  # (n V, r): R
    targets: Float64  # (n V, classes): Y
    projections: Float64  # (r, classes): R'Y

    @property
    def num_pictures(self) -> int:
        return len(self.rotated) // len(self.roots)


def transform(features: Array, kind: TapKind) -> Array:
    """Make features comparable by direction: (n, dim) float32, every row of length 1 (or 0).

    Global averages first take a signed square root, which evens out the few channels that fire strongly.
    Never a z-score: on ReLU features it lost up to 16 points of accuracy.
    """
    rows = np.array(features, dtype=np.float32)
    if kind == "gap":
        rows = np.sign(rows) * np.sqrt(np.abs(rows))
    lengths = np.sqrt(np.einsum("ij,ij->i", rows, rows, dtype=np.float32))
    rows /= np.where(lengths > 0, lengths, 1)[:, None]
    return rows


def countable(labels: Labels) -> NDArray[np.bool_]:
    """Mark the pictures (n,) whose class has another one: what is alone in its class cannot be held out."""
    marks: NDArray[np.bool_] = np.bincount(labels)[labels] > 1
    return marks


def fit_ridge(features: Array, kind: TapKind, labels: Labels, num_classes: int) -> RidgeFit:
    """Fit one-hot ridge regression on one tap; leave-one-out squared error chooses the penalty.

    Parameters
    ----------
    features
        (n V, dim) as extracted, n at least 2: all originals, then view after view.
    labels
        Of the n pictures, integers below `num_classes`; a class may have no picture, its column is then constant.
    """
    return fit_targets(features, kind, np.eye(num_classes)[labels], countable(labels))


def fit_targets(features: Array, kind: TapKind, targets: Float64, counted: NDArray[np.bool_]) -> RidgeFit:
    """Fit ridge regression of any targets on one tap; see `fit_ridge`.

    Parameters
    ----------
    targets
        (n, outputs) of the n pictures.
    counted
        (n,) pictures whose leave-one-out error chooses the penalty.
    """
    roots = np.sqrt(_weights(len(features) // len(targets)))
    row_roots = np.repeat(roots, len(targets))[:, None]
    # float64 throughout: where the penalty is small, leave-one-out divides by 1 - H_ii of about 1e-4
    inputs = transform(features, kind).astype(np.float64)
    centre = np.square(roots) @ inputs.reshape(len(roots), len(targets), -1).mean(axis=1)
    inputs -= centre
    inputs *= row_roots
    prior = targets.mean(axis=0)
    spectrum = _decompose(inputs, np.tile(targets - prior, (len(roots), 1)) * row_roots, roots)
    penalty, residuals, held_out = _leave_one_out(spectrum, counted)
    weight = inputs.T @ residuals / penalty
    return RidgeFit(
        weight=weight.astype(np.float32),
        bias=(prior - centre @ weight).astype(np.float32),
        penalty=penalty,
        logme=_logme(spectrum),
        loo_scores=targets - held_out,
    )


def _weights(num_views: int) -> Float64:
    """Weigh a picture's rows, (V,): half for the original, half for its views together; they add up to 1."""
    if num_views == 1:
        return np.ones(1)
    return np.array([0.5, *[0.5 / (num_views - 1)] * (num_views - 1)])


def _decompose(inputs: Float64, targets: Float64, roots: Float64) -> _Spectrum:
    """Eigendecompose the smaller of `X X'` and `X'X`."""
    num_rows, dim = inputs.shape
    eigenvalues, vectors = np.linalg.eigh(inputs.T @ inputs if num_rows > dim else inputs @ inputs.T)
    eigenvalues = np.maximum(eigenvalues, 0)  # rounding leaves the empty directions a little below
    rotated = inputs @ vectors if num_rows > dim else vectors * np.sqrt(eigenvalues)
    return _Spectrum(roots, eigenvalues, rotated, targets, rotated.T @ targets)


def _leave_one_out(spectrum: _Spectrum, counted: NDArray[np.bool_]) -> tuple[float, Float64, Float64]:
    """Return the best penalty, its residuals (n V, classes) and the originals' held-out residuals (n, classes)."""
    penalties = PENALTY_PATH * _scale(spectrum)
    shrinkage = 1 / (spectrum.eigenvalues[:, None] + penalties)
    amplifiers = _amplifiers(spectrum, shrinkage)

    def residuals(step: int) -> Float64:
        return spectrum.targets - spectrum.rotated @ (spectrum.projections * shrinkage[:, step, None])

    def held_out(rows: Float64, step: int) -> Float64:
        by_view = rows.reshape(len(spectrum.roots), spectrum.num_pictures, -1)
        left: Float64 = np.einsum("nv,vnc->nc", amplifiers[:, step], by_view) / spectrum.roots[0]
        return left

    def loo_error(step: int) -> float:
        return float(np.square(held_out(residuals(step), step)[counted]).sum())

    best = min(range(len(penalties)), key=loo_error) if counted.any() else DEFAULT_PENALTY
    kept = residuals(best)
    return float(penalties[best]), kept, held_out(kept, best)


def _amplifiers(spectrum: _Spectrum, shrinkage: Float64) -> Float64:
    """Return the original's row of (I - H_gg)^-1 for every picture and penalty, (n, penalties, V)."""
    num_views, num_pictures = len(spectrum.roots), spectrum.num_pictures
    intercept = np.outer(spectrum.roots, spectrum.roots) / num_pictures
    rotated = spectrum.rotated.reshape(num_views, num_pictures, -1)
    amplifiers = np.empty((num_pictures, shrinkage.shape[1], num_views))
    for start in range(0, num_pictures, CHUNK_ROWS):
        chunk = rotated[:, start : start + CHUNK_ROWS]
        room = np.empty((chunk.shape[1], shrinkage.shape[1], num_views, num_views))  # I - H_gg
        for one, other in combinations_with_replacement(range(num_views), 2):
            leverage = intercept[one, other] + (chunk[one] * chunk[other]) @ shrinkage
            room[..., one, other] = room[..., other, one] = (one == other) - leverage
        amplifiers[start : start + CHUNK_ROWS] = np.linalg.solve(room, np.eye(num_views)[:, :1])[..., 0]
    return amplifiers


def _logme(spectrum: _Spectrum) -> float:
    """Return the largest log evidence, per observation, averaged over the classes that vary."""
    num_free = spectrum.num_pictures - 1
    energy = np.square(spectrum.targets).sum(axis=0)
    precisions = EVIDENCE_PATH[:, None] * _scale(spectrum)
    misfit = energy - (1 / (precisions + spectrum.eigenvalues)) @ np.square(spectrum.projections)
    volume = np.log1p(spectrum.eigenvalues / precisions).sum(axis=1)
    varied = energy > 0
    noise = np.log(2 * np.pi * np.e * misfit[:, varied] / num_free)
    evidence = -0.5 * (volume[:, None] / num_free + noise)
    return float(evidence.max(axis=0).mean())


def _scale(spectrum: _Spectrum) -> float:
    """Return the mean eigenvalue, or 1 where features are constant."""
    rank = min(spectrum.num_pictures, len(spectrum.eigenvalues))  # without more views of the same pictures
    return float(spectrum.eigenvalues.sum() / rank) or 1.0
