"""Taps side by side: one ridge on the features of several taps, each scaled by the square root of its share.

A stack adds up predictions that each tap made alone; this lets the values of all taps explain the classes together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.heads.ridge import Float64, RidgeFit, fit_inputs, transform
from pipeline.types import Array, Tap


def fit_joined(
    features: Mapping[str, Array],
    taps: Sequence[Tap],
    shares: Mapping[str, float],
    rows: NDArray[np.intp],
    targets: Float64,
    counted: NDArray[np.bool_],
) -> tuple[RidgeFit, dict[str, Array]]:
    """Fit one ridge on several taps; returns it and the weights (dim, outputs) of each tap's transformed features.

    See `ridge.fit_ridge` for targets and counted. The fit's own weights are of scaled features.

    Parameters
    ----------
    features
        Tap name -> (all rows, dim); each is read once and let go.
    shares
        Of the taps, positive: how much each contributes to the mean squared length of a row.
    rows
        (n V,) which rows: all originals, then view after view.
    """
    inputs, columns, scales = join_inputs(features, taps, shares, rows)
    fit = fit_inputs(inputs, targets, counted)
    weights = {name: fit.weight[columns[name]] * scale for name, scale in scales.items()}
    return fit, weights


def join_inputs(
    features: Mapping[str, Array], taps: Sequence[Tap], shares: Mapping[str, float], rows: NDArray[np.intp]
) -> tuple[Array, dict[str, slice], dict[str, np.float32]]:
    """Put taps side by side, (rows, dim) float32; returns also the columns and the factor of each."""
    ends = np.cumsum([tap.dim for tap in taps])
    columns = {tap.name: slice(end - tap.dim, end) for tap, end in zip(taps, ends, strict=True)}
    inputs = np.empty((len(rows), ends[-1]), dtype=np.float32)
    scales = {}
    for tap in taps:
        values = transform(features[tap.name][rows], tap.kind)
        spread = float(np.square(values).sum(axis=1, dtype=np.float64).mean() - np.square(values.mean(axis=0)).sum())
        scales[tap.name] = np.float32(np.sqrt(shares[tap.name] / spread if spread > 0 else 0.0))
        inputs[:, columns[tap.name]] = values
        inputs[:, columns[tap.name]] *= scales[tap.name]
        del values
    return inputs, columns, scales
