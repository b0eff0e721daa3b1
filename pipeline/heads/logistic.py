"""Multinomial logistic regression for many pictures, with held-out scores.

The loss is bounded by a quadratic with the Hessian `X'X / 2 + penalty` in every class (Boehning 1992, Annals of the
Institute of Statistical Mathematics 44:197-200). In the basis that makes it the identity, L-BFGS needs some 20 passes
over the features instead of hundreds. Every picture is held out once, with its fold.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cholesky, solve_triangular
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

from pipeline.evaluation.log_loss import log_losses
from pipeline.heads.ridge import Float64, Labels, multiply
from pipeline.types import Array

NUM_FOLDS = 3
PENALTIES = (0.01, 0.03, 0.1)  # in mean eigenvalues of X'X
MOST_STEPS = 20  # on CIFAR-10 the test accuracy was within 0.2 points of its end after 10
TENTHS = 10.0  # scores are tenths of logits: near those of a ridge, so that temperatures have room on both sides


@dataclass(frozen=True, slots=True)
class LogisticFit:
    """A linear classifier, and its scores of pictures when their fold is left out."""

    weight: Array  # (dim, classes), for features that are not centred
    bias: Array  # (classes,)
    penalty: float
    held_out: Float64  # (n, classes) scores


def fit_logistic(inputs: Array, labels: Labels, num_classes: int) -> LogisticFit:
    """Fit on (n, dim) float32 features, which are centred in place; the first fold chooses the penalty."""
    centre = inputs.mean(axis=0, dtype=np.float64)
    inputs -= centre.astype(np.float32)
    products = multiply(inputs, inputs)
    folds = _folds(labels)
    scale = float(np.trace(products)) / len(products) or 1.0
    held_out = np.zeros((len(labels), num_classes))
    penalty, candidates = 0.0, [scale * step for step in PENALTIES]
    for fold in range(NUM_FOLDS):
        left_out = folds == fold
        kept_out = inputs[left_out]
        rest = products - multiply(kept_out, kept_out)
        found = [_fit(inputs, labels, num_classes, rest, one, ~left_out) for one in candidates]
        scores = [kept_out @ weight + intercept for weight, intercept in found]
        best = int(np.argmin([_log_loss(values, labels[left_out]) for values in scores]))
        penalty, held_out[left_out] = candidates[best], scores[best] / TENTHS
        candidates = [penalty]
    weight, intercept = _fit(inputs, labels, num_classes, products, penalty, np.ones(len(labels), dtype=np.bool_))
    weight = weight / np.float32(TENTHS)
    bias = (intercept / TENTHS - centre @ weight).astype(np.float32)
    return LogisticFit(weight, bias, penalty, held_out)


def _folds(labels: Labels) -> NDArray[np.intp]:
    """Deal pictures into folds, each with its share of every class."""
    folds = np.empty(len(labels), dtype=np.intp)
    folds[np.argsort(labels, kind="stable")] = np.arange(len(labels)) % NUM_FOLDS
    return folds


def _fit(
    inputs: Array, labels: Labels, num_classes: int, products: Float64, penalty: float, used: NDArray[np.bool_]
) -> tuple[Array, Array]:
    """Return weights (dim, classes) and intercept (classes,), which is not penalised.

    Rows that are not used get no residual, which spares a copy of the others.
    """
    dim = len(products)
    counts = np.bincount(labels[used], minlength=num_classes) + 1.0  # a class without pictures is rare, not impossible
    prior = np.log(counts / counts.sum())
    factor = cholesky(products / 2 + penalty * np.eye(dim), lower=True, overwrite_a=True).astype(np.float32)
    root = np.sqrt(counts.sum() / 2)  # what the factor is for features, this is for the intercept
    targets = np.eye(num_classes, dtype=np.float32)[labels]

    def unfold(values: Float64) -> tuple[Array, Float64]:
        turned = values.reshape(dim + 1, num_classes)
        weight: Array = solve_triangular(
            factor, turned[:dim].astype(np.float32), lower=True, trans="T", check_finite=False
        )
        return weight, prior + turned[dim] / root

    def loss(values: Float64) -> tuple[float, Float64]:
        weight, intercept = unfold(values)
        log_likely = log_softmax(inputs @ weight + intercept.astype(np.float32), axis=1)
        cost = -float((log_likely * targets)[used].sum(dtype=np.float64))
        cost += penalty / 2 * float(np.square(weight, dtype=np.float64).sum())
        residuals = (np.exp(log_likely) - targets) * used[:, None]
        slope = inputs.T @ residuals + np.float32(penalty) * weight
        turned = solve_triangular(factor, slope, lower=True, check_finite=False)
        rest = residuals.sum(axis=0, dtype=np.float64) / root
        return cost, np.concatenate([turned.astype(np.float64), rest[None]]).ravel()

    found = minimize(
        loss,
        np.zeros((dim + 1) * num_classes),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": MOST_STEPS, "ftol": 1e-6},
    )
    weight, intercept = unfold(found.x)
    return weight, intercept.astype(np.float32)


def _log_loss(scores: Array, labels: Labels) -> float:
    return float(log_losses(softmax(scores, axis=1)[np.arange(len(labels)), labels]).mean())
