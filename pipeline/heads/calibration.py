"""Held-out scores to honest probabilities: softmax(temperature * score + offset of the class).

The temperature (Guo et al. 2017, arXiv:1706.04599) always; offsets of the classes from 100 pictures on. Ridge on 0/1
targets scores rare classes too low, and equal scores of two classes need not mean equal chances. On 8 real datasets
offsets raised test accuracy by 0.2 points on average (100, 300 and all training pictures alike), on the imbalanced
one with 9 classes balanced accuracy by 1.2 and accuracy by 0.7; with 20 pictures and fewer they lost up to 15 points.
Log loss and error are those of pictures left out of the fit, five folds of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize, minimize_scalar
from scipy.special import log_softmax

Float64 = NDArray[np.float64]
Labels = NDArray[np.integer]

TEMPERATURES = (1.0, 1000.0)  # scores live near 0-1: at 1 every class is nearly as likely as the next
NUM_FOLDS = 5
FEWEST_FOR_OFFSETS = 100  # pictures
MOST_STEPS = 50  # of the optimiser; 20 are usual
PENALTY = 1.0  # on squared offsets, in pictures: a prior of one nat around 0


@dataclass(frozen=True, slots=True)
class Calibration:
    """Held-out scores to logits: temperature * (slope * score) + offset, an output each; and how good those are."""

    temperature: float
    offsets: Float64  # (outputs,), nats
    log_loss: float  # nats, of held-out pictures
    error: float  # 0-1: share of pictures taken for another class; 1 - mAP if labels do not exclude each other
    slopes: Float64  # (outputs,); 1 for classes
    thresholds: tuple[float, ...] = ()  # (outputs,) probabilities from which on a label is given; none for classes

    def scores(self, scores: Float64) -> Float64:
        """Scale and shift scores (n, outputs), in their own unit: times the temperature, they are logits."""
        return scores * self.slopes + self.offsets / self.temperature


def calibrate(scores: Float64, labels: Labels) -> Calibration:
    """Fit temperature and, if there are enough pictures, offsets of the classes.

    Log loss and error are those of pictures that neither was fitted on.

    Parameters
    ----------
    scores
        (n, classes) held-out scores of the pictures.
    labels
        (n,) integers.
    """
    fit = _with_offsets if len(labels) >= FEWEST_FOR_OFFSETS else _temperature_only
    temperature, offsets = fit(scores, labels)
    return Calibration(temperature, offsets, *_crossed(scores, labels, fit), slopes=np.ones(scores.shape[1]))


def fit_temperature(scores: Float64, labels: Labels) -> float:
    """Fit the factor of the scores that makes their softmax honest: least log loss.

    One picture more than there are is taken to be of any class at all, as in Platt scaling (Platt 1999).
    Without it a head that makes no mistake in training would claim to make none ever: on blood cells it
    answered a temperature of 456 and a test log loss of 0.069, with it 7.9 and 0.012.
    """
    doubt = 1 / (len(labels) + 1)

    def loss(log_temperature: float) -> float:
        log_likely = log_softmax(np.exp(log_temperature) * scores, axis=1)
        true = log_likely[np.arange(len(labels)), labels]
        return float(-((1 - doubt) * true + doubt * log_likely.mean(axis=1)).mean())

    found = minimize_scalar(loss, bounds=np.log(TEMPERATURES), method="bounded", options={"xatol": 1e-3})
    return float(np.exp(found.x))


Fitted = tuple[float, Float64]


def _temperature_only(scores: Float64, labels: Labels) -> Fitted:
    return fit_temperature(scores, labels), np.zeros(scores.shape[1])


def _with_offsets(scores: Float64, labels: Labels) -> Fitted:
    """Fit temperature and offsets together; classes without pictures share the doubt, as in `fit_temperature`."""
    num_pictures, num_classes = scores.shape
    doubt = 1 / (num_pictures + 1)
    wanted = (1 - doubt) * np.eye(num_classes)[labels] + doubt / num_classes

    def loss(values: Float64) -> tuple[float, Float64]:
        temperature, offsets = np.exp(values[0]), values[1:]
        log_likely = log_softmax(temperature * scores + offsets, axis=1)
        missed = (np.exp(log_likely) - wanted) / num_pictures
        cost = -(wanted * log_likely).sum() / num_pictures + PENALTY * np.square(offsets).sum() / num_pictures
        by_offset = missed.sum(axis=0) + 2 * PENALTY * offsets / num_pictures
        return float(cost), np.concatenate([[temperature * (missed * scores).sum()], by_offset])

    start = np.zeros(1 + num_classes)
    start[0] = np.log(fit_temperature(scores, labels))
    bounds = [tuple(np.log(TEMPERATURES)), *[(None, None)] * num_classes]
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": MOST_STEPS})
    return float(np.exp(found.x[0])), found.x[1:]


def _crossed(scores: Float64, labels: Labels, fit: Callable[[Float64, Labels], Fitted]) -> tuple[float, float]:
    """Return mean log loss and error of pictures by what the other folds' pictures say."""
    folds = np.random.default_rng(0).permutation(len(labels)) % NUM_FOLDS
    log_likely = np.empty_like(scores)
    for fold in np.unique(folds):
        fitted_on = folds != fold if len(labels) >= NUM_FOLDS else np.ones(len(labels), dtype=np.bool_)
        temperature, offsets = fit(scores[fitted_on], labels[fitted_on])
        judged = folds == fold
        log_likely[judged] = log_softmax(temperature * scores[judged] + offsets, axis=1)
    loss = -log_likely[np.arange(len(labels)), labels].mean()
    return float(loss), float((log_likely.argmax(axis=1) != labels).mean())
