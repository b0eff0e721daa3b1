"""Ridge regression on one tap: exact leave-one-out scores and log evidence from one eigendecomposition.

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

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import combinations_with_replacement

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve, cholesky, solve_triangular

from pipeline.types import Array, TapKind

Float64 = NDArray[np.float64]
Real = NDArray[np.floating]
Labels = NDArray[np.integer]

# in mean eigenvalues; on 8 real datasets of 100 to 1,400 pictures leave-one-out chose 0.001 to 2
PENALTY_PATH = np.logspace(-4, 4, 25)
DEFAULT_PENALTY = len(PENALTY_PATH) // 2  # the mean eigenvalue itself, for when nothing can be held out
EVIDENCE_PATH = np.logspace(-6, 6, 121)  # fine enough: within 1e-3 of the maximum, per picture
CHUNK_ROWS = 4096  # rows that are squared or turned at a time
EXACT_ROWS = 8192  # more rows than these stay in float32, and no matrix is as wide as they are many
WIDEST_BASIS = 4096  # of more rows and more values than these there is no eigenbasis: it would take minutes
WIDE_PATH = PENALTY_PATH[6:14]  # of penalties there, since each costs a factorisation
EVIDENCE_SAMPLE = 2048  # pictures, evenly spaced, whose log evidence stands for all there
WIDE_SAMPLE = 2048  # pictures, evenly spaced, whose held-out error chooses it


@dataclass(frozen=True, slots=True)
class RidgeFit:
    """A linear classifier and how well it would have predicted each training picture unseen."""

    weight: Array  # (dim, classes), for transformed but uncentred features
    bias: Array  # (classes,)
    penalty: float  # ridge lambda
    logme: float  # log evidence per observation, mean over classes; nan of `fit_inputs` without an eigenbasis
    loo_scores: Float64  # (n, classes)


@dataclass(frozen=True, slots=True)
class _Task:
    """Centred features and targets, weighted by view; rows are all originals, then view after view."""

    roots: Float64  # (V,): of the weights of a picture's V rows, the original first
    inputs: Real  # (n V, dim): X
    centre: Float64  # (dim,)
    targets: Float64  # (n V, classes): Y
    prior: Float64  # (classes,)

    @property
    def num_pictures(self) -> int:
        return len(self.targets) // len(self.roots)


@dataclass(frozen=True, slots=True)
class _Spectrum:
    """A task in the eigenbasis of its features."""

    task: _Task
    eigenvalues: Float64  # (r,), ascending, at least 0; r = min(n V, dim)
    vectors: Float64 | None  # (dim, r): U, if `X'X` was decomposed
    rotated: Real  # (n V, r): R
    projections: Float64  # (r, classes): R'Y


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


def fit_ridge(features: Array, kind: TapKind, targets: Float64, counted: NDArray[np.bool_]) -> RidgeFit:
    """Fit ridge regression on one tap; the leave-one-out squared error chooses the penalty.

    Parameters
    ----------
    features
        (n V, dim) as extracted, n at least 2: all originals, then view after view.
    targets
        (n, outputs) of the n pictures; a column may be constant.
    counted
        (n,) pictures whose leave-one-out error chooses the penalty.
    """
    widest = WIDEST_BASIS if len(features) > EXACT_ROWS else features.shape[1]
    fit = fit_inputs(transform(features, kind), targets, counted, widest)
    if np.isnan(fit.logme):
        few = np.linspace(0, len(targets) - 1, EVIDENCE_SAMPLE).round().astype(np.intp)
        spectrum = _decompose(_centred(transform(features[few], kind), targets[few]))
        fit = replace(fit, logme=_logme(spectrum))
    return fit


def fit_inputs(
    inputs: Array,
    targets: Float64,
    counted: NDArray[np.bool_],
    widest: int | None = None,
) -> RidgeFit:
    """Fit ridge regression on features that are comparable already; see `fit_ridge`. They are overwritten.

    Parameters
    ----------
    widest
        If there are more rows and more values than this, there is no eigenbasis and no log evidence.
    """
    task = _centred(inputs, targets)
    if min(task.inputs.shape) > (WIDEST_BASIS if widest is None else widest):
        weight, penalty, held_out = _solve_wide(task, counted)
        logme = np.nan
    else:
        spectrum = _decompose(task)
        weight, penalty, held_out = _leave_one_out(spectrum, counted)
        logme = _logme(spectrum)
    return RidgeFit(
        weight=weight.astype(np.float32),
        bias=(task.prior - task.centre @ weight).astype(np.float32),
        penalty=penalty,
        logme=logme,
        loo_scores=targets - held_out,
    )


def _centred(inputs: Array, targets: Float64) -> _Task:
    """Centre and weigh: half for a picture's original, half for its views together.

    In float64 if rows are few: if the penalty is small, leave-one-out divides by 1 - H_ii of about 1e-4.
    If they are many it is at least 1 - dim / n on average, and float32 moved no held-out score
    of 10,000 CIFAR-10 pictures by more than 2e-6.
    """
    num_views = len(inputs) // len(targets) - 1
    roots = np.sqrt([0.5, *[0.5 / num_views] * num_views] if num_views else [1.0])
    row_roots = np.repeat(roots, len(targets))[:, None]
    rows = inputs.astype(np.float64) if len(inputs) <= EXACT_ROWS else inputs
    views = rows.reshape(len(roots), len(targets), -1)
    centre = np.square(roots) @ views.mean(axis=1, dtype=np.float64)
    rows -= centre.astype(rows.dtype)
    if len(roots) > 1:
        rows *= row_roots.astype(rows.dtype)
    prior = targets.mean(axis=0)
    return _Task(roots, rows, centre, np.tile(targets - prior, (len(roots), 1)) * row_roots, prior)


def _decompose(task: _Task) -> _Spectrum:
    """Eigendecompose the smaller of `X X'` and `X'X`; of many rows always the latter."""
    num_rows, dim = task.inputs.shape
    if num_rows > min(dim, EXACT_ROWS):
        eigenvalues, vectors = np.linalg.eigh(multiply(task.inputs, task.inputs))
        rotated = task.inputs if num_rows > EXACT_ROWS else np.empty_like(task.inputs)
        turn = vectors.astype(rotated.dtype)
        for rows in _chunks(num_rows):
            rotated[rows] = task.inputs[rows] @ turn
        eigenvalues = np.maximum(eigenvalues, 0)  # rounding leaves the empty directions a little below
        return _Spectrum(task, eigenvalues, vectors, rotated, multiply(rotated, task.targets))
    eigenvalues, vectors = np.linalg.eigh(task.inputs @ task.inputs.T)
    eigenvalues = np.maximum(eigenvalues, 0)
    rotated = vectors * np.sqrt(eigenvalues)
    return _Spectrum(task, eigenvalues, None, rotated, rotated.T @ task.targets)


def _chunks(num_rows: int) -> list[slice]:
    return [slice(start, start + CHUNK_ROWS) for start in range(0, num_rows, CHUNK_ROWS)]


def multiply(inputs: Real, others: Real) -> Float64:
    """Return `X'Y`: products of a chunk in the precision of `X`, their sum in float64."""
    total = np.zeros((inputs.shape[1], others.shape[1]))
    for rows in _chunks(len(inputs)):
        total += inputs[rows].T @ others[rows].astype(inputs.dtype, copy=False)
    return total


def _leave_one_out(spectrum: _Spectrum, counted: NDArray[np.bool_]) -> tuple[Float64, float, Float64]:
    """Return the weights (dim, classes) of the best penalty, it, and held-out residuals of originals (n, classes)."""
    task = spectrum.task
    penalties = PENALTY_PATH * _scale(spectrum)
    shrinkage = 1 / (spectrum.eigenvalues[:, None] + penalties)
    amplifiers = _amplifiers(task, spectrum.rotated, shrinkage)

    def residuals(step: int) -> Float64:
        turned = (spectrum.projections * shrinkage[:, step, None]).astype(spectrum.rotated.dtype)
        return task.targets - spectrum.rotated @ turned

    def loo_error(step: int) -> float:
        return float(np.square(_held_out(task, amplifiers[:, step], residuals(step))[counted]).sum())

    best = min(range(len(penalties)), key=loo_error) if counted.any() else DEFAULT_PENALTY
    kept, penalty = residuals(best), float(penalties[best])
    if spectrum.vectors is None:
        weight = task.inputs.T @ kept / penalty
    else:
        weight = spectrum.vectors @ (spectrum.projections * shrinkage[:, best, None])
    return weight, penalty, _held_out(task, amplifiers[:, best], kept)


def _held_out(task: _Task, amplifiers: Float64, residuals: Float64) -> Float64:
    """Return the originals' held-out residuals (n, classes), given those (n V, classes) of a fit."""
    by_view = residuals.reshape(len(task.roots), len(amplifiers), -1)
    left: Float64 = np.einsum("nv,vnc->nc", amplifiers, by_view) / task.roots[0]
    return left


def _amplifiers(task: _Task, rotated: Real, shrinkage: Float64) -> Float64:
    """Return the original's row of (I - H_gg)^-1 for every picture and penalty, (n, penalties, V)."""
    num_views = len(task.roots)
    num_pictures = len(rotated) // num_views
    intercept = np.outer(task.roots, task.roots) / task.num_pictures
    by_view = rotated.reshape(num_views, num_pictures, -1)
    weights = shrinkage.astype(rotated.dtype)
    amplifiers = np.empty((num_pictures, shrinkage.shape[1], num_views))
    for rows in _chunks(num_pictures):
        chunk = by_view[:, rows]
        room = np.empty((chunk.shape[1], shrinkage.shape[1], num_views, num_views))  # I - H_gg
        for one, other in combinations_with_replacement(range(num_views), 2):
            leverage = intercept[one, other] + (chunk[one] * chunk[other]) @ weights
            room[..., one, other] = room[..., other, one] = (one == other) - leverage
        amplifiers[rows] = np.linalg.solve(room, np.eye(num_views)[:, :1])[..., 0]
    return amplifiers


def _solve_wide(task: _Task, counted: NDArray[np.bool_]) -> tuple[Float64, float, Float64]:
    """Do what `_leave_one_out` does without an eigenbasis, which takes minutes from 4,096 values on.

    With `X'X + penalty = L L'` the rows of `X L'^-1` have the leverages as their squared lengths. The penalty is
    chosen by the held-out error of a sample; then every picture is held out, exactly.
    """
    products = multiply(task.inputs, task.inputs).astype(np.float32)
    projections = multiply(task.inputs, task.targets).astype(np.float32)
    scale = float(np.trace(products, dtype=np.float64) / len(products)) or 1.0
    sample = np.linspace(0, task.num_pictures - 1, min(WIDE_SAMPLE, task.num_pictures)).round().astype(np.intp)

    def solve(penalty: float, pictures: NDArray[np.intp]) -> tuple[Float64, Float64]:
        ridged = products.copy()
        ridged[np.diag_indices(len(products))] += np.float32(penalty)
        factor = cholesky(ridged, lower=True, overwrite_a=True, check_finite=False)
        weight = cho_solve((factor, True), projections, check_finite=False)
        held_out = np.empty((len(pictures), task.targets.shape[1]))
        for part in _chunks(len(pictures)):
            rows = np.concatenate([view * task.num_pictures + pictures[part] for view in range(len(task.roots))])
            inputs = task.inputs[rows]
            turned = solve_triangular(factor, inputs.T, lower=True, check_finite=False).T
            amplifiers = _amplifiers(task, turned, np.ones((len(products), 1)))[:, 0]
            held_out[part] = _held_out(task, amplifiers, task.targets[rows] - inputs @ weight)
        return weight, held_out

    def loo_error(step: float) -> float:
        return float(np.square(solve(step * scale, sample)[1][counted[sample]]).sum())

    penalty = scale * (_lowest(WIDE_PATH, loo_error) if counted[sample].any() else 1.0)
    weight, held_out = solve(penalty, np.arange(task.num_pictures))
    return weight.astype(np.float64), float(penalty), held_out


def _lowest(path: Float64, cost: Callable[[float], float]) -> float:
    """Walk downhill from the middle of a path: held-out error has one valley in the penalty, and steps are costly."""
    place = len(path) // 2
    known = {place: cost(path[place])}
    for way in (-1, 1):
        while 0 <= place + way < len(path):
            known[place + way] = cost(path[place + way])
            if known[place + way] >= known[place]:
                break
            place += way
    return float(path[min(known, key=lambda one: known[one])])


def _logme(spectrum: _Spectrum) -> float:
    """Return the largest log evidence, per observation, averaged over the classes that vary."""
    num_free = spectrum.task.num_pictures - 1
    energy = np.square(spectrum.task.targets).sum(axis=0)
    precisions = EVIDENCE_PATH[:, None] * _scale(spectrum)
    misfit = energy - (1 / (precisions + spectrum.eigenvalues)) @ np.square(spectrum.projections)
    volume = np.log1p(spectrum.eigenvalues / precisions).sum(axis=1)
    varied = energy > 0
    noise = np.log(2 * np.pi * np.e * misfit[:, varied] / num_free)
    evidence = -0.5 * (volume[:, None] / num_free + noise)
    return float(evidence.max(axis=0).mean())


def _scale(spectrum: _Spectrum) -> float:
    """Return the mean eigenvalue, or 1 if features are constant."""
    rank = min(spectrum.task.num_pictures, len(spectrum.eigenvalues))  # without more views of the same pictures
    return float(spectrum.eigenvalues.sum() / rank) or 1.0
