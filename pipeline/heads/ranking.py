"""A ranking of backbones by how well their features tell a sample of the data apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from pipeline.decision.nouns import RankedBackbone
from pipeline.heads.labels import Truth
from pipeline.heads.ridge import fit_ridge
from pipeline.heads.stacking import share_taps
from pipeline.types import Array, Tap


def score_backbone(backbone: str, features: Mapping[str, Array], taps: Sequence[Tap], truth: Truth) -> RankedBackbone:
    """Hold every picture out of a stack of all taps, as `pipeline.heads.fit` does.

    Parameters
    ----------
    features
        Tap name -> (pictures, dim).
    truth
        The labels of the pictures.
    """
    targets, counted = truth.targets, truth.counted
    fits = [fit_ridge(features[tap.name], tap.kind, targets, counted) for tap in taps]
    residuals = np.stack([(targets - fit.loo_scores)[counted].ravel() for fit in fits])
    products = residuals @ residuals.T
    shares = share_taps(products)
    error = float(shares @ products @ shares / max(int(counted.sum()), 1))
    return RankedBackbone(backbone, error, max(fit.logme for fit in fits))


def rank_backbones(tried: Sequence[RankedBackbone]) -> tuple[RankedBackbone, ...]:
    """Sort by error, the smallest first; among equals the first tried, and those that were not tried last."""
    return tuple(sorted(tried, key=lambda row: np.inf if row.error is None else row.error))


def describe_ranking(ranking: Sequence[RankedBackbone]) -> str:
    """Say which backbone was chosen, by how much, and what was not tried."""
    best, *others = [row for row in ranking if row.error is not None]
    skipped = [f"{row.backbone} ({row.why_not})" for row in ranking if row.error is None]
    against = ", ".join(_figures(row) for row in others)
    beaten = f", compared with {against}" if others else "; no other was compared"
    left = f" Not tried: {', '.join(skipped)}." if skipped else ""
    return f"Of the installed backbones, the best on a sample is {_figures(best)}{beaten}.{left}"


def _figures(row: RankedBackbone) -> str:
    return f"{row.backbone} (leave-one-out squared error {row.error:.4f} per picture, log evidence {row.logme:.3f})"
