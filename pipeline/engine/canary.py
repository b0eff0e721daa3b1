"""A few built-in pictures whose features every space keeps: a machine that computes others is refused.

They pass through the decoder, the resizer and the network like any picture, so they catch what no version
number tells: another JPEG library, a BLAS that rounds differently, a CPU that answers in bfloat16
(dotnet/machinelearning#4703: features of one CPU gave accuracy 0.01 on another).
"""

from __future__ import annotations

import base64
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import NumericsError
from pipeline.types import Array, FeatureBlock

# Of a tap's norm. Storing in float16 costs 2e-4; a decoder with another DCT (up to 6 grey levels) costs 1e-2.
TOLERANCE = 2e-3

# colour waves and a disc, JPEG with 4:2:0 chroma
_WAVES = (
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAA0JCgsKCA0LCgsODg0PEyAVExISEyccHhcgLikxMC4pLSwzOko+MzZGNywtQFdBRkxO"
    "UlNSMj5aYVpQYEpRUk//2wBDAQ4ODhMREyYVFSZPNS01T09PT09PT09PT09PT09PT09PT09PT09PT09PT09PT09PT09PT09PT09P"
    "T09PT09PT0//wAARCAA8AFADASIAAhEBAxEB/8QAGgABAAMBAQEAAAAAAAAAAAAABgQFBwIDAf/EACkQAAEEAgICAgEDBQAAAAAA"
    "AAEAAgMRBAUSIQYxIlEUFTJBE0JxgbH/xAAYAQEBAQEBAAAAAAAAAAAAAAAGBQQDAv/EACsRAAEEAQIDBwUBAAAAAAAAAAMAAQIE"
    "BRESISIxBhMUQXGBsSMyUZHR8P/aAAwDAQACEQMRAD8ATYeZC6MWQvPOMErTVIONlLjt7J6Xk7yF3Ki5E2x0926K35OnKsLQbq2z"
    "tWydxoBQW+Okmw1SNft2yuFlNNXHDKxrpSO/4WwQ7cn2DbVHKHiIl3T6IK/USQN6BVTmyTQX7WwZOLjGP4NaOvpFNtqY5ifgD/kK"
    "3Vxkp/fNtfT/AHwkVvtDAQ+7kyzlm0mbJ2Skeo2xsciuJ/Fy5xdECD9Lzj1MsH9pFLPkKrB5SN18/J1mxgK96e903w9vHwFkLrKz"
    "oZW1YQSeebHHs9KA7dStfRcVFjjNz7orZl6cRj2idI9xqS0HiERytdM2Q0CtGyM2Gc1YXgzXxZBugule5MUedHz5gpDbJIbqMaeO"
    "XmQab/1LMXZyQNFkq7xfHmDHBa332q7Z6h0bTxCc4wgZV4s/V+P7SaoeuwtZrh3kddFy7g3DJ3dkIhn40zHmrXlhunjeLtWvAieO"
    "sUZvVR3S6QdalgCGYC6UjP1sLo/6jQPoofrdm+ECyVay+QN/Hc1zv4RvLY4hgyi3q3qyqV8aSiPdFVe41TXXxCJZWleXmmlLTt45"
    "zRIUzFihyCPXaGisFrx5lFLfsTPtfos9g20okFkpVp9t65FUf6A/nYaVKiwJscXR6W6x3BG0ZX8bRBblvdaTrdvE7H4lw6XOZkwT"
    "Aiws4Oxmw33Zr0V0zfPJB52CkeErMYLRZ+aPx5fxcM7TcTaCdLJtdFkO6AXxnjoIsNULVbcPcORTHBzYXMFkKkeZgcGUXF1bIp75"
    "Inl6d8LTQRXciaCN1Ei+lq+a+CRh7CGbbCjy5DwHxHpYrOXYAHafWXBv77Kvczjx+nJZ9DlTsk7JSnUbR7K5Fdjx3kbDV07TSQNs"
    "NKKmOEraLfiRV7HPJLcKCCZoNBe+TrYjGaARzVZcwaPkrk5cxZ25QyjnCfB1zjXlSDrB0b3GpBJ4hGn6qeOS2XV+k9leXn5UV9ix"
    "onn5NVOtkC19Hi/FHWyZSn2zRLDbLDXJjhX0rH9afjNFB3+zSRSYOPw/Yje3xomg0FWh2htG5ZP76MnNcgog4xUabyaV5p7+voKV"
    "g7hsrhyKG5jAJDVr2wHOa8USvBwMVt8n1dGzUR2zfhavrp4ZGi6U3IigfH1SD6/Kma0U5WX52RX70dLVdp8HVItHwYdYOv/Z"
)

# colour ramps, JPEG with full chroma
_RAMPS = (
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDABcQERQRDhcUEhQaGBcbIjklIh8fIkYyNSk5UkhXVVFIUE5bZoNvW2F8Yk5QcptzfIeL"
    "kpSSWG2grJ+OqoOPko3/2wBDARgaGiIeIkMlJUONXlBejY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2N"
    "jY2NjY2NjY3/wAARCAAoADIDAREAAhEBAxEB/8QAFwABAQEBAAAAAAAAAAAAAAAAAgQDBv/EABcQAAMBAAAAAAAAAAAAAAAAAAAB"
    "AhL/xAAZAQEBAQEBAQAAAAAAAAAAAAABAwIFAAT/xAAWEQEBAQAAAAAAAAAAAAAAAAAAARH/2gAMAwEAAhEDEQA/AOXUHhKagVJT"
    "UCpKagW5TUCpKagVJSwLWpVBBxpTUC3KagVJTUC3KagVJTUCpKWBa1KoIONKagW5TUCpKagVJTUC3KagVJTwLWpFB87jSmoNNymo"
    "FSU1AqSmoFuVooFSUsHmtSKCDjSmoFSU1AtytFAqSmoNNymoFSUsHmtf/9k="
)

# black and white blocks, grey PNG
_BLOCKS = (
    "iVBORw0KGgoAAAANSUhEUgAAAAoAAAAMCAAAAAB+AHN8AAAAN0lEQVR42kXNMRLAMAgDwSX///OlMHEKZpDQiQkYKBI70WzArBc8"
    "WuCc+8RZ8rhVo3Fz/w860Atxgifj3qzapQAAAABJRU5ErkJggg=="
)


def canary_pictures() -> tuple[bytes, ...]:
    """Return the encoded built-in pictures."""
    return tuple(base64.b64decode(text) for text in (_WAVES, _RAMPS, _BLOCKS))


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
    """Norm of the difference over the norm of what was wanted; infinite where shapes differ."""
    if found.shape != wanted.shape:
        return float("inf")
    scale = float(np.linalg.norm(wanted)) or 1.0
    return float(np.linalg.norm(found.astype(np.float64) - wanted)) / scale
