import io
import struct
import zlib
from contextlib import suppress

import numpy as np
import pytest
from PIL import Image as Pillow
from PIL import ImageCms, ImageOps

from pipeline.errors import ImageError
from pipeline.images.decode import MAX_BYTES, SCALED, _to_rgb, decode, prepare, probe
from tests.factories import a_photo, a_recipe, encoded

PHOTO = a_photo(1)
GREY = PHOTO.convert("L")
SMOOTH = PHOTO.resize((160, 128))  # for formats that keep colour at half the resolution
FEW_COLOURS = PHOTO.quantize(60).convert("RGB")  # a palette holds it without loss


def decoded(data):
    return decode(data, a_recipe())


def pixels_of(image):
    return np.asarray(image, dtype=np.int16)


def assert_alike(found, wanted, levels):
    assert found.mode == "RGB"
    assert found.size == wanted.size
    assert np.abs(pixels_of(found) - pixels_of(wanted)).max() <= levels


def assert_close(found, wanted):
    """For lossy formats: single pixels may be far off, the picture not."""
    assert_alike(found, wanted, 60)
    assert np.abs(pixels_of(found) - pixels_of(wanted)).mean() < 6


def deep(values, dtype):
    """A TIFF or PNG of grey values that need more than 8 bits."""
    kind = "PNG" if dtype == np.uint16 else "TIFF"
    return encoded(Pillow.fromarray(np.asarray(values).astype(dtype)), kind)


def over_white(rgb, alpha):
    share = np.asarray(alpha, np.float64)[..., None] / 255
    return Pillow.fromarray(np.rint(np.asarray(rgb) * share + 255 * (1 - share)).astype(np.uint8))


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM", "TGA"])
def test_every_lossless_format_gives_the_same_pixels(kind):
    assert_alike(decoded(encoded(PHOTO, kind)), PHOTO, 0)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "JPEG2000", "AVIF"])
def test_every_lossy_format_gives_almost_the_same_pixels(kind):
    assert_close(decoded(encoded(SMOOTH, kind)), SMOOTH)


def test_one_bit_is_black_and_white():
    bilevel = PHOTO.convert("1")
    assert_alike(decoded(encoded(bilevel)), bilevel.convert("RGB"), 0)


def test_grey_is_the_same_three_times():
    assert_alike(decoded(encoded(GREY)), GREY.convert("RGB"), 0)


def test_opaque_alpha_changes_nothing():
    assert_alike(decoded(encoded(GREY.convert("LA"))), GREY.convert("RGB"), 0)
    assert_alike(decoded(encoded(PHOTO.convert("RGBA"))), PHOTO, 0)


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_transparency_is_laid_over_white(mode):
    alpha = Pillow.fromarray(np.linspace(0, 255, GREY.width * GREY.height).reshape(GREY.size[::-1]).astype(np.uint8))
    image = PHOTO.convert(mode)
    image.putalpha(alpha)
    opaque = GREY.convert("RGB") if mode == "LA" else PHOTO
    assert_alike(decoded(encoded(image)), over_white(opaque, alpha), 1)


def test_premultiplied_alpha_is_laid_over_white_too():
    half = Pillow.new("RGBA", (8, 8), (200, 0, 0, 128)).convert("RGBa")  # as some TIFFs have it
    assert _to_rgb(half).getpixel((4, 4)) == pytest.approx((227, 127, 127), abs=2)


def test_what_is_hidden_under_full_transparency_does_not_show():
    image = PHOTO.convert("RGBA")
    image.putalpha(0)
    assert_alike(decoded(encoded(image)), Pillow.new("RGB", PHOTO.size, "white"), 0)


def test_a_palette_gives_its_colours():
    assert_alike(decoded(encoded(FEW_COLOURS.quantize(60))), FEW_COLOURS, 0)


def test_a_transparent_colour_of_a_palette_is_white():
    palette = FEW_COLOURS.quantize(60)
    index = palette.getpixel((0, 0))
    hidden = np.asarray(palette) == index
    wanted = np.where(hidden[..., None], 255, np.asarray(FEW_COLOURS)).astype(np.uint8)
    for kind in ("PNG", "GIF"):
        assert_alike(decoded(encoded(palette, kind, transparency=index)), Pillow.fromarray(wanted), 0)


def test_palette_entries_can_be_half_transparent():
    palette = FEW_COLOURS.quantize(60)
    alpha = np.asarray(palette) * 4
    found = decoded(encoded(palette, transparency=bytes(4 * index for index in range(60))))
    assert_alike(found, over_white(FEW_COLOURS, alpha), 1)


def test_a_transparent_colour_of_an_rgb_picture_is_white():
    colour = PHOTO.getpixel((3, 3))
    hidden = (np.asarray(PHOTO) == colour).all(axis=-1)
    wanted = np.where(hidden[..., None], 255, np.asarray(PHOTO)).astype(np.uint8)
    assert_alike(decoded(encoded(PHOTO, transparency=colour)), Pillow.fromarray(wanted), 0)


def test_cmyk_is_not_inverted():
    assert_alike(decoded(encoded(PHOTO.convert("CMYK"), "TIFF")), PHOTO, 1)
    assert_close(decoded(encoded(SMOOTH.convert("CMYK"), "JPEG")), SMOOTH)


def test_lab_is_converted_to_the_colours_it_names():
    # a colour that sRGB holds well, so that only rounding to 8-bit Lab is between the two
    to_lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    plain = Pillow.new("RGB", (8, 8), (120, 100, 90))
    lab = ImageCms.applyTransform(plain, to_lab)
    assert_alike(decoded(encoded(lab, "TIFF")), plain, 4)


@pytest.mark.parametrize("depth", [10, 12, 14, 16])
def test_deep_grey_is_scaled_by_the_depth_it_uses(depth):
    top = 2**depth - 1
    bright = np.asarray(GREY, np.float64)
    bright *= 255 / bright.max()
    wanted = Pillow.fromarray(np.rint(bright).astype(np.uint8)).convert("RGB")
    assert_alike(decoded(deep(np.rint(bright * top / 255), np.uint16)), wanted, 1)


@pytest.mark.parametrize(
    ("highest", "depth"), [(255, 8), (256, 10), (1023, 10), (1024, 12), (4095, 12), (4096, 14), (16384, 16)]
)
def test_a_depth_begins_exactly_at_its_power_of_two(highest, depth):
    found = decoded(deep(np.array([[0, highest]]), np.uint16)).getpixel((1, 0))
    assert found == (round(highest * 255 / (2**depth - 1)),) * 3


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_grey_of_eight_bits_in_a_deeper_file_keeps_its_values(dtype):
    assert_alike(decoded(deep(np.asarray(GREY), dtype)), GREY.convert("RGB"), 0)


def test_floats_below_one_are_shares():
    assert_alike(decoded(deep(np.asarray(GREY) / 255, np.float32)), GREY.convert("RGB"), 0)


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_numbers_are_black_and_change_no_other_pixel(odd):
    values = np.asarray(GREY) / 255
    values[:2] = odd
    wanted = np.asarray(GREY).copy()
    wanted[:2] = 0
    assert_alike(decoded(deep(values, np.float32)), Pillow.fromarray(wanted).convert("RGB"), 0)


def test_any_other_range_is_stretched():
    values = np.linspace(-3.0, 500.0, 64).reshape(8, 8)
    found = pixels_of(decoded(deep(values, np.float32)))
    assert (found.min(), found.max()) == (0, 255)


@pytest.mark.parametrize("value", [-5.0, 0.0, 1.0, 300.0])
def test_a_picture_of_one_deep_value_is_one_grey(value):
    found = pixels_of(decoded(deep(np.full((8, 8), value), np.float32)))
    assert found.min() == found.max()


STORED = {
    1: lambda image: image,
    2: ImageOps.mirror,
    3: lambda image: image.transpose(Pillow.Transpose.ROTATE_180),
    4: ImageOps.flip,
    5: lambda image: image.transpose(Pillow.Transpose.TRANSPOSE),
    6: lambda image: image.transpose(Pillow.Transpose.ROTATE_90),
    7: lambda image: image.transpose(Pillow.Transpose.TRANSVERSE),
    8: lambda image: image.transpose(Pillow.Transpose.ROTATE_270),
}


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("orientation", STORED)
def test_the_eight_orientations_give_one_picture(orientation, kind):
    exif = Pillow.Exif()
    exif[0x0112] = orientation
    assert_alike(decoded(encoded(STORED[orientation](PHOTO), kind, exif=exif)), PHOTO, 0)


@pytest.mark.parametrize("orientation", [0, 9, 99])
def test_an_orientation_that_does_not_exist_is_upright(orientation):
    exif = Pillow.Exif()
    exif[0x0112] = orientation
    assert_alike(decoded(encoded(PHOTO, exif=exif)), PHOTO, 0)


# as outside pytest: `pipeline.images.decode` silences Pillow's warnings on import, pytest raises them again
@pytest.mark.filterwarnings("ignore")
def test_a_broken_exif_block_is_no_reason_to_refuse_a_picture():
    assert_close(decoded(encoded(SMOOTH, "JPEG", exif=b"Exif\x00\x00rubbish" * 3)), SMOOTH)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_of_several_frames_the_first_counts(kind):
    options = {"lossless": True} if kind == "WEBP" else {}
    first, second = FEW_COLOURS, ImageOps.invert(FEW_COLOURS)
    data = encoded(first, kind, save_all=True, append_images=[second], **options)
    assert Pillow.open(io.BytesIO(data)).n_frames == 2
    assert_alike(decoded(data), first, 0)


def chunk(name, body):
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def bomb(width, height):
    """A PNG of a few bytes that announces any size."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("read", [probe, decoded])
@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", r"^empty file \(0 bytes\)$"),
        (b"\n<!DOCTYPE html><html>404</html>", "an HTML page"),
        (b"<html><body>", "an HTML page"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG: vector graphics"),
        (b"<?xml version='1.0'?><svg/>", "XML"),
        (b"%PDF-1.7 ...", "PDF"),
        (b"\x1f\x8b\x08\x00 gzip", "gzip"),
        (b'{"error": "not found"}', "JSON"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "git lfs pull"),
        (b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00", "HEIC: convert it to JPEG"),
        (b"\x00" * 4096, r"4096 bytes, starting with b'\\x00"),
        (b"\xff\xd8\xff", "not a picture"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a picture"),
        (bomb(50_000, 50_000), "too many pixels|over the limit"),
        (bomb(9_500, 9_500), "9500 x 9500 pixels is over the limit of 89 megapixels; scale it down"),
        (bomb(2**31 - 1, 2**31 - 1), "."),
        (bomb(0, 0), "."),
    ],
    ids=lambda value: None if isinstance(value, bytes) else value[:12],
)
# the first over the limit is announced by a warning of Pillow's that is silenced outside pytest
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_what_is_no_picture_is_refused_with_a_reason(read, data, reason):
    with pytest.raises(ImageError, match=reason):
        read(data)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "GIF"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_half_a_picture_is_refused(kind, share):
    data = encoded(a_photo(3, (200, 160)), kind)
    with pytest.raises(ImageError, match=r"."):
        decoded(data[: int(len(data) * share)])


def test_a_file_too_large_for_a_picture_is_refused_unread():
    with pytest.raises(ImageError, match="257 MiB file, more than the 256 MiB limit"):
        probe(bytes(MAX_BYTES + 2**20))


def test_probe_accepts_by_the_header_what_only_decoding_can_refuse():
    data = encoded(a_photo(3, (200, 160)), "JPEG")
    probe(data[: len(data) // 2])


@pytest.mark.parametrize("seed", range(8))
def test_flipped_bytes_never_raise_anything_but_an_image_error(seed):
    rng = np.random.default_rng(seed)
    for kind in ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "TGA", "ICO", "JPEG2000", "AVIF"):
        data = bytearray(encoded(PHOTO, kind))
        for place in rng.integers(0, len(data), 6):
            data[place] = rng.integers(0, 256)
        with suppress(ImageError):
            assert decoded(bytes(data)).mode == "RGB"


LARGE = a_photo(4, (300, 216)).resize((600, 432))  # a quarter of it is three times the recipe's 32 pixels
SCALED_RECIPE = a_recipe(decoder=SCALED)


def assert_scaled_alike(data):
    """Scaled decoding gives a smaller picture, and almost the same pixels for the network."""
    exact, scaled = decoded(data), decode(data, SCALED_RECIPE)
    assert scaled.mode == "RGB"
    assert scaled.size == tuple(side // 4 for side in exact.size)
    whole = exact.crop((0, 0, 4 * scaled.width, 4 * scaled.height))
    difference = np.abs(prepare(whole, a_recipe()) - prepare(scaled, SCALED_RECIPE))
    assert difference.mean() < 1
    assert difference.max() < 16


@pytest.mark.parametrize(
    ("size", "scaled"),
    [
        ((127, 400), (127, 400)),
        ((128, 400), (64, 200)),
        ((129, 401), (64, 200)),
        ((401, 255), (200, 127)),
        ((256, 256), (64, 64)),
        ((511, 700), (127, 175)),
        ((700, 512), (87, 64)),
        ((1600, 1600), (200, 200)),
    ],
)
def test_a_scaled_picture_keeps_twice_the_pixels_that_are_needed(size, scaled):
    data = encoded(a_photo(2, (64, 64)).resize(size), "JPEG")
    assert decode(data, SCALED_RECIPE).size == scaled
    assert decoded(data).size == size


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("progressive", [False, True])
def test_scaling_leaves_the_colours_as_they_are(mode, progressive):
    assert_scaled_alike(encoded(LARGE.convert(mode), "JPEG", quality=90, progressive=progressive))


@pytest.mark.parametrize("orientation", STORED)
def test_scaling_leaves_the_picture_upright(orientation):
    exif = Pillow.Exif()
    exif[0x0112] = orientation
    data = encoded(STORED[orientation](LARGE), "JPEG", quality=90, exif=exif)
    assert_scaled_alike(data)


@pytest.mark.parametrize("size", [(603, 435), (435, 603), (601, 257), (257, 607), (259, 258)])
def test_scaling_leaves_the_crop_in_the_centre(size):
    assert_scaled_alike(encoded(LARGE.resize(size), "JPEG", quality=90))


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "BMP", "GIF", "JPEG2000"])
def test_only_jpegs_are_scaled(kind):
    data = encoded(LARGE, kind)
    assert_alike(decode(data, SCALED_RECIPE), decoded(data), 0)


def test_deep_grey_is_not_scaled():
    data = deep(np.asarray(LARGE.convert("L"), np.float64) * 257, np.uint16)
    assert_alike(decode(data, SCALED_RECIPE), decoded(data), 0)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_half_a_picture_is_refused_scaled_too(share):
    data = encoded(LARGE, "JPEG")
    with pytest.raises(ImageError, match=r"."):
        decode(data[: int(len(data) * share)], SCALED_RECIPE)


@pytest.mark.parametrize("size", [(1, 1), (1, 400), (400, 1), (3, 2), (2100, 230), (32, 32), (33, 32), (500, 700)])
def test_any_shape_becomes_a_square_in_range(size):
    found = prepare(Pillow.fromarray(np.asarray(a_photo(5, (64, 64)).resize(size))), a_recipe())
    assert (found.shape, found.dtype) == ((32, 32, 3), np.float32)
    assert 0 <= found.min() <= found.max() <= 255


def test_a_picture_of_the_right_size_is_left_as_it_is():
    photo = a_photo(6, (32, 32))
    assert np.array_equal(prepare(photo, a_recipe()), np.asarray(photo, np.float32))


def test_the_crop_is_the_central_square_and_nothing_beside_it():
    centre = a_photo(7, (50, 50))
    wide = Pillow.new("RGB", (151, 50), "red")
    wide.paste(centre, (50, 0))
    tall = Pillow.new("RGB", (50, 151), "red")
    tall.paste(centre, (0, 50))
    wanted = prepare(centre, a_recipe())
    assert np.array_equal(prepare(wide, a_recipe()), wanted)
    assert np.array_equal(prepare(tall, a_recipe()), wanted)


def test_hard_edges_do_not_leave_the_range_of_pixels():
    board = np.kron(np.indices((20, 20)).sum(axis=0) % 2 * 255, np.ones((7, 7))).astype(np.uint8)
    pixels = prepare(Pillow.fromarray(board).convert("RGB"), a_recipe(size=96))
    assert (pixels.min(), pixels.max()) == (0, 255)


def test_one_colour_stays_one_colour():
    found = prepare(Pillow.new("RGB", (317, 211), (10, 128, 250)), a_recipe())
    assert np.abs(found - (10, 128, 250)).max() < 1e-3


@pytest.mark.heavy
@pytest.mark.parametrize(
    "size", [(224, 224), (223, 225), (50, 37), (37, 50), (641, 333), (97, 700), (1, 1), (2, 9), (1500, 8)]
)
def test_keras_resizes_to_the_same_pixels(keras, size):
    from pipeline.delivery.model import frame

    photo = a_photo(8, size)
    recipe = a_recipe(size=224)
    resizing = frame(keras.layers.GlobalAveragePooling2D(), recipe).get_layer("resized")  # of the delivered model
    resized = np.asarray(resizing(np.asarray(photo, np.float32)[None])).clip(0, 255)[0]
    assert np.abs(prepare(photo, recipe) - resized).max() < 0.01
