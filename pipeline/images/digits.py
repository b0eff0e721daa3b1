"""Real pictures that come with an installed package: scikit-learn's handwritten digits, as PNG files.

1,797 grey pictures of 8 x 8 pixels from 43 people (https://archive.ics.uci.edu/dataset/80).
Heavy leaf: importing it loads scikit-learn.
"""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np
from PIL import Image as Pillow
from sklearn.datasets import load_digits

LEVELS = 16  # the pictures' values are 0 to 16


def digit_pictures() -> Iterator[tuple[str, bytes]]:
    """Yield (path "digit/number.png", encoded picture), as in a folder per class."""
    digits = load_digits()
    grey = np.rint(digits.images * (255 / LEVELS)).astype(np.uint8)
    for number, (picture, label) in enumerate(zip(grey, digits.target, strict=True)):
        file = io.BytesIO()
        Pillow.fromarray(picture).save(file, "PNG")
        yield f"{label}/{number:04d}.png", file.getvalue()
