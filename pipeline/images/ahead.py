"""Reading and decoding of pictures in threads, ahead of their consumer, with bounded memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

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
ReadImage = Callable[[Image], bytes]  # the encoded bytes of an image's file; may raise OSError


@dataclass(frozen=True, slots=True)
class Decoded:
    """The result of decoding one image: pixels, or a reason. A reason is final if it is about the content."""

    image: Image
    pixels: Pixels | None = None  # (size, size, 3)
    reason: str = ""
    final: bool = False


@dataclass(frozen=True, slots=True)
class Identified:
    """The digest of a file that is a picture, or a reason, which is final if it is about the content."""

    entry: FileEntry
    digest: Digest | None = None
    reason: str = ""
    final: bool = False


def decode_images(images: Iterable[Image], read: ReadImage, recipe: Recipe) -> Iterator[Decoded]:
    """Decode images in order. None of them can fail the others: each comes back with pixels or a reason."""
    return work_ahead(images, lambda image: decode_image(image, read, recipe))


def decode_image(image: Image, read: ReadImage, recipe: Recipe) -> Decoded:
    """Decode one image, and make sure that its file still holds the content of its digest."""
    try:
        data = read(image)
    except OSError as error:
        return Decoded(image, reason=f"cannot be read: {error.strerror or error}")
    if digest(data) != image.digest:
        return Decoded(image, reason="changed while the dataset was being read; run again")
    try:
        return Decoded(image, prepare(augmented(decode(data, recipe), image.digest, recipe.view), recipe))
    except ImageError as error:
        return Decoded(image, reason=str(error), final=True)


def identify_files(root: str, entries: Iterable[FileEntry]) -> Iterator[Identified]:
    """Read files of a dataset folder and tell their content apart; yields in order."""
    return work_ahead(entries, lambda entry: identify_file(root, entry))


def identify_file(root: str, entry: FileEntry) -> Identified:
    """Read one file: its digest, or why it is no picture that can be decoded (judged by its header)."""
    try:
        check_size(entry.size_bytes)
        data = read_picture(Path(root, entry.path))
        probe(data)
    except OSError as error:
        return Identified(entry, reason=f"cannot be read: {error.strerror or error}")
    except ImageError as error:
        return Identified(entry, reason=str(error), final=True)
    return Identified(entry, digest(data))


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
