"""Which backbone's features tell a sample of the data apart best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from pipeline.decision.nouns import RankedBackbone
from pipeline.heads.ridge import countable, fit_targets
from pipeline.heads.stacking import share_taps
from pipeline.types import Array, Tap


def score_backbone(
    backbone: str,
    features: Mapping[str, Array],
    taps: Sequence[Tap],
    labels: Sequence[tuple[int, ...]],
    num_classes: int,
) -> RankedBackbone:
    """Hold every picture out of a head on all taps, as `pipeline.heads.fit` does.

    Parameters
    ----------
    features
        Tap name -> (pictures, dim).
    labels
        Of each picture; one each where they exclude each other.
    """
    targets = np.zeros((len(labels), num_classes))
    for row, names in enumerate(labels):
        targets[row, list(names)] = 1
    single = all(len(names) == 1 for names in labels)
    counted = countable(targets.argmax(axis=1)) if single else np.ones(len(labels), dtype=bool)
    fits = [fit_targets(features[tap.name], tap.kind, targets, counted) for tap in taps]
    residuals = np.stack([(targets - fit.loo_scores)[counted].ravel() for fit in fits])
    products = residuals @ residuals.T
    shares = share_taps(products)
    error = float(shares @ products @ shares / max(int(counted.sum()), 1))
    return RankedBackbone(backbone, error, max(fit.logme for fit in fits))


def rank_backbones(tried: Sequence[RankedBackbone]) -> tuple[RankedBackbone, ...]:
    """Put the least error first, the first tried among equals, and those that were not tried last."""
    return tuple(sorted(tried, key=lambda row: np.inf if row.error is None else row.error))


def describe_ranking(ranking: Sequence[RankedBackbone]) -> str:
    """Say which backbone was chosen, by how much, and what was not tried."""
    best, *others = [row for row in ranking if row.error is not None]
    skipped = [f"{row.backbone} ({row.why_not})" for row in ranking if row.error is None]
    against = ", ".join(_figures(row) for row in others)
    beaten = f" against {against}" if others else "; nothing else was compared"
    left = f" Not tried: {', '.join(skipped)}." if skipped else ""
    return f"Of the backbones that are here, a sample speaks for {_figures(best)}{beaten}.{left}"


def _figures(row: RankedBackbone) -> str:
    return f"{row.backbone} (leave-one-out squared error {row.error:.4f} a picture, log evidence {row.logme:.3f})"
