"""Built-in pictures whose features every space keeps, and the check that refuses a machine that computes others.

They pass through the decoder, the resizer and the network like any picture, so they catch what no version
number shows: another JPEG library, a BLAS that rounds differently, a CPU that answers in bfloat16
(dotnet/machinelearning#4703: features of one CPU gave accuracy 0.01 on another).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import NumericsError
from pipeline.types import Array, FeatureBlock

# Of a tap's norm. Storing in float16 costs 2e-4; a decoder with another DCT (up to 6 grey levels) costs 1e-2.
TOLERANCE = 2e-3

# colour waves and a disc (JPEG, 4:2:0 chroma), colour ramps (JPEG, full chroma), black and white blocks (grey PNG)
PICTURES = ("canary_waves.jpg", "canary_ramps.jpg", "canary_blocks.png")


def canary_pictures() -> tuple[bytes, ...]:
    """Return the encoded built-in pictures."""
    return tuple(Path(__file__).with_name(name).read_bytes() for name in PICTURES)


def check_canary(found: FeatureBlock, stored: FeatureBlock) -> None:
    """Compare this machine's features of the built-in pictures with those a space was begun with.

    Raises
    ------
    NumericsError
        When any tap differs by more than `TOLERANCE`.
    """
    for tap, wanted in stored.taps.items():
        difference = relative_difference(found.taps[tap], wanted)
        if not difference <= TOLERANCE:
            raise NumericsError(
                f"This machine computes tap '{tap}' of the built-in pictures with a relative difference of "
                f"{difference:.1e} from the features in the store, wanted at most {TOLERANCE:.0e}. Mixing them would "
                "spoil the store. Install the versions in constraints.txt, or use another workspace."
            )


def row_differences(found: FeatureBlock, wanted: Mapping[str, Array]) -> list[dict[str, float]]:
    """Compare a block row by row with the rows wanted, tap -> (rows, dim): the relative difference of each tap."""
    return [
        {tap: relative_difference(found.taps[tap][row], wanted[tap][row]) for tap in wanted}
        for row in range(len(found.digests))
    ]


def relative_difference(found: NDArray[np.float32], wanted: Array) -> float:
    """Norm of the difference over the norm of what was wanted; infinite if the shapes differ."""
    if found.shape != wanted.shape:
        return float("inf")
    scale = float(np.linalg.norm(wanted)) or 1.0
    return float(np.linalg.norm(found.astype(np.float64) - wanted)) / scale
