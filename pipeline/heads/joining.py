"""Taps side by side: the features of several taps, each scaled by the square root of its share.

A stack adds up predictions that each tap made alone; one fit on these lets the values of all taps explain the classes
together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.heads.ridge import transform
from pipeline.types import Array, Tap


@dataclass(frozen=True, slots=True)
class Joined:
    """Scaled taps side by side."""

    inputs: Array  # (rows, dim of all taps)
    columns: Mapping[str, slice]  # of each tap
    scales: Mapping[str, np.float32]  # factor of each tap

    def split(self, weight: Array) -> dict[str, Array]:
        """Return the weights (dim, outputs) of each tap's transformed features, given those of the inputs."""
        return {name: weight[self.columns[name]] * scale for name, scale in self.scales.items()}


def join_inputs(
    features: Mapping[str, Array], taps: Sequence[Tap], shares: Mapping[str, float], rows: NDArray[np.intp]
) -> Joined:
    """Put taps side by side.

    Parameters
    ----------
    features
        Tap name -> (all rows, dim); each is read once and let go.
    shares
        Of the taps, positive: how much each contributes to the mean squared length of a row.
    rows
        (n V,) which rows: all originals, then view after view.
    """
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
    return Joined(inputs, columns, scales)
