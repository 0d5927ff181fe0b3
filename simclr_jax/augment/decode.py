"""Encoded images to pixels: no more of them than their boxes need. TensorFlow ops for a `tf.data` map.

TensorFlow decodes JPEG and PNG; Pillow, slower, everything else, which TensorFlow misreads (a BMP with a palette) or
does not know (TIFF). Three channels of 8 bits, the first frame, upright by its Exif data, what is transparent on
white; of 16-bit images ``bits`` says which value is white, as in `pillow`. Of another number of ``channels`` pixels are
float32 in [0, 1], see `bands`: one is the luma of the same image, more are what a TIFF holds. Whether an image can be
read depends on its bytes alone, never on the boxes.
"""

import functools
import re
from collections.abc import Callable

import numpy as np
import tensorflow as tf
from PIL import UnidentifiedImageError

from simclr_jax.augment import bands, pillow
from simclr_jax.augment.pillow import DEEPEST

PNG_START = b"\x89PNG"
_PNG_END = b"IEND\xaeB`\x82"
_JPEG_START, _JPEG_END = b"\xff\xd8\xff", b"\xff\xd9"
_TF_FRAME = re.compile(r"\{\{.*?\}\}\s*|\s*\[Op:.*", re.DOTALL)  # what TensorFlow puts around its messages
MAX_JPEG_VALUES = 2**29  # height × width × channels of a JPEG that TensorFlow decodes; Pillow decodes larger ones

# Whether a file is an ordinary one is asked of its first and last bytes, in ops that need no lock of Python's; only one
# that is not, or that does not tell there, is looked through. Any byte is \C to RE2, which takes others for UTF-8.
_HEAD, _TAIL = 2**10, 2**12  # bytes
_JFIF, _TABLE = 20, b"\xff\xdb"  # bytes of a JPEG's usual first marker; the beginning of a table: no Exif data follow
_OPAQUE_PNG = r"\CPNG\C{20}[\x01\x02\x04\x08][\x00\x02\x03]\C*IDAT\C*"  # of up to 8 bits, if it has none of these:
_HAS_CHUNKS = r"\C*(tRNS|eXIf)\C*"
_JPEG_EXIF = re.compile(rb"\xff\xda\0[\x08\x0a\x0c\x0e]|\xff\xe1..(?=Exif\0\0)", re.DOTALL)  # or where a scan begins
_PNG_EXIF = re.compile(rb"eXIf(?=(Exif\0\0)?(II\x2a\0|MM\0\x2a))")


def around(
    encoded: tf.Tensor, boxes_of: Callable[..., list[dict]], bits: int = DEEPEST, channels: int = 3
) -> tuple[tf.Tensor, list[dict]]:
    """Pixels `[H, W, channels]` that hold every box, and the boxes moved to where they lie in these pixels.

    `boxes_of(height, width)` returns the boxes for an image size: dicts with y, x, height, width, or more.
    """

    def crop():
        shape = tf.io.extract_jpeg_shape(encoded)
        boxes = boxes_of(shape[0], shape[1])
        top = tf.reduce_min([box["y"] for box in boxes])
        left = tf.reduce_min([box["x"] for box in boxes])
        right = tf.reduce_max([box["x"] + box["width"] for box in boxes])
        # One column more on either side: libjpeg interpolates chroma between columns, and at the edge of what it
        # decodes the outermost column would differ from that of a full decode.
        left, right = tf.maximum(left - 1, 0), tf.minimum(right + 1, shape[1])
        # To the last row, or a file cut short would be refused for its lower boxes alone. Costs nothing measurable at
        # 0.2 megapixels and a tenth of the decoding at 12.
        pixels = tf.io.decode_and_crop_jpeg(encoded, [top, left, shape[0] - top, right - left], channels=3)
        return pixels, [box | {"y": box["y"] - top, "x": box["x"] - left} for box in boxes]

    def all_of_it():
        pixels = _all_pixels(encoded, _is_ordinary_png(encoded), bits)
        return pixels, boxes_of(*size(pixels))

    def gray_crop():
        pixels, boxes = crop()
        return _gray(pixels), boxes

    def other_channels():
        pixels = whole(encoded, bits, channels)
        return pixels, boxes_of(*size(pixels))

    if channels == 3:
        return tf.cond(_is_upright_jpeg(encoded), crop, all_of_it)
    return tf.cond(_is_upright_jpeg(encoded), gray_crop, other_channels) if channels == 1 else other_channels()


def whole(encoded: tf.Tensor, bits: int = DEEPEST, channels: int = 3) -> tf.Tensor:
    """All pixels of an encoded image: uint8 `[H, W, 3]`, or float32 `[H, W, channels]` in [0, 1] of other channels."""
    if channels in (1, 3):
        is_ordinary = _is_upright_jpeg(encoded) | _is_ordinary_png(encoded)
    if channels == 3:
        return _all_pixels(encoded, is_ordinary, bits)
    encoded = tf.convert_to_tensor(encoded)

    def python():
        return _in_python(functools.partial(_values_or_none, bits=bits, channels=channels), encoded, tf.float32)

    if channels > 1:
        return tf.ensure_shape(python(), [None, None, channels])
    pixels = tf.cond(is_ordinary, lambda: _gray(_all_pixels(encoded, tf.constant(True), bits)), python)
    return tf.ensure_shape(pixels, [None, None, 1])


def size(image: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Height and width of pixels `[H, W, channels]`, scalars."""
    shape = tf.shape(image)
    return shape[0], shape[1]


def examine(encoded: bytes, channels: int = 3) -> tuple[int, int]:
    """Height and width of an encoded image, decoded whole.

    Raises:
      ValueError: it cannot be decoded, with the reason in words.
    """
    if not encoded:
        raise ValueError("empty")
    try:
        height, width = size(whole(tf.constant(encoded), channels=channels))
    except tf.errors.InvalidArgumentError as error:
        raise ValueError(f"{_fault(encoded, error, channels)}, {len(encoded):,} bytes") from error
    return int(height), int(width)


def _fault(encoded: bytes, error: tf.errors.InvalidArgumentError, channels: int) -> str:
    """What is wrong with bytes that cannot be decoded, where TensorFlow has told what it thinks."""
    try:
        if channels != 3:
            _values(encoded, DEEPEST, channels)
        if not encoded.startswith(_JPEG_START):
            return f"{_pixels(encoded).shape} is not the shape of an image"
    except tf.errors.InvalidArgumentError as of_png:
        error = of_png
    except UnidentifiedImageError:
        return bands.many_channels(encoded) or f"not an image, starts with {encoded[:16]!r}"
    except Exception as pillows:
        return str(pillows) or type(pillows).__name__
    if "too large" in error.message:  # else it does not say what is wrong
        return _TF_FRAME.sub("", error.message)
    kind, end = ("JPEG", _JPEG_END) if encoded.startswith(_JPEG_START) else ("PNG", _PNG_END)
    return f"damaged {kind}" if encoded.endswith(end) else f"truncated {kind}"


def _all_pixels(encoded: tf.Tensor, is_ordinary: tf.Tensor, bits: int) -> tf.Tensor:
    """All pixels of an image, by TensorFlow where it is an ordinary one."""
    encoded = tf.convert_to_tensor(encoded)

    def tensorflow():
        return tf.io.decode_image(encoded, channels=3, expand_animations=False)

    def python():
        return _in_python(functools.partial(_pixels_or_none, bits=bits), encoded, tf.uint8)

    pixels = tf.cond(is_ordinary, tensorflow, python)
    return tf.ensure_shape(pixels, [None, None, 3])  # refuses what Python could not decode


def _is_upright_jpeg(encoded: tf.Tensor) -> tf.Tensor:
    """Whether TensorFlow decodes it as it is: a JPEG that is not too large, with nothing to turn."""

    def is_small_and_upright():
        # Of a shorter string TensorFlow would put the bytes into its message, which is then no text.
        is_long = tf.strings.length(encoded) >= _JFIF + len(_TABLE)
        has_no_exif = tf.cond(is_long, lambda: tf.strings.substr(encoded, _JFIF, len(_TABLE)) == _TABLE, lambda: False)
        is_upright = tf.cond(has_no_exif, lambda: True, lambda: _in_python(_is_stored_upright, encoded, tf.bool))
        is_small = tf.reduce_prod(tf.io.extract_jpeg_shape(encoded, tf.int64)) <= MAX_JPEG_VALUES
        return is_small & tf.ensure_shape(is_upright, [])

    return tf.cond(tf.io.is_jpeg(encoded), is_small_and_upright, lambda: False)


def _is_ordinary_png(encoded: tf.Tensor) -> tf.Tensor:
    """Whether the first and last bytes of a file tell that it is a PNG of up to 8 bits, opaque, without Exif data."""
    head = tf.strings.substr(encoded, 0, _HEAD)
    end = tf.strings.substr(encoded, tf.maximum(tf.strings.length(encoded) - _TAIL, 0), _TAIL)
    has_chunks = tf.strings.regex_full_match(tf.strings.join([head, end]), _HAS_CHUNKS)
    return tf.strings.regex_full_match(head, _OPAQUE_PNG) & ~has_chunks


def _in_python(function: Callable[[bytes], np.ndarray], encoded: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    if tf.executing_eagerly():  # numpy_function would lose the zero bytes at the end, which many a WebP has
        return tf.constant(function(encoded.numpy()))
    return tf.numpy_function(function, [encoded], dtype, stateful=False)


def _pixels_or_none(encoded: bytes, bits: int) -> np.ndarray:
    """No pixels where decoding fails, since TensorFlow would log the traceback of each failure."""
    try:
        return _pixels(encoded, bits)
    except Exception:  # Pillow's plug-ins raise anything from struct.error to KeyError on damaged files
        return np.zeros(0, np.uint8)


def _values_or_none(encoded: bytes, bits: int, channels: int) -> np.ndarray:
    """As `_pixels_or_none`, float32 `[H, W, channels]` in [0, 1]."""
    try:
        return _values(encoded, bits, channels)
    except Exception:
        return np.zeros(0, np.float32)


def _values(encoded: bytes, bits: int, channels: int) -> np.ndarray:
    if channels > 1:
        return bands.decode(encoded, channels, bits)
    if encoded.startswith(PNG_START) and encoded[24:25] == bytes([DEEPEST]):
        values = pillow.exactly(tf.io.decode_png(encoded, channels=4, dtype=tf.uint16).numpy(), bits)
        return bands.gray(pillow.upright(values, _orientation(encoded)))
    if encoded.startswith((_JPEG_START, PNG_START)):
        return bands.gray(_pixels(encoded, bits) / np.float32(255))
    return bands.decode_gray(encoded, bits)


def _gray(colours: tf.Tensor) -> tf.Tensor:
    """`bands.gray` of uint8 `[H, W, 3]`."""
    red, green, blue = tf.unstack(tf.cast(colours, tf.float32) / 255, axis=-1)
    luma = bands.LUMA[0] * red + bands.LUMA[1] * green + bands.LUMA[2] * blue
    return tf.where((red == green) & (green == blue), red, luma)[..., None]


def _pixels(encoded: bytes, bits: int = DEEPEST) -> np.ndarray:
    """Those of what TensorFlow's ops do not decode as it is meant."""
    if encoded.startswith(_JPEG_START) and np.prod(tf.io.extract_jpeg_shape(encoded, tf.int64)) <= MAX_JPEG_VALUES:
        pixels = tf.io.decode_jpeg(encoded, channels=3).numpy()
    elif encoded.startswith(PNG_START):
        is_deep = encoded[24:25] == bytes([DEEPEST])
        values = tf.io.decode_png(encoded, channels=4, dtype=tf.uint16 if is_deep else tf.uint8).numpy()
        pixels = pillow.from_deep(values, bits) if is_deep else pillow.over_white(values)
    else:
        return pillow.decode(encoded, bits)
    return pillow.upright(pixels, _orientation(encoded))


def _is_stored_upright(encoded: bytes) -> np.bool_:
    return np.bool_(_orientation(encoded) == 1)


def _orientation(encoded: bytes) -> int:
    """That of a PNG, or of a JPEG: one that Exif data before its scans tell."""
    found = (_PNG_EXIF if encoded.startswith(PNG_START) else _JPEG_EXIF).search(encoded)
    return pillow.orientation(encoded[found.end() : found.end() + 2**16] if found else b"")
