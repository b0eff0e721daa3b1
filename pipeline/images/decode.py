"""The decoder of file bytes to RGB pixels, one for extraction, training and prediction.

Every mode Pillow can read ends as the same 8-bit RGB by a fixed rule; what cannot be trusted is an
`ImageError` whose message is the reason. The rules are named in `Recipe`, because they change numbers.
"""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image as Pillow
from PIL import ImageCms, ImageOps, UnidentifiedImageError

from pipeline.errors import ImageError
from pipeline.types import DECODERS, Pixels, Recipe

Pillow.init()  # registers every format; without it `formats=` below knows five of them
# A broken EXIF block or an odd palette is no reason to refuse a picture. Not `catch_warnings` around
# each file: it swaps the process's filters and decoding runs in threads.
warnings.filterwarnings("ignore", module=r"PIL\.")

# Raster formats that Pillow decodes by itself (MPO comes with JPEG). Absent on purpose: EPS and PDF (run Ghostscript),
# WMF (Windows only), and exotic ones whose decoders see little use and less testing.
FORMATS = (
    "JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "JPEG2000", "AVIF", "ICO", "TGA",
)  # fmt: skip
MAX_PIXELS = 89_478_485  # Pillow's own decompression-bomb limit: 1 GiB / 4 channels / 3
MAX_BYTES = 256 * 2**20  # an encoded picture larger than this is something else
EXACT, SCALED = DECODERS["exact"], DECODERS["scaled"]
SCALED_MARGIN = 2  # a scaled picture's short side, in sides of the network's square, is at least this
BIT_DEPTHS = (8, 10, 12, 14, 16)  # what scanners and x-ray detectors store inside 16-bit files


def read_picture(path: str | Path) -> bytes:
    """Read a picture's file; a film must not fill the memory.

    Raises
    ------
    ImageError
        The file is too large for a picture; nothing of it is read then.
    OSError
        It cannot be read.
    """
    with open(path, "rb") as file:
        check_size(os.fstat(file.fileno()).st_size)
        return file.read()


def check_size(num_bytes: int) -> None:
    """Raise ImageError if a file of this many bytes is too large for a picture."""
    if num_bytes > MAX_BYTES:
        raise ImageError(f"{num_bytes / 2**20:,.0f} MiB file, more than the {MAX_BYTES / 2**20:.0f} MiB limit")


def probe(data: bytes) -> tuple[int, int]:
    """Check from its header that some bytes are a picture that can be decoded; return its width and height in pixels.

    Raises
    ------
    ImageError
        With the reason: empty, not a picture, too large.
    """
    with _translated(data):
        return _open(data).size


def decode(data: bytes, recipe: Recipe) -> Pillow.Image:
    """Decode encoded bytes to an upright 8-bit RGB picture of any size (first frame only).

    The recipe's size matters to the scaled decoder alone: a JPEG that is far larger comes at a half, a quarter or
    an eighth of its size, the smallest whose short side is still `SCALED_MARGIN` times the recipe's. libjpeg then
    leaves out the high frequencies that resizing would average away.

    Raises
    ------
    ImageError
        With the reason, for everything that is not a whole, readable picture.
    """
    with _translated(data):
        image = _open(data)
        if recipe.decoder == SCALED:
            image = _scaled(image, SCALED_MARGIN * recipe.size)
        image.load()
        return _to_rgb(_upright(image))


def prepare(image: Pillow.Image, recipe: Recipe) -> Pixels:
    """Crop an RGB picture to its central square and resize it.

    Returns (size, size, 3) float32 in 0..255, *not* rounded: rounding is a jump, and two correct resizers
    that round differ by whole grey levels where they agree to 1e-3 before (measured: 0.1 of probability).
    The crop box is whole pixels and starts at floor((long - short) / 2), and the filter is the bicubic
    (a = -0.5) with its support scaled for reduction, so that `keras.layers.Resizing(crop_to_aspect_ratio=True,
    interpolation="bicubic", antialias=True)` computes the same.
    """
    width, height = image.size
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    # crop first: resize(box=...) would let pixels outside the box into the border of the result
    square = image.crop((left, top, left + side, top + side))
    pixels = np.empty((recipe.size, recipe.size, 3), np.float32)
    for channel, band in enumerate(square.split()):
        deep = band.convert("F")  # 8-bit resizing rounds between its two passes
        resized = deep.resize((recipe.size, recipe.size), Pillow.Resampling.BICUBIC)
        pixels[..., channel] = np.asarray(resized)
    return np.clip(pixels, 0, 255, out=pixels)


def _open(data: bytes) -> Pillow.Image:
    if not data:
        raise ImageError("empty file (0 bytes)")
    check_size(len(data))
    image = Pillow.open(io.BytesIO(data), formats=FORMATS)
    width, height = image.size
    if width < 1 or height < 1:
        raise ImageError(f"picture of {width} x {height} pixels")
    if width * height > MAX_PIXELS:
        raise ImageError(
            f"{width} x {height} pixels is over the limit of {MAX_PIXELS / 1e6:.0f} megapixels; scale it down"
        )
    return image


@contextmanager
def _translated(data: bytes) -> Iterator[None]:
    """Turn whatever Pillow raises or warns about one file into an `ImageError` with a plain reason."""
    try:
        yield
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError(f"not a picture that can be read ({_looks_like(data)})") from None
    except Pillow.DecompressionBombError as error:
        raise ImageError(f"too many pixels: {error}") from None
    except MemoryError:
        raise ImageError("decoding it does not fit into memory") from None
    except Exception as error:  # noqa: BLE001  decoders raise anything: struct.error, SyntaxError, IndexError
        raise ImageError(f"damaged: {error or type(error).__name__}") from None


def _looks_like(data: bytes) -> str:
    """Say what a file that is no picture seems to be, from its first bytes."""
    head = data[:64].lstrip().lower()
    signs = (
        (b"version https://git-lfs", "a git-LFS pointer: run `git lfs pull`"),
        (b"<svg", "SVG: vector graphics"),
        (b"<!doctype html", "an HTML page"),
        (b"<html", "an HTML page"),
        (b"<?xml", "XML"),
        (b"%pdf", "PDF"),
        (b"\x1f\x8b", "gzip"),
        (b"{", "JSON"),
    )
    for sign, name in signs:
        if head.startswith(sign):
            return name
    if data[4:12] in (b"ftypheic", b"ftypheix", b"ftypmif1"):
        return "HEIC: convert it to JPEG"
    return f"{len(data)} bytes, starting with {data[:8]!r}"


def _scaled(image: Pillow.Image, side: int) -> Pillow.Image:
    """Decode a JPEG at the smallest scale that leaves `side` pixels each way; other formats stay as they are."""
    drafted = image.draft(None, (side, side))
    if drafted is None:
        return image
    _, (_, _, width, height) = drafted
    # sizes that the scale does not divide round up; that last row or column is partly filling from behind the edge
    return image.crop((0, 0, int(width), int(height)))


def _upright(image: Pillow.Image) -> Pillow.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # noqa: BLE001  a garbage EXIF block has no orientation to honour
        return image


def _to_rgb(image: Pillow.Image) -> Pillow.Image:
    """Bring any Pillow mode to RGB: alpha over white, deep greys by the range they use."""
    if image.mode.startswith("I") or image.mode == "F":
        return _from_deep_grey(np.asarray(image))
    if image.mode == "LAB":
        to_srgb = ImageCms.buildTransform(ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), "LAB", "RGB")
        converted = ImageCms.applyTransform(image, to_srgb)
        if converted is None:
            raise ImageError("LAB picture that cannot be converted to RGB")
        return converted
    if "A" in image.getbands() or "a" in image.getbands() or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Pillow.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Pillow.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _from_deep_grey(values: np.ndarray) -> Pillow.Image:
    """Scale 16-bit, 32-bit or float grey to 8 bits.

    Integers are divided by the smallest common bit depth that holds the picture's maximum, so that a
    12-bit x-ray in a 16-bit file is not black; floats in 0..1 or 0..255 are taken as such; any other
    range is stretched from its minimum to its maximum. NaN and infinities are black.
    """
    grey = np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    low, high = float(grey.min()), float(grey.max())
    if values.dtype.kind in "iu" and low >= 0 and high < 2 ** BIT_DEPTHS[-1]:
        top = next(2**depth - 1 for depth in BIT_DEPTHS if high < 2**depth)
        scaled = grey * (255 / top)
    elif low >= 0 and high <= 1:
        scaled = grey * 255
    elif low >= 0 and high <= 255:
        scaled = grey
    else:
        scaled = (grey - low) * (255 / ((high - low) or 1.0))
    return Pillow.fromarray(np.rint(scaled).astype(np.uint8)).convert("RGB")
