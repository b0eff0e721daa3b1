"""Shares of the taps of a head: those of least held-out squared error (stacked regressions, Breiman 1996)."""

from __future__ import annotations

import numpy as np
from scipy.optimize import nnls

from pipeline.heads.ridge import Float64

SMALLEST_SHARE = 0.1  # dropping taps below a tenth changed mean accuracy by less than 0.1 points


def share_taps(products: Float64) -> Float64:
    """Return the share of each tap, (taps,): not negative, 1 in all, and 0 if it would be below a tenth.

    Parameters
    ----------
    products
        (taps, taps) inner products of the taps' held-out residuals.
    """
    kept = np.arange(len(products))
    while True:
        shares = _least_on_simplex(products[np.ix_(kept, kept)])
        if shares.min() >= SMALLEST_SHARE:
            break
        kept = np.delete(kept, shares.argmin())
    result = np.zeros(len(products))
    result[kept] = shares
    return result


def _least_on_simplex(products: Float64) -> Float64:
    """Minimise `s' products s` over shares `s` that are not negative and add up to 1.

    The minimiser of `s' products s + (1 - sum s)^2` over `s >= 0` points the same way, and that is an
    ordinary non-negative least-squares problem: exact zeros, no step size, no starting point.
    """
    values, vectors = np.linalg.eigh(products / (np.trace(products) or 1.0))
    root = np.sqrt(np.maximum(values, 0))[:, None] * vectors.T
    matrix = np.vstack([root, np.ones(len(products))])
    wanted = np.zeros(len(matrix))
    wanted[-1] = 1
    solution: Float64 = nnls(matrix, wanted)[0]
    shares: Float64 = solution / solution.sum()
    return shares
