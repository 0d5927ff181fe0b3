"""Images as Pillow opens them, to pixels: upright, opaque, three channels of 8 bits. Works without TensorFlow.

Exif's orientation is applied, and what is transparent lies on white. Of 16-bit images ``bits`` says which value is
white: 2 ** bits - 1. It is one number for a whole data set, so that a dark image stays darker than a bright one; only
where a file itself declares less than 16 bits, that counts.
"""

import io
import re
import struct
from typing import BinaryIO

import numpy as np
from PIL import Image

FORMATS = ("BMP", "GIF", "TIFF", "WEBP", "AVIF", "JPEG2000", "JPEG", "PPM")
DEEPEST = 16  # bits of a channel that are read
MAX_PIXELS = (2**31 - 1) // 3  # of an image: TensorFlow's limit for PNG, kept for all, where Pillow's own is not lower

# What makes an image upright, by its orientation: whether rows become columns, then the steps through rows and columns.
TURNS = np.array(
    [
        (0, 1, 1),  # none is 0
        (0, 1, 1),
        (0, 1, -1),
        (0, -1, -1),
        (0, -1, 1),
        (1, 1, 1),
        (1, 1, -1),
        (1, -1, -1),
        (1, -1, 1),
    ],
    np.int32,
)

_ORIENTATION, _BITS_PER_SAMPLE, _PHOTOMETRIC = 274, 258, 262  # tags of Exif and TIFF
_SHORT, _WHITE_IS_ZERO = 3, 0  # the type of 16-bit numbers; a photometric interpretation
_JPEG2000_DEPTH = re.compile(rb"\xff\x4f\xff\x51.{38}(.)", re.DOTALL)  # less 1, in its place of the SIZ marker segment
_OTHER_ORDER = {"L": "B", "B": "L", "N": "B"}  # of the bytes of 16-bit numbers; N, the machine's own, is L


def pixels(image: Image.Image, bits: int = DEEPEST) -> np.ndarray:
    """Returns an opened image's first frame, uint8 `[H, W, 3]`.

    Args:
      image: Pillow's. Of colours of 16 bits Pillow itself keeps the upper 8; `decode` reads all of them.
      bits: bit depth whose largest value is white in 16-bit images, 8 to 16.

    Raises:
      ValueError: numbers of 32 bits, or with a sign.
    """
    if (gray := _deep_gray(image)) is not None:
        made = from_deep(gray, _declared(image) or bits, white_is_zero=_is_white_zero(image))
    elif image.has_transparency_data:
        made = over_white(np.asarray(image.convert("RGBA")))
    else:
        made = np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
    image.load()  # what follows a PNG's pixels may be its Exif data. A TIFF has been turned by Pillow now
    return upright(made, orientation(image.info.get("exif") or b""))


def decode(encoded: bytes, bits: int = DEEPEST) -> np.ndarray:
    """Returns the pixels of an encoded image of `FORMATS` as `pixels` does, from all bits of its colours.

    Raises:
      ValueError: more than `MAX_PIXELS`, or numbers of 32 bits.
      Exception: Pillow's, of any kind, for what is damaged or no image.
    """
    image = _opened(encoded)
    values, declared = _deep(image, encoded)
    if values is None:
        return pixels(image)
    return from_deep(values, declared or bits, white_is_zero=_is_white_zero(image))


def decode_exactly(encoded: bytes, bits: int = DEEPEST) -> np.ndarray:
    """Returns what `decode` does as float32 `[H, W, 3]` in [0, 1], with all bits of 16-bit images; raises as it."""
    image = _opened(encoded)
    values, declared = _deep(image, encoded)
    if values is None:
        return pixels(image) / np.float32(255)
    return exactly(values, declared or bits, white_is_zero=_is_white_zero(image))


def _opened(encoded: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(encoded), formats=FORMATS)
    if image.width * image.height > MAX_PIXELS:
        raise ValueError(f"{image.height} × {image.width} is too large, more than {MAX_PIXELS:,} pixels")
    return image


def deep_pixels(file: BinaryIO) -> int:
    """Returns how many pixels an image of 16 bits has, 0 for other images; reads no more than its first bytes."""
    image = Image.open(file, formats=(*FORMATS, "PNG"))
    file.seek(0)
    if image.format == "PNG":
        is_deep = file.read(25)[24] == DEEPEST
        file.seek(0)
    else:
        is_deep = image.mode.startswith("I") or _has_deep_colours(image)
    return image.width * image.height if is_deep else 0


def largest(encoded: bytes) -> int | None:
    """Returns the largest value of a 16-bit image; None where its file declares what is white."""
    image = Image.open(io.BytesIO(encoded), formats=(*FORMATS, "PNG"))
    if image.format == "PNG" and not image.mode.startswith("I"):  # Pillow keeps the upper 8 of colours' 16 bits
        return int(np.asarray(image)[..., :3].max()) * 256 + 255
    values, declared = _deep(image, encoded)
    return None if declared else int(values[..., :3].max())


def from_deep(values: np.ndarray, bits: int, *, white_is_zero: bool = False) -> np.ndarray:
    """Returns uint8 `[H, W, 3]` of unsigned 16-bit values `[H, W, channels]`; a fourth channel is alpha, of 16 bits."""
    eight = np.minimum(values[..., :3] >> (bits - 8), 255).astype(np.uint8)
    if white_is_zero:
        eight = 255 - eight
    if values.shape[2] == 4:
        return over_white(np.dstack([eight, (values[..., 3] >> 8).astype(np.uint8)]))
    return eight if values.shape[2] == 3 else np.repeat(eight, 3, axis=2)


def exactly(values: np.ndarray, bits: int, *, white_is_zero: bool = False) -> np.ndarray:
    """Returns what `from_deep` does as float32 `[H, W, 3]` in [0, 1], with all bits."""
    top = 2**bits - 1
    colours = np.minimum(values[..., :3], top) / np.float32(top)
    if white_is_zero:
        colours = 1 - colours
    if values.shape[2] == 4:
        colours = 1 - (1 - colours) * (values[..., 3:] / np.float32(2**DEEPEST - 1))
    return colours if colours.shape[2] == 3 else np.repeat(colours, 3, axis=2)


def over_white(colours_and_alpha: np.ndarray) -> np.ndarray:
    """Returns uint8 `[H, W, 3]` of uint8 `[H, W, 4]`, blended over white."""
    colours, alpha = colours_and_alpha[..., :3], colours_and_alpha[..., 3:]
    if alpha.min(initial=255) == 255:
        return colours
    return np.rint(255 - (255 - colours) * (alpha / np.float32(255))).astype(np.uint8)


def upright(stored: np.ndarray, orientation: int) -> np.ndarray:
    """Returns pixels `[H, W, 3]` as they are meant to be seen, of those in the file."""
    swap, row_step, column_step = TURNS[orientation]
    return (stored.transpose(1, 0, 2) if swap else stored)[::row_step, ::column_step]


def orientation(exif: bytes) -> int:
    """Returns the orientation that Exif data tell, 1 to 8; 1 where they tell none or are damaged."""
    tiff = exif.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(f"{order}I", tiff, 4)
        (count,) = struct.unpack_from(f"{order}H", tiff, start)
        for place in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind, _, value = struct.unpack_from(f"{order}HHIH", tiff, place)
            if tag == _ORIENTATION:
                return value if kind == _SHORT and 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1


def _deep(image: Image.Image, encoded: bytes) -> tuple[np.ndarray | None, int | None]:
    """Values of a 16-bit image, uint16 `[H, W, channels]`, and the bit depth of white where the file declares it."""
    declared = _declared(image, encoded)
    if (gray := _deep_gray(image)) is not None:
        return gray, declared
    if not _has_deep_colours(image):
        return None, None
    if image.format == "PPM":
        shape = image.height, image.width, 3
        values = np.frombuffer(encoded, ">u2", image.height * image.width * 3, image.tile[0].offset)
        return values.reshape(shape).astype(np.uint16), None
    # Pillow takes the upper byte of each value; of values whose bytes are said to be the other way round, the lower.
    low = Image.open(io.BytesIO(encoded), formats=FORMATS)
    low.tile = [
        tile._replace(args=(tile.args[0][:-1] + _OTHER_ORDER[tile.args[0][-1]], *tile.args[1:])) for tile in low.tile
    ]
    return np.asarray(image) * np.uint16(256) + np.asarray(low), None


def _has_deep_colours(image: Image.Image) -> bool:
    """Whether a TIFF or a binary PPM holds colours of 16 bits and does not declare another white."""
    if image.format == "PPM":
        return image.tile[0].codec_name == "ppm" and image.tile[0].args == ("RGB", 2**DEEPEST - 1)
    is_tiff = image.format == "TIFF" and image.mode in ("RGB", "RGBA")
    return is_tiff and set(image.tag_v2.get(_BITS_PER_SAMPLE, ())) == {DEEPEST}


def _deep_gray(image: Image.Image) -> np.ndarray | None:
    """The values of a gray image of 16 bits, which Pillow would clip to 8, uint16 `[H, W, 1]`; None of other images."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        return np.asarray(image).astype(np.uint16)[..., None]
    if image.mode in ("I", "F"):
        raise ValueError("32-bit pixels have no defined white; save it with 8 or 16 bits, unsigned")
    return None


def _declared(image: Image.Image, encoded: bytes = b"") -> int | None:
    """The bit depth whose largest value is white, of an image that is not loaded yet, where its file tells it."""
    if image.format == "TIFF":
        depth = image.tag_v2.get(_BITS_PER_SAMPLE, (DEEPEST,))[0]
        return depth if depth < DEEPEST else None
    # Of these two Pillow fills up to 16 bits what is declared to have less.
    if image.format == "PPM" and image.mode == "I":
        args = image.tile[0].args if image.tile else ""
        return DEEPEST if isinstance(args, tuple) and args[-1] < 2**DEEPEST - 1 else None
    if image.format == "JPEG2000":
        depth = _JPEG2000_DEPTH.search(encoded)
        return DEEPEST if depth and depth[1][0] + 1 < DEEPEST else None
    return None


def _is_white_zero(image: Image.Image) -> bool:
    return image.format == "TIFF" and image.tag_v2.get(_PHOTOMETRIC) == _WHITE_IS_ZERO
