"""Upright, opaque and of 8 bits: what files say about their pixels is heeded, alike in all formats."""

import io
import itertools
import struct
import zlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps

from simclr_jax.augment import decode, host, pillow
from simclr_jax.augment.recipe import Recipe
from support.decoders import both, eager, saved
from support.oracles import picture

HEIGHT, WIDTH = 40, 60
PIXELS = picture(HEIGHT, WIDTH)
ALPHA = picture(HEIGHT, WIDTH, seed=1)[..., 0]
ORIENTATION = 274
KINDS = {"JPEG": {"quality": 95}, "PNG": {}, "WEBP": {"lossless": True}, "TIFF": {}, "AVIF": {"quality": 100}}


def turned(kind, orientation, **options):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return saved(Image.fromarray(PIXELS), kind, exif=exif, **KINDS[kind], **options)


def white(alpha, colours):
    """Colours on white, in float64."""
    return alpha[..., None] / 255 * colours + 255 - alpha[..., None]


# Orientation


@both
@pytest.mark.parametrize("kind", KINDS)
def test_an_image_stands_upright_whatever_its_orientation(kind, pixels_of):
    for orientation in range(1, 9):
        encoded = turned(kind, orientation)
        expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(encoded))).convert("RGB"))
        found = pixels_of(encoded)
        assert found.shape == expected.shape == ((60, 40, 3) if orientation > 4 else (40, 60, 3))
        tolerance = 12 if kind == "JPEG" else 0  # of two decoders
        np.testing.assert_allclose(found.astype(int), expected, atol=tolerance, err_msg=f"orientation {orientation}")
        assert decode.examine(encoded) == expected.shape[:2]


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_boxes_are_those_of_the_upright_image(kind):
    rng = np.random.default_rng(0)
    for orientation in range(1, 9):
        encoded, sizes = turned(kind, orientation), []
        whole = eager(encoded)
        for _ in range(4):
            starts, ends = np.sort(rng.integers(0, (*whole.shape[:2], *whole.shape[:2]), (2, 4)), axis=0)
            sides = ends - starts + 1
            boxes = [{"y": starts[i], "x": starts[i + 1], "height": sides[i], "width": sides[i + 1]} for i in (0, 2)]

            def of_size(height, width, sizes=sizes, boxes=boxes):
                sizes.append((int(height), int(width)))
                return boxes

            pixels, moved = decode.around(tf.constant(encoded), of_size)
            for box, there in zip(boxes, moved, strict=True):
                np.testing.assert_array_equal(cut(pixels, there), cut(whole, box), err_msg=f"orientation {orientation}")
        assert set(sizes) == {whole.shape[:2]}


def cut(pixels, box):
    return pixels[int(box["y"]) :, int(box["x"]) :][: int(box["height"]), : int(box["width"])]


def test_of_an_upright_jpeg_with_exif_data_no_more_is_decoded_than_its_boxes_need():
    box = {"y": 10, "x": 20, "height": 5, "width": 8}
    pixels, _ = decode.around(tf.constant(turned("JPEG", 1)), lambda *size: [box])
    assert pixels.shape == (HEIGHT - 10, 10, 3)


def test_views_of_a_turned_file_are_those_of_its_upright_pixels():
    recipe = Recipe(40)
    for kind, orientation in itertools.product(("JPEG", "PNG"), (3, 6, 7)):
        encoded = turned(kind, orientation)
        views = [host.two_views(recipe, tf.constant(image), 0, 1, 2) for image in (encoded, eager(encoded))]
        np.testing.assert_array_equal(*views)


def png_with(*chunks, at_end=False):
    """The PNG of the picture with more chunks, before its pixels or after them."""
    encoded = saved(Image.fromarray(PIXELS), "PNG")
    made = b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )
    place = len(encoded) - 12 if at_end else 33
    return encoded[:place] + made + encoded[place:]


EXIF = b"MM\x00*\x00\x00\x00\x08\x00\x01\x01\x12\x00\x03\x00\x00\x00\x01\x00\x06\x00\x00\x00\x00\x00\x00"
UPRIGHT = PIXELS.transpose(1, 0, 2)[:, ::-1]


@both
def test_exif_data_are_found_wherever_they_lie(pixels_of):
    text = (b"tEXt", b"prompt\0" + b"a photo " * 1000)
    for encoded in (
        png_with((b"eXIf", EXIF)),
        png_with((b"eXIf", EXIF), at_end=True),
        png_with(text, (b"eXIf", EXIF)),
        png_with(text, (b"eXIf", b"Exif\0\0" + EXIF)),
    ):
        np.testing.assert_array_equal(pixels_of(encoded), UPRIGHT)
    profile = bytes(range(256)) * 40  # an ICC profile before them
    jpeg = saved(Image.fromarray(PIXELS), "JPEG", icc_profile=profile)
    marker = b"\xff\xe1" + struct.pack(">H", len(EXIF) + 8) + b"Exif\0\0" + EXIF
    place = jpeg.index(b"\xff\xdb")  # the first table
    stored = eager(jpeg)
    np.testing.assert_array_equal(pixels_of(jpeg[:place] + marker + jpeg[place:]), pillow.upright(stored, 6))
    np.testing.assert_array_equal(pixels_of(jpeg + jpeg[:place] + marker), stored)  # those of another image behind it


@both
def test_damaged_exif_data_leave_an_image_as_it_is(pixels_of):
    rng = np.random.default_rng(0)
    damaged = [
        b"",
        EXIF[:9],
        b"MM\0*\xff\xff\xff\xff",
        EXIF[:8] + b"\xff\xff" + EXIF[10:18],
        EXIF.replace(b"\0\6", b"\0\x09"),
    ]
    damaged += [bytes(rng.integers(0, 256, 60, np.uint8)) for _ in range(3)]
    stored = eager(saved(Image.fromarray(PIXELS), "JPEG", quality=95))
    for exif in damaged:
        assert pillow.orientation(exif) == pillow.orientation(b"Exif\0\0" + exif) == 1
        np.testing.assert_array_equal(pixels_of(png_with((b"eXIf", exif))), PIXELS)
        encoded = saved(Image.fromarray(PIXELS), "JPEG", exif=b"Exif\0\0" + exif, quality=95)
        np.testing.assert_array_equal(pixels_of(encoded), stored)


# Alpha

TRANSPARENT = Image.fromarray(np.dstack([PIXELS, ALPHA]))
ALPHA_KINDS = {"PNG": {}, "WEBP": {"lossless": True, "exact": True}, "TIFF": {}, "AVIF": {"quality": 100}}


@both
@pytest.mark.parametrize("kind", ALPHA_KINDS)
def test_what_is_transparent_lies_on_white(kind, pixels_of):
    encoded = saved(TRANSPARENT, kind, **ALPHA_KINDS[kind])
    colours = np.asarray(Image.open(io.BytesIO(encoded)).convert("RGBA"), float)
    np.testing.assert_allclose(pixels_of(encoded), white(colours[..., 3], colours[..., :3]), atol=0.5001)


@both
def test_gray_with_alpha_lies_on_white(pixels_of):
    gray = TRANSPARENT.convert("LA")
    values = np.asarray(gray, float)
    expected = np.repeat(white(values[..., 1], values[..., :1]), 3, axis=2)
    for kind in ("PNG", "TIFF"):
        np.testing.assert_allclose(pixels_of(saved(gray, kind)), expected, atol=0.5001)


@both
def test_colours_that_are_said_to_be_transparent_are_white(pixels_of):
    few = Image.fromarray(PIXELS).quantize(16)
    keyed = PIXELS.copy()
    keyed[10:20] = 1, 2, 3
    cases = [(saved(few, kind, transparency=3), np.asarray(few) == 3, few.convert("RGB")) for kind in ("PNG", "GIF")]
    encoded = saved(Image.fromarray(keyed), "PNG", transparency=(1, 2, 3))
    cases.append((encoded, (keyed == (1, 2, 3)).all(2), Image.fromarray(keyed)))
    for encoded, clear, image in cases:
        expected = np.where(clear[..., None], 255, np.asarray(image))
        assert clear.any() and not clear.all()
        np.testing.assert_array_equal(pixels_of(encoded), expected)


@both
def test_an_opaque_alpha_channel_changes_nothing(pixels_of):
    opaque = Image.fromarray(np.dstack([PIXELS, np.full_like(ALPHA, 255)]))
    for kind in ("PNG", "TIFF"):
        np.testing.assert_array_equal(pixels_of(saved(opaque, kind)), PIXELS)


@both
def test_a_black_drawing_on_a_clear_ground_is_no_black_image(pixels_of):
    drawing = np.zeros((8, 8, 4), np.uint8)
    drawing[2:4, :, 3] = 255
    pixels = pixels_of(saved(Image.fromarray(drawing), "PNG"))
    assert (pixels[2:4] == 0).all() and (np.delete(pixels, (2, 3), axis=0) == 255).all()
