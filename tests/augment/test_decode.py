"""Any image file becomes the pixels that Pillow sees; what is none is refused in words, by its bytes alone."""

import io
import struct
import zlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from simclr_jax.augment import decode, pillow
from support.decoders import eager, saved
from support.oracles import encode, picture

HEIGHT, WIDTH = 40, 60
PIXELS = picture(HEIGHT, WIDTH)
ALPHA = picture(HEIGHT, WIDTH, seed=1)[..., 0]
OTHER = Image.fromarray(picture(HEIGHT, WIDTH, seed=2))


def mapped(encoded):
    """As the pipeline decodes, traced anew: some tests change a bound that a trace would keep."""
    return next(tf.data.Dataset.from_tensors(encoded).map(decode.whole).as_numpy_iterator())


def by_pillow(encoded):
    return np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB"))


both = pytest.mark.parametrize("pixels_of", [eager, mapped])


# Kinds of files

LOSSLESS = {
    **{f"PNG {mode}": encode(PIXELS, "PNG", mode) for mode in ("RGB", "L", "1", "P")},
    "PNG P with transparency": encode(PIXELS, "PNG", "P", transparency=3),
    "PNG RGB with a transparent colour": encode(PIXELS, "PNG", transparency=(1, 2, 3)),
    "PNG P of 4 bits": saved(Image.fromarray(PIXELS).quantize(16), "PNG", bits=4),
    **{f"BMP {mode}": encode(PIXELS, "BMP", mode) for mode in ("RGB", "L", "1", "P")},
    **{f"TIFF {mode}": encode(PIXELS, "TIFF", mode) for mode in ("RGB", "L", "1", "P", "CMYK")},
    "TIFF LZW": encode(PIXELS, "TIFF", compression="tiff_lzw"),
    "GIF": encode(PIXELS, "GIF"),
    "GIF with transparency": encode(PIXELS, "GIF", "P", transparency=3),
    "WebP": encode(PIXELS, "WEBP"),
}


@both
@pytest.mark.parametrize("name", LOSSLESS)
def test_pixels_are_those_that_pillow_reads(name, pixels_of):
    np.testing.assert_array_equal(pixels_of(LOSSLESS[name]), by_pillow(LOSSLESS[name]))


@both
@pytest.mark.parametrize(("mode", "options"), [("RGB", {}), ("RGB", {"progressive": True}), ("L", {}), ("CMYK", {})])
def test_a_jpeg_differs_from_pillows_by_rounding_alone(mode, options, pixels_of):
    encoded = encode(PIXELS, "JPEG", mode, quality=95, **options)
    difference = np.abs(pixels_of(encoded).astype(int) - by_pillow(encoded))
    assert difference.mean() < 3


@both
@pytest.mark.parametrize(("kind", "options"), [("GIF", {}), ("WEBP", {"lossless": True}), ("PNG", {}), ("TIFF", {})])
def test_an_animation_gives_its_first_frame(kind, options, pixels_of):
    first = Image.fromarray(PIXELS).quantize(200).convert("RGB")  # so that a GIF keeps every colour
    encoded = saved(first, kind, save_all=True, append_images=[OTHER], **options)
    assert Image.open(io.BytesIO(encoded)).n_frames == 2
    np.testing.assert_array_equal(pixels_of(encoded), np.asarray(first))


@both
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF"])
def test_an_image_may_be_one_pixel(kind, pixels_of):
    pixels = pixels_of(saved(Image.new("RGB", (1, 1), (200, 10, 10)), kind))
    assert pixels.shape == (1, 1, 3)
    np.testing.assert_allclose(pixels[0, 0], [200, 10, 10], atol=6)


@both
def test_bytes_may_end_in_zeros(pixels_of):
    encoded = encode(np.zeros_like(PIXELS), "BMP")
    assert encoded.endswith(bytes(100))
    assert pixels_of(encoded).shape == PIXELS.shape and not pixels_of(encoded).any()


# More than 8 bits: the high 8 of them, as in every 16-bit image of the same picture

DEEP = (np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) * 27).astype(np.uint16)  # 0 to 64,773
RGB16 = np.stack([DEEP, DEEP[::-1], DEEP[:, ::-1]], axis=2)


def tiff(values, bits, order):
    """A TIFF of one gray channel with this many bits a pixel and this byte order, written by hand."""
    if bits == 12:
        digits = np.stack([values >> 8, values >> 4 & 15, values & 15], axis=-1).reshape(-1, 2)
        data = (digits[:, 0] << 4 | digits[:, 1]).astype(np.uint8).tobytes()
    else:
        data = values.astype(f"{order}u2").tobytes()
    tags = [(256, WIDTH), (257, HEIGHT), (258, bits), (259, 1), (262, 1), (273, 0), (278, HEIGHT), (279, len(data))]
    offset = 8 + 2 + 12 * len(tags) + 4
    entries = [struct.pack(f"{order}HHII", tag, 4, 1, offset if tag == 273 else value) for tag, value in tags]
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HIH", 42, 8, len(tags))
    return head + b"".join(entries) + bytes(4) + data


@both
@pytest.mark.parametrize(
    "encoded",
    [
        saved(Image.fromarray(DEEP), "PNG"),
        saved(Image.fromarray(DEEP), "TIFF"),
        tiff(DEEP, 16, "<"),
        tiff(DEEP, 16, ">"),
        tiff(DEEP >> 4, 12, "<"),
    ],
    ids=["PNG", "TIFF", "little-endian TIFF", "big-endian TIFF", "12-bit TIFF"],
)
def test_deep_gray_is_scaled_not_clipped(encoded, pixels_of):
    expected = np.repeat((DEEP >> 8)[..., None], 3, axis=2)
    np.testing.assert_array_equal(pixels_of(encoded), expected)


@both
def test_deep_colour_is_scaled_not_clipped(pixels_of):
    np.testing.assert_array_equal(pixels_of(tf.io.encode_png(RGB16).numpy()), RGB16 >> 8)


# Large images


def one_bit_png(side):
    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    rows = zlib.compress(bytes((1 + -(-side // 8)) * side), 1)
    head = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def test_an_image_may_be_as_large_as_20000_by_20000():
    assert decode.examine(one_bit_png(20_000)) == (20_000, 20_000)


def test_an_image_that_pillow_decodes_may_be_large_too(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", pillow.MAX_PIXELS)  # as in a process of the library
    encoded = saved(Image.new("1", (14_000, 13_000)), "TIFF", compression="group4")
    assert decode.examine(encoded) == (13_000, 14_000)


def test_a_jpeg_too_large_for_tensorflow_is_read_by_pillow(monkeypatch):
    encoded = encode(PIXELS, "JPEG", quality=95)
    monkeypatch.setattr(decode, "MAX_JPEG_VALUES", HEIGHT * WIDTH * 3 - 1)
    box = {"y": 7, "x": 5, "height": 20, "width": 30}
    for pixels_of in (eager, mapped):
        np.testing.assert_array_equal(pixels_of(encoded), by_pillow(encoded))
    pixels, boxes = decode.around(encoded, lambda *size: [box])
    np.testing.assert_array_equal(cut(pixels, boxes[0]), by_pillow(encoded)[7:27, 5:35])


@pytest.mark.parametrize("kind", ["GIF", "TIFF"])
def test_an_image_too_large_for_any_memory_is_refused(kind, monkeypatch):
    monkeypatch.setattr(pillow, "MAX_PIXELS", HEIGHT * WIDTH - 1)
    with pytest.raises(ValueError, match="40 × 60 is too large, more than 2,399 pixels"):
        decode.examine(encode(PIXELS, kind))


def test_a_png_too_large_for_any_memory_is_refused():
    head = one_bit_png(1).replace(struct.pack(">II", 1, 1), struct.pack(">II", 30_000, 30_000), 1)
    crc = struct.pack(">I", zlib.crc32(head[12:29]))
    with pytest.raises(ValueError, match=r"^PNG size too large for int: 30000 by 30000, \d+ bytes$"):
        decode.examine(head[:29] + crc + head[33:])


def test_zero_bytes_at_the_end_belong_to_the_image():
    """As a string of NumPy they would be lost; an animated WebP without them is cut short."""
    encoded = saved(OTHER, "WEBP", save_all=True, append_images=[Image.fromarray(PIXELS)] * 2, lossless=True)
    encoded += b"\0" * (8 - len(encoded) % 8)
    encoded = encoded[:4] + struct.pack("<I", len(encoded) - 8) + encoded[8:]
    for pixels_of in (eager, mapped, lambda image: decode.whole(image).numpy()):
        np.testing.assert_array_equal(pixels_of(encoded), np.asarray(OTHER))
    assert decode.examine(encoded) == (HEIGHT, WIDTH)


# Boxes


def cut(pixels, box):
    return pixels[box["y"] : box["y"] + box["height"], box["x"] : box["x"] + box["width"]]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_pixels_around_boxes_hold_them_all(kind):
    encoded = encode(PIXELS, kind)
    rng, sizes = np.random.default_rng(0), []

    def two_boxes(height, width):
        sizes.append((int(height), int(width)))
        return boxes

    for _ in range(20):
        (y, x), (dy, dx) = rng.integers(0, (30, 45), (2, 2)), rng.integers(1, (11, 16), (2, 2))
        boxes = [{"y": y[i], "x": x[i], "height": dy[i], "width": dx[i], "flip": i} for i in (0, 1)]
        pixels, moved = decode.around(tf.constant(encoded), two_boxes)
        for box, there in zip(boxes, moved, strict=True):
            np.testing.assert_array_equal(cut(pixels, there), cut(eager(encoded), box))
            assert there["flip"] == box["flip"]
    assert set(sizes) == {(HEIGHT, WIDTH)}


def test_a_jpeg_is_not_decoded_beside_and_above_its_boxes():
    box = {"y": 10, "x": 20, "height": 5, "width": 8}
    pixels, _ = decode.around(tf.constant(encode(PIXELS, "JPEG")), lambda *size: [box])
    assert pixels.shape == (HEIGHT - 10, 10, 3)


# What cannot be read


def damaged(encoded, rng):
    """A file as transfers and disks leave it: cut, cut and ended, overwritten, a piece missing, or zeros at its end."""
    at, to = sorted(rng.integers(0, len(encoded), 2).tolist())
    flipped = bytearray(encoded)
    for place in rng.integers(0, len(encoded), 8):
        flipped[place] = rng.integers(256)
    kinds = [encoded[:at], encoded[:at] + b"\xff\xd9", bytes(flipped), encoded[:at] + encoded[to:]]
    return [*kinds, encoded[:at] + bytes(len(encoded) - at)]


def test_whether_a_jpeg_can_be_read_does_not_depend_on_the_box():
    signature = [tf.TensorSpec([], tf.string), *[tf.TensorSpec([], tf.int32)] * 4]

    @tf.function(input_signature=signature)
    def around(encoded, y, x, height, width):
        return decode.around(encoded, lambda *size: [{"y": y, "x": x, "height": height, "width": width}])[0]

    whole = tf.function(decode.whole, input_signature=signature[:1])
    top, bottom = (0, 0, 1, WIDTH), (HEIGHT - 1, WIDTH - 2, 1, 2)
    rng, answers = np.random.default_rng(0), set()
    for options in ({}, {"progressive": True}, {"restart_marker_blocks": 2}, {"subsampling": 0, "quality": 95}):
        for encoded in [one for _ in range(12) for one in damaged(encode(PIXELS, "JPEG", **options), rng)]:
            readable = can(whole, encoded)
            answers.add(readable)
            if readable and tf.reduce_prod(whole(encoded).shape) != PIXELS.size:
                continue  # a damaged head may tell of another size, where the boxes below mean nothing
            assert can(around, encoded, *top) == can(around, encoded, *bottom) == readable
    assert answers == {True, False}


def can(function, *arguments):
    try:
        function(*map(tf.constant, arguments))
    except tf.errors.InvalidArgumentError:
        return False
    return True


JPEG, PNG, GIF = encode(PIXELS, "JPEG"), encode(PIXELS, "PNG"), encode(PIXELS, "GIF")
FAULTS = {
    "empty": (b"", "^empty$"),
    "one byte": (b"x", "^not an image, starts with b'x', 1 bytes$"),
    "text": (b"<!DOCTYPE html>\n<html>\n", "^not an image, starts with b'<!DOCTYPE html>.n', 23 bytes$"),
    "zeros": (bytes(3000), r"^not an image, starts with b'\\x00.*', 3,000 bytes$"),
    "PostScript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n", "^not an image, starts with b'%!PS"),
    "start of a JPEG": (JPEG[:3], "^truncated JPEG, 3 bytes$"),
    "half a JPEG": (JPEG[: len(JPEG) // 2], rf"^truncated JPEG, {len(JPEG) // 2:,} bytes$"),
    "JPEG without its end": (JPEG[:-2], "^truncated JPEG"),
    "JPEG without its middle": (JPEG[:100] + JPEG[-2:], "^damaged JPEG, 102 bytes$"),
    "half a PNG": (PNG[: len(PNG) // 2], "^truncated PNG"),
    "damaged PNG": (PNG[:200] + bytes(9) + PNG[209:], f"^damaged PNG, {len(PNG):,} bytes$"),
    "half a GIF": (GIF[: len(GIF) // 2], "^image file is truncated"),
    "half a BMP": (encode(PIXELS, "BMP")[:500], "truncated .*, 500 bytes$"),
    "half a TIFF": (encode(PIXELS, "TIFF")[:500], "truncated"),
    "half a WebP": (encode(PIXELS, "WEBP")[:200], "decoder.*, 200 bytes$"),
    "start of a BMP": (b"BM", "^not an image"),
    "start of a TIFF": (encode(PIXELS, "TIFF")[:20], "^not an image"),
    "TIFF of floats": (saved(Image.fromarray(np.float32(ALPHA)), "TIFF"), "^32-bit pixels have no defined white"),
    "TIFF of 32 bits": (saved(Image.fromarray(np.int32(ALPHA)), "TIFF"), "^32-bit pixels have no defined white"),
}


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")  # Pillow's, of a TIFF that ends in its tags
@pytest.mark.parametrize("name", FAULTS)
def test_what_cannot_be_decoded_is_described(name):
    encoded, reason = FAULTS[name]
    with pytest.raises(ValueError, match=reason) as error:
        decode.examine(encoded)
    assert "\n" not in str(error.value)
    for pixels_of in (eager, mapped):
        with pytest.raises(tf.errors.InvalidArgumentError):
            pixels_of(encoded)


def test_the_size_of_what_can_be_decoded_is_its_height_and_width():
    for encoded in LOSSLESS.values():
        assert decode.examine(encoded) == (HEIGHT, WIDTH)
