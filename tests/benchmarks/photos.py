"""Pictures to measure on: crops of the two photographs that scikit-learn ships, so that nothing is downloaded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image as Pillow
from sklearn.datasets import load_sample_images


def write_photos(folder: Path, num_images: int, width: int = 500, height: int = 375) -> Path:
    """Write distinct JPEG crops in two classes, unless they are there; returns the folder."""
    if folder.is_dir():
        return folder
    rng = np.random.default_rng(0)
    for label, photo in zip(("china", "flower"), load_sample_images().images, strict=True):
        (folder / label).mkdir(parents=True)
        picture = Pillow.fromarray(photo)
        for number in range(num_images // 2):
            left = int(rng.integers(0, picture.width - width + 1))
            top = int(rng.integers(0, picture.height - height + 1))
            crop = picture.crop((left, top, left + width, top + height))
            crop.putpixel((0, 0), (number % 256, number // 256, 0))  # distinct, whatever the crop
            crop.save(folder / label / f"{number:05d}.jpg", quality=85)
    return folder


def photo_arrays(num_images: int, size: int) -> np.ndarray:
    """Return crops as (num_images, size, size, 3) uint8."""
    rng = np.random.default_rng(0)
    photo = load_sample_images().images[0]
    places = [[int(rng.integers(0, side - size + 1)) for side in photo.shape[:2]] for _ in range(num_images)]
    return np.stack([photo[top : top + size, left : left + size] for top, left in places])
