"""Log loss: how surprised probabilities are by the truth."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SMALLEST_PROBABILITY = 1e-15  # one sure mistake costs 35 nats, not infinity


def log_losses(likely: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return -ln p in nats, of the probabilities that were given to what is true.

    >>> log_losses(np.array([0.5, 0.0])).round(2).tolist()
    [0.69, 34.54]
    """
    losses: NDArray[np.float64] = -np.log(np.clip(likely.astype(np.float64), SMALLEST_PROBABILITY, 1))
    return losses
