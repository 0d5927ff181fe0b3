"""Images of more than 8 bits: one value is white, whatever the format; what a file itself declares counts."""

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from simclr_jax.augment import decode, pillow
from support.decoders import both, saved
from support.oracles import picture

HEIGHT, WIDTH = 40, 60
COLOURS = picture(HEIGHT, WIDTH)
GRAY = COLOURS[..., 0]
ALPHA = picture(HEIGHT, WIDTH, seed=1)[..., :1]


def tiff(values, order="<", photometric=2, extra=()):
    """A TIFF of 16 bits by hand: values [H, W, channels]."""
    height, width, channels = values.shape
    data = values.astype(f"{order}u2").tobytes()
    tags = [(256, 3, [width]), (257, 3, [height]), (258, 3, [16] * channels), (259, 3, [1]), (262, 3, [photometric])]
    tags += [(273, 4, [8]), (277, 3, [channels]), (278, 3, [height]), (279, 4, [len(data)])]
    tags += [(338, 3, list(extra))] * bool(extra)
    start = 8 + len(data)
    behind = start + 2 + 12 * len(tags) + 4
    entries, long = b"", b""
    for tag, kind, numbers in tags:
        packed = np.array(numbers, f"{order}u{2 if kind == 3 else 4}").tobytes()
        if len(packed) > 4:
            place = np.array([behind + len(long)], f"{order}u4").tobytes()
            long, packed = long + packed, place
        entries += np.array([tag, kind], f"{order}u2").tobytes() + np.array([len(numbers)], f"{order}u4").tobytes()
        entries += packed.ljust(4, b"\0")
    head = (b"II" if order == "<" else b"MM") + np.array([42], f"{order}u2").tobytes()
    count = np.array([len(tags)], f"{order}u2").tobytes()
    return head + np.array([start], f"{order}u4").tobytes() + data + count + entries + bytes(4) + long


def png(values):
    return tf.io.encode_png(values).numpy()


def pgm(values, largest):
    letter = b"P5" if values.shape[2] == 1 else b"P6"
    return b"%s\n%d %d\n%d\n" % (letter, WIDTH, HEIGHT, largest) + values.astype(">u2").tobytes()


def deep(bits, channels):
    """The picture in so many bits, uint16 [H, W, channels]: the upper 8 are its own, the lower ones anything."""
    eight = COLOURS if channels == 3 else GRAY[..., None]
    low = np.random.default_rng(0).integers(0, 2 ** (bits - 8), eight.shape)
    return ((eight.astype(np.uint16) << (bits - 8)) + low).astype(np.uint16)


FILES = {
    "PNG": lambda gray, colours: (png(gray), png(colours)),
    "TIFF": lambda gray, colours: (tiff(gray, photometric=1), tiff(colours)),
    "TIFF, big-endian": lambda gray, colours: (tiff(gray, ">", 1), tiff(colours, ">")),
    "PGM, PPM": lambda gray, colours: (pgm(gray, 65535), pgm(colours, 65535)),
    "JPEG 2000": lambda gray, _: (saved(Image.fromarray(gray[..., 0]), "JPEG2000"),),
}


@both
@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("bits", [8, 12, 16])
def test_the_largest_value_of_so_many_bits_is_white(kind, bits, pixels_of):
    encoded = FILES[kind](deep(bits, 1), deep(bits, 3))
    expected = np.repeat(GRAY[..., None], 3, axis=2), COLOURS
    for content, pixels in zip(encoded, expected, strict=False):
        np.testing.assert_array_equal(pixels_of(content, bits), pixels)


@both
def test_what_is_brighter_than_white_is_white(pixels_of):
    for content in (png(deep(16, 3)), tiff(deep(16, 3)), pgm(deep(16, 1), 65535)):
        assert (pixels_of(content, 12) >= np.minimum(pixels_of(content, 16).astype(int) * 16, 255)).all()
        assert pixels_of(content, 8).max() == 255


@both
def test_of_a_tiff_in_which_zero_is_white_the_values_are_turned_round(pixels_of):
    for bits in (8, 12, 16):
        turned = 2**bits - 1 - deep(bits, 1)
        pixels = pixels_of(tiff(turned.astype(np.uint16), photometric=0), bits)
        np.testing.assert_array_equal(pixels, np.repeat(GRAY[..., None], 3, axis=2))


@both
def test_alpha_of_16_bits_is_blended_too(pixels_of):
    alpha = ALPHA.astype(np.uint16) * 257
    expected = ALPHA / 255.0 * COLOURS + 255 - ALPHA
    values = np.dstack([deep(12, 3), alpha])
    for content in (png(values), tiff(values, extra=(2,))):
        np.testing.assert_allclose(pixels_of(content, 12), expected, atol=0.5001)
    gray = png(np.dstack([deep(12, 1), alpha]))
    np.testing.assert_allclose(
        pixels_of(gray, 12), (ALPHA / 255.0 * GRAY[..., None] + 255 - ALPHA) * [1, 1, 1], atol=0.5001
    )


@both
def test_what_a_file_declares_counts_more_than_what_was_found(pixels_of):
    values = deep(12, 1)
    for bits in (8, 12, 16):
        pixels = pixels_of(pgm(values, 4095), bits).astype(int)
        assert np.abs(pixels - GRAY[..., None]).max() <= 1
    encoded = saved(Image.fromarray(values[..., 0]), "JPEG2000")
    place = encoded.index(b"\xff\x4f\xff\x51") + 42
    assert encoded[place] == 15
    fewer = encoded[:place] + b"\x0b" + encoded[place + 1 :]  # says 12 bits
    assert pixels_of(fewer, 12).mean() == pixels_of(fewer, 16).mean() == pixels_of(fewer, 8).mean()


def test_the_largest_value_is_found_in_every_format():
    for bits in (9, 12, 16):
        gray, colours = deep(bits, 1), deep(bits, 3)
        for kind, files in FILES.items():
            for content, values in zip(files(gray, colours), (gray, colours), strict=False):
                assert pillow.deep_pixels(io.BytesIO(content)) == HEIGHT * WIDTH, kind
                largest = int(values.max())
                assert pillow.largest(content) in (largest, largest | 255), kind
    assert pillow.largest(pgm(deep(12, 1), 4095)) is None
    for eight in (png(COLOURS), saved(Image.fromarray(COLOURS), "TIFF"), saved(Image.fromarray(COLOURS), "JPEG")):
        assert pillow.deep_pixels(io.BytesIO(eight)) == 0


def test_numbers_with_a_sign_are_refused():
    signed = tiff(deep(8, 1), photometric=1)
    with_format = saved(Image.fromarray(np.int32(GRAY)), "TIFF")
    assert decode.examine(signed) == (HEIGHT, WIDTH)
    with pytest.raises(ValueError, match=r"^32-bit pixels have no defined white; save it .* unsigned"):
        decode.examine(with_format)
