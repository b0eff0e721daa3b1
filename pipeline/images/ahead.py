"""Reading and decoding of pictures in threads, ahead of their consumer, with bounded memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import wraps
from itertools import islice
from pathlib import Path
from typing import ParamSpec, TypeVar

from pipeline.errors import ImageError
from pipeline.fingerprint import digest
from pipeline.images.decode import check_size, decode, prepare, probe, read_picture
from pipeline.images.views import augmented
from pipeline.machine import usable_cores
from pipeline.types import Digest, FileEntry, Image, Pixels, Recipe

NUM_DECODERS = max(2, usable_cores())  # threads: Pillow releases the interpreter lock while it works
DECODE_AHEAD = 32  # pictures decoded but not yet run: 19 MB at 224 pixels

Item = TypeVar("Item")
Result = TypeVar("Result")
Given = ParamSpec("Given")
ReadImage = Callable[[Image], bytes]  # the encoded bytes of an image's file; may raise OSError


@dataclass(frozen=True, slots=True)
class Unusable:
    """Why a file gives no picture."""

    reason: str
    final: bool  # it is about the content; else the file may be readable the next time


def or_unusable(work: Callable[Given, Result]) -> Callable[Given, Result | Unusable]:
    """Make a function that reads a file return the reason if there is no picture in it."""

    @wraps(work)
    def attempt(*args: Given.args, **kwargs: Given.kwargs) -> Result | Unusable:
        try:
            return work(*args, **kwargs)
        except OSError as error:
            return Unusable(f"cannot be read: {error.strerror or error}", final=False)
        except ImageError as error:
            return Unusable(str(error), final=True)

    return attempt


def decode_images(
    images: Iterable[Image], read: ReadImage, recipe: Recipe
) -> Iterator[tuple[Image, Pixels | Unusable]]:
    """Decode images in order. None of them can fail the others: each comes back with pixels or a reason."""
    return work_ahead(images, lambda image: (image, decode_image(image, read, recipe)))


@or_unusable
def decode_image(image: Image, read: ReadImage, recipe: Recipe) -> Pixels | Unusable:
    """Decode one image to (size, size, 3), and make sure that its file still holds the content of its digest."""
    data = read(image)
    if digest(data) != image.digest:
        return Unusable("changed while the dataset was being read; run again", final=False)
    return prepare(augmented(decode(data, recipe), image.digest, recipe.view), recipe)


def identify_files(root: str, entries: Iterable[FileEntry]) -> Iterator[tuple[FileEntry, Digest | Unusable]]:
    """Read files of a dataset folder and tell their content apart; yields in order."""
    return work_ahead(entries, lambda entry: (entry, identify_file(root, entry)))


@or_unusable
def identify_file(root: str, entry: FileEntry) -> Digest:
    """Read one file and return its digest, if it is a picture that can be decoded (judged by its header)."""
    check_size(entry.size_bytes)
    data = read_picture(Path(root, entry.path))
    probe(data)
    return digest(data)


def work_ahead(
    items: Iterable[Item],
    work: Callable[[Item], Result],
    num_threads: int = NUM_DECODERS,
    num_ahead: int = DECODE_AHEAD,
) -> Iterator[Result]:
    """Apply `work` in threads, at most `num_ahead` items ahead of the reader; yields in order."""
    with ThreadPoolExecutor(num_threads, thread_name_prefix="decode") as pool:
        window: deque[Future[Result]] = deque()
        try:
            for item in items:
                window.append(pool.submit(work, item))
                if len(window) == num_ahead:
                    yield window.popleft().result()
            while window:
                yield window.popleft().result()
        finally:
            for future in window:  # the reader left early
                future.cancel()


def batched(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Group items into lists of `size`, the last one shorter; as `itertools.batched` of Python 3.12."""
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch
