"""Augmented views: the same picture flipped, shifted, scaled and turned, by its own content.

A view is a field of the recipe, so each has features of its own that are cached like any others, and heads
train on all of them. What is drawn depends on the picture's digest and the view's name alone: no state, no
seed, the same view on every machine and in every order.

The ranges are the scheme's, and the scheme's version is in every name: other ranges, other names. They were
chosen with one view and 5 training pictures a class, in points of test accuracy on flowers, groceries, hand
signs and characters. These ranges gained 1.4, 2.1, 3.6 and 1.4; half of them 0.6, 1.2, 2.1 and 0.9; half as
much again 1.4, 2.1, 2.9 and 0.8. What a turned or smaller picture leaves empty is filled by drawing out its
border. Zooming in until nothing is empty gained 2.6, 2.9, 2.8 and 0.0, because it cuts characters off.
"""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING

import numpy as np

from pipeline.errors import UnknownNameError
from pipeline.types import Digest

if TYPE_CHECKING:
    from PIL import Image as Pillow

ORIGINAL = "original"
SCHEME = "augmented-1"  # raised when a change of the code gives other pictures

MAX_TURN = 20.0  # degrees, either way
MAX_SHIFT = 0.1  # of the central square's side, each way
MAX_SCALE = 1.2  # and down to 1 / 1.2, evenly in the logarithm
WORKING_SIDE = 640  # pixels; a picture is first reduced by the whole factor that leaves at least this many
KERNEL = 2  # pixels that bicubic interpolation reads around a point


def view_names(num_views: int) -> tuple[str, ...]:
    """Name the first augmented views; more views extend the list.

    >>> view_names(2)
    ('augmented-1.1', 'augmented-1.2')
    """
    return tuple(f"{SCHEME}.{number}" for number in range(1, num_views + 1))


def view_sets(num_views: int) -> tuple[tuple[int, ...], ...]:
    """List what a head may train on, by the views' numbers: 0 is the original, which is in every set.

    Mirrored pictures help with groceries and harm with letters and hands, and on some data every view may
    harm: so the originals alone, with the views that keep left and right, and with all.

    >>> view_sets(2)
    ((0,), (0, 1), (0, 1, 2))
    """
    numbers = range(1, num_views + 1)
    upright = [number for number in numbers if not _mirrors(number)]
    return tuple(dict.fromkeys(((0,), (0, *upright), (0, *numbers))))


def augmented(image: Pillow.Image, digest: Digest, view: str) -> Pillow.Image:
    """Return a view of an upright RGB picture: the original itself, or an RGB square about its centre.

    Parameters
    ----------
    digest
        Of the picture's file: what is drawn depends on it.
    view
        "original" or one of `view_names`.

    Raises
    ------
    UnknownNameError
        For any other view.
    """
    if view == ORIGINAL:
        return image
    number = _number(view)
    turn, right, down, zoom = _draws(digest, view)
    image = image.reduce(max(1, min(image.size) // WORKING_SIDE))
    shift = (right * MAX_SHIFT, down * MAX_SHIFT)
    return moved(image, turn * MAX_TURN, shift, MAX_SCALE**zoom, mirrored=_mirrors(number))


def moved(
    image: Pillow.Image,
    turn: float,
    shift: tuple[float, float],
    scale: float,
    *,
    mirrored: bool,
    fast: bool = False,
) -> Pillow.Image:
    """Return the square about a picture's centre, turned, shifted, scaled and mirrored; what is empty is drawn out.

    Parameters
    ----------
    turn
        Degrees.
    shift
        To the right and down, in sides of the square.
    scale
        How much of the picture is seen: 2 shows twice the side.
    fast
        Interpolate linearly, in a fifth of the time.
    """
    # here, because runs that open no picture ask for names of views
    from PIL.Image import Resampling, Transform, fromarray

    side = min(image.size)
    angle, shift_x, shift_y = math.radians(turn), shift[0] * side, shift[1] * side
    cos, sin = scale * math.cos(angle), scale * math.sin(angle)
    reach = side / 2 * (abs(cos) + abs(sin)) + max(abs(shift_x), abs(shift_y))  # from the centre to the farthest pixel
    margin = math.ceil(max(0.0, reach - side / 2)) + KERNEL
    padded = np.pad(np.asarray(image), ((margin, margin), (margin, margin), (0, 0)), "edge")
    centre_x, centre_y = padded.shape[1] / 2 + shift_x, padded.shape[0] / 2 + shift_y
    across = -1 if mirrored else 1
    to_source = (
        *(across * cos, sin, centre_x - side / 2 * (across * cos + sin)),
        *(-across * sin, cos, centre_y - side / 2 * (cos - across * sin)),
    )
    resampling = Resampling.BILINEAR if fast else Resampling.BICUBIC
    return fromarray(padded).transform((side, side), Transform.AFFINE, to_source, resampling)


def _mirrors(number: int) -> bool:
    return number % 2 == 0


def _number(view: str) -> int:
    """Return the number in a view's name."""
    digits = view.removeprefix(f"{SCHEME}.")
    if not digits.isdecimal() or int(digits) < 1 or view != f"{SCHEME}.{int(digits)}":
        raise UnknownNameError("view", view, (ORIGINAL, f"{SCHEME}.<number from 1>"))
    return int(digits)


def _draws(digest: Digest, view: str) -> tuple[float, ...]:
    """Draw four numbers, evenly from [-1, 1)."""
    drawn = hashlib.sha256(digest + view.encode()).digest()
    return tuple(int.from_bytes(drawn[start : start + 6], "big") / 2**47 - 1 for start in range(0, 24, 6))
