"""Training batches: shuffled and augmented, determined by seed, epoch and place alone.

Nothing is remembered from one batch to the next, so a training that continues from a step sees exactly what it would
have seen without the interruption.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from pipeline.decision.schedule import Augmentation, Schedule, class_weights
from pipeline.errors import DataError
from pipeline.images.ahead import ReadImage, Unusable, decode_image, decode_images, work_ahead
from pipeline.images.views import moved
from pipeline.types import Array, Image, Pixels, Recipe

Bytes = NDArray[np.uint8]
Batch = tuple[Pixels, Array, Array]  # (batch, size, size, 3), (batch, classes) and (batch,) weights

BATCHES_AHEAD = 4  # made while the network trains
LUMA = (0.299, 0.587, 0.114)  # of red, green and blue (ITU-R BT.601)


class Pictures(Protocol):
    """Decoded pictures by place, each (size, size, 3) uint8: an array, or `Undecoded`."""

    def __getitem__(self, place: int, /) -> Bytes: ...

    def __len__(self) -> int: ...


class Undecoded:
    """Pictures that are decoded whenever they are used, if the disk has no room for all of them."""

    def __init__(self, images: Sequence[Image], read: ReadImage, recipe: Recipe) -> None:
        self._images, self._read, self._recipe = images, read, recipe

    def __getitem__(self, place: int) -> Bytes:
        image = self._images[place]
        return _rounded(whole(image, decode_image(image, self._read, self._recipe)))

    def __len__(self) -> int:
        return len(self._images)


def decode_into(pixels: Bytes, images: Sequence[Image], read: ReadImage, recipe: Recipe) -> None:
    """Decode all pictures into (n, size, size, 3).

    Raises
    ------
    DataError
        A picture is gone, or has changed since its features were computed.
    """
    for place, found in enumerate(decode_images(images, read, recipe)):
        pixels[place] = _rounded(whole(*found))


def whole(image: Image, found: Pixels | Unusable) -> Pixels:
    """Return the pixels of a picture that could be read earlier, when its features were computed."""
    if isinstance(found, Unusable):
        raise DataError(
            f"{image.path}: {found.reason}. It could be read when its features were computed; bring it back, or "
            "onboard the folder again."
        )
    return found


def _rounded(pixels: Pixels) -> Bytes:
    return np.rint(pixels).astype(np.uint8)


class Batches:
    """All batches of a training, by epoch and step."""

    def __init__(self, pictures: Pictures, labels: Sequence[int], num_classes: int, schedule: Schedule) -> None:
        """Pictures and labels are in the same order. An epoch leaves out the rest that fills no batch."""
        self._pictures = pictures
        self._labels = np.asarray(labels, np.intp)
        self._schedule = schedule
        self._one_hot = np.eye(num_classes, dtype=np.float32)
        counts = np.bincount(self._labels, minlength=num_classes)
        self._weights = np.asarray(class_weights(counts.tolist()), np.float32)
        self.num_steps = len(self._labels) // schedule.batch_size  # of an epoch

    def of_epoch(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch (the first is 0), beginning at a step."""
        rng = np.random.default_rng([self._schedule.seed, epoch])
        order = rng.permutation(len(self._labels))[: self.num_steps * self._schedule.batch_size]
        steps = order.reshape(self.num_steps, -1)[first_step:]
        ahead = BATCHES_AHEAD * self._schedule.batch_size
        items = ((epoch, int(place)) for step in steps for place in step)
        pixels = work_ahead(items, lambda item: self._augmented(*item), num_ahead=ahead)
        for number, places in enumerate(steps, start=first_step):
            stacked = np.stack([next(pixels) for _ in places])
            yield self._mixed(stacked, self._labels[places], epoch, number)

    def _augmented(self, epoch: int, place: int) -> Pixels:
        rng = np.random.default_rng([self._schedule.seed, epoch, place])
        return augment_picture(self._pictures[place], self._schedule.augmentation, rng)

    def _mixed(self, pixels: Pixels, labels: NDArray[np.intp], epoch: int, step: int) -> Batch:
        """Mix every picture with another one of its batch, if the schedule says so."""
        targets, weights = self._one_hot[labels], self._weights[labels]
        alpha = self._schedule.augmentation.mixup
        if not alpha:
            return pixels, targets, weights
        rng = np.random.default_rng([self._schedule.seed, epoch, step, 1])
        share = np.float32(rng.beta(alpha, alpha))
        others = rng.permutation(len(labels))
        return (
            share * pixels + (1 - share) * pixels[others],
            share * targets + (1 - share) * targets[others],
            share * weights + (1 - share) * weights[others],
        )


def augment_picture(picture: Bytes, ranges: Augmentation, rng: np.random.Generator) -> Pixels:
    """Move and colour one square picture, (size, size, 3) uint8 to float32 of 0-255."""
    turn, right, down, zoom = rng.uniform(-1, 1, 4)
    mirrored = bool(ranges.mirror and rng.random() < 0.5)
    image = moved(
        Pillow.fromarray(picture),
        turn * ranges.turn,
        (right * ranges.shift, down * ranges.shift),
        ranges.scale**zoom,
        mirrored=mirrored,
        fast=True,
    )
    if ranges.colour:
        image = recoloured(image, *(1 + ranges.colour * rng.uniform(-1, 1, 3)))
    return np.asarray(image, np.float32)


def recoloured(image: Pillow.Image, brightness: float, contrast: float, saturation: float) -> Pillow.Image:
    """Multiply a picture's brightness, contrast about its mean, and saturation, all in one pass; 1 changes nothing."""
    mean = float(np.asarray(image).mean())
    gain = brightness * contrast
    grey = [gain * (1 - saturation) * weight for weight in LUMA]
    offset = brightness * (1 - contrast) * mean
    rows = [[*(grey[k] + (gain * saturation if k == row else 0.0) for k in range(3)), offset] for row in range(3)]
    return image.convert("RGB", tuple(value for row in rows for value in row))
