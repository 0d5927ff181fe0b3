"""Encoded images to pixels: no more of them than their boxes need. TensorFlow ops for a `tf.data` map.

TensorFlow decodes JPEG and PNG; Pillow, slower, everything else, which TensorFlow misreads (a BMP with a palette) or
does not know (TIFF). Always three channels of 8 bits, the first frame, alpha dropped. Whether an image can be read
depends on its bytes alone, never on the boxes.
"""

import io
import re
from collections.abc import Callable

import numpy as np
import tensorflow as tf
from PIL import Image, UnidentifiedImageError

PNG_START = b"\x89PNG"
_ENDS = (("JPEG", b"\xff\xd8\xff", b"\xff\xd9"), ("PNG", PNG_START, b"IEND\xaeB`\x82"))  # the first bytes, the last
PILLOW_FORMATS = ("BMP", "GIF", "TIFF", "WEBP", "AVIF", "JPEG2000", "JPEG", "PPM")
BITS_PER_SAMPLE = 258  # the TIFF tag: 12 or 16 where Pillow gives gray pixels of 16 bits
_TF_FRAME = re.compile(r"\{\{.*?\}\}\s*|\s*\[Op:.*", re.DOTALL)  # what TensorFlow puts around its messages
MAX_PIXELS = (2**31 - 1) // 3  # of an image: TensorFlow's limit for PNG, kept for all, where Pillow's own is not lower
MAX_JPEG_VALUES = 2**29  # height × width × channels of a JPEG that TensorFlow decodes; Pillow decodes larger ones


def around(encoded: tf.Tensor, boxes_of: Callable[..., list[dict]]) -> tuple[tf.Tensor, list[dict]]:
    """Pixels that hold every box, and the boxes moved to where they lie in these pixels.

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
        pixels = whole(encoded)
        return pixels, boxes_of(*size(pixels))

    return tf.cond(_is_jpeg_for_tensorflow(encoded), crop, all_of_it)


def whole(encoded: tf.Tensor) -> tf.Tensor:
    """All pixels of an encoded image, uint8 `[H, W, 3]`."""
    encoded = tf.convert_to_tensor(encoded)
    is_png = tf.strings.substr(encoded, 0, len(PNG_START)) == PNG_START

    def pillow():
        if tf.executing_eagerly():  # numpy_function would lose the zero bytes at the end, which many a WebP has
            return tf.constant(_pillow_pixels_or_none(encoded.numpy()))
        return tf.numpy_function(_pillow_pixels_or_none, [encoded], tf.uint8, stateful=False)

    def tensorflow():
        return tf.io.decode_image(encoded, channels=3, expand_animations=False)

    pixels = tf.cond(_is_jpeg_for_tensorflow(encoded) | is_png, tensorflow, pillow)
    return tf.ensure_shape(pixels, [None, None, 3])  # refuses what Pillow could not decode


def size(image: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Height and width of pixels `[H, W, 3]`, scalars."""
    shape = tf.shape(image)
    return shape[0], shape[1]


def examine(encoded: bytes) -> tuple[int, int]:
    """Height and width of an encoded image, decoded whole.

    Raises:
      ValueError: it cannot be decoded, with the reason in words.
    """
    if not encoded:
        raise ValueError("empty")
    try:
        height, width = size(whole(tf.constant(encoded)))
    except tf.errors.InvalidArgumentError as error:
        known = [(kind, end) for kind, start, end in _ENDS if encoded.startswith(start)]
        if known and "too large" in error.message:  # for these alone TensorFlow's message says what is wrong
            fault = _TF_FRAME.sub("", error.message)
        elif known:
            kind, end = known[0]
            fault = f"damaged {kind}" if encoded.endswith(end) else f"{kind} cut short"
        else:
            try:
                fault = f"{_pillow_pixels(encoded).shape} is no shape of an image"
            except UnidentifiedImageError:
                fault = f"no image, begins with {encoded[:16]!r}"
            except Exception as pillows:
                fault = str(pillows) or type(pillows).__name__
        raise ValueError(f"{fault}, {len(encoded):,} bytes") from error
    return int(height), int(width)


def _is_jpeg_for_tensorflow(encoded: tf.Tensor) -> tf.Tensor:
    def is_small():
        return tf.reduce_prod(tf.io.extract_jpeg_shape(encoded, tf.int64)) <= MAX_JPEG_VALUES

    return tf.cond(tf.io.is_jpeg(encoded), is_small, lambda: False)


def _pillow_pixels_or_none(encoded: bytes) -> np.ndarray:
    """As `_pillow_pixels`; no pixels where it fails, since TensorFlow would log the traceback of each failure."""
    try:
        return _pillow_pixels(encoded)
    except Exception:  # Pillow's plug-ins raise anything from struct.error to KeyError on damaged files
        return np.zeros(0, np.uint8)


def _pillow_pixels(encoded: bytes) -> np.ndarray:
    """The first frame without alpha."""
    image = Image.open(io.BytesIO(encoded), formats=PILLOW_FORMATS)
    if image.width * image.height > MAX_PIXELS:
        raise ValueError(f"{image.height} × {image.width} is too large, more than {MAX_PIXELS:,} pixels")
    if image.mode in ("I", "F"):
        raise ValueError("pixels of 32 bits have no defined white, save it with 8 or 16 bits")
    if image.mode.startswith("I;16"):  # Pillow would clip it
        bits = getattr(image, "tag_v2", {}).get(BITS_PER_SAMPLE, (16,))[0]
        gray = np.asarray(image) >> (bits - 8)
        return np.repeat(gray.astype(np.uint8)[..., None], 3, axis=2)
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
