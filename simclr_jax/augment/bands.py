"""Images that are not RGB of 8 bits: which value is white, colours to grey, files of one channel or many. NumPy alone.

Pixels in memory are uint8, uint16 or float32 and stay so until a view is made of them. Files of other than three
channels become float32 in [0, 1] at once, so that none of their bits is lost. Pillow reads one channel; TIFF of 2 to 32
channels (bands) are read by tifffile, an optional package.
"""

import importlib.util
import io
import math
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from simclr_jax.augment import pillow
from simclr_jax.augment.pillow import DEEPEST

MOST = 32  # channels of an image
DTYPES = ("uint8", "uint16", "float32")
LUMA = (0.2989, 0.587, 0.114)  # ITU-R BT.601, as tf.image.rgb_to_grayscale rounds them; of files and of views
TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def white(dtype: Any, bits: int = DEEPEST) -> float:
    """Returns the value that is 1 in a view: 255 of uint8, 2 ** bits - 1 of uint16, 1 of floats."""
    return {"uint8": 255.0, "uint16": 2.0**bits - 1, "float32": 1.0}[np.dtype(dtype).name]


def scaled(images: np.ndarray, bits: int = DEEPEST) -> np.ndarray:
    """Returns pixels as float32 in [0, 1]; what is above white is white."""
    if images.dtype == np.float32:
        return images
    top = white(images.dtype, bits)
    return np.minimum(images, images.dtype.type(top)) / np.float32(top)


def gray(colours: np.ndarray) -> np.ndarray:
    """Returns the luma of RGB, float32 `[..., 1]` of `[..., 3]`. Where all three are equal, it is their value.

    The weights sum to 0.9999, so that a grey pixel would otherwise become darker by that.
    """
    red, green, blue = (colours[..., channel] for channel in range(3))
    luma = sum(np.float32(weight) * channel for weight, channel in zip(LUMA, (red, green, blue), strict=True))
    return np.where((red == green) & (green == blue), red, luma)[..., None].astype(np.float32)


def check_range(images: np.ndarray, what: str) -> None:
    """Raises ValueError unless floats are finite and in [0, 1]."""
    low, high = (float(find(images)) for find in (np.min, np.max))
    if not (low >= 0 and high <= 1):  # NaN is neither
        if not np.isfinite([low, high]).all():
            raise ValueError(
                f"{what} has values that are not finite (NaN or infinite); replace them, by np.nan_to_num for example"
            )
        raise ValueError(
            f"{what} has values from {low:g} to {high:g}; floats must lie in [0, 1]: subtract the lowest value of the "
            "whole data set and divide by its range, or save uint8 or uint16"
        )


def check_batch(images: Any) -> None:
    """Raises ValueError unless an array, NumPy's or jax's, is a batch of pixels."""
    if images.ndim != 4 or not 1 <= images.shape[-1] <= MOST or images.dtype.name not in DTYPES:
        raise ValueError(
            f"images are {images.dtype} {list(images.shape)}; they must be uint8 [n, height, width, 3], or uint16 or "
            f"float32, or have 1 to {MOST} channels"
        )


def check_installed() -> None:
    """Raises ValueError, which says what to install, where TIFF of many channels cannot be read."""
    if importlib.util.find_spec("tifffile") is None:
        raise ValueError(
            "files of 2 or of more than 3 channels need the package tifffile: pip install 'simclr_jax[tiff]'"
        )


def read(encoded: bytes, channels: int) -> np.ndarray:
    """Returns the values that a TIFF holds, `[H, W, channels]`, uint8, uint16 or float32.

    Channels are samples of a pixel, in either planar configuration, or the pages of one stack.

    Raises:
      ValueError: it is no TIFF, or one of other channels or of another type.
      Exception: tifffile's, of any kind, for what is damaged.
    """
    import tifffile

    if not encoded.startswith(TIFF_STARTS):
        raise ValueError(f"{_format(encoded)}, and data.channels={channels}: only a TIFF has {channels}")
    with tifffile.TiffFile(io.BytesIO(encoded)) as file:
        series = file.series[0]
        shape = _shape(series)
        found = math.prod(side for axis, side in shape.items() if axis not in "YX")
        if found != channels:
            raise ValueError(
                f"{found} channel{'s' * (found > 1)} of {shape['Y']} × {shape['X']} pixels, and "
                f"data.channels={channels}; {_mend(found)}"
            )
        if series.dtype.name not in DTYPES:
            raise ValueError(
                f"its values are {series.dtype.name}; save them as {', '.join(DTYPES[:-1])} or {DTYPES[-1]}"
            )
        if shape["Y"] * shape["X"] > pillow.MAX_PIXELS // channels:
            raise ValueError(f"{shape['Y']} × {shape['X']} × {channels} is too large")
        values = series.asarray().reshape(list(shape.values()))
    order = [list(shape).index(axis) for axis in ("Y", "X", *shape.keys() - {"Y", "X"})]
    values = values.transpose(order).reshape(shape["Y"], shape["X"], channels)
    return np.ascontiguousarray(values.astype(values.dtype.newbyteorder("=")))


def decode(encoded: bytes, channels: int, bits: int = DEEPEST) -> np.ndarray:
    """Returns an image file's pixels, float32 `[H, W, channels]` in [0, 1], of 2 or of more than 3 channels.

    Raises:
      ValueError: as `read`; or floats outside of [0, 1].
    """
    values = read(encoded, channels)
    if values.dtype == np.float32:
        check_range(values, "it")
    return scaled(values, bits)


def decode_gray(encoded: bytes, bits: int = DEEPEST) -> np.ndarray:
    """Returns the pixels of an image of Pillow's formats as one channel, float32 `[H, W, 1]` in [0, 1].

    Raises:
      ValueError: as `pillow.decode`; or floats outside of [0, 1].
    """
    if encoded.startswith(TIFF_STARTS):
        with Image.open(io.BytesIO(encoded), formats=("TIFF",)) as image:
            if image.mode == "F":
                values = np.array(image, np.float32)[..., None]
                check_range(values, "it")
                return values
    return gray(pillow.decode_exactly(encoded, bits))


def many_channels(encoded: bytes) -> str:
    """Returns what a TIFF of other than 3 channels is and how to use it, in words; "" of all else."""
    if not encoded.startswith(TIFF_STARTS) or importlib.util.find_spec("tifffile") is None:
        return ""
    import tifffile

    try:
        with tifffile.TiffFile(io.BytesIO(encoded)) as file:
            dtype, shape = file.series[0].dtype, _shape(file.series[0])
    except Exception:
        return ""
    found = math.prod(side for axis, side in shape.items() if axis not in "YX")
    return f"a TIFF of {found} channels of {dtype}; {'save it as uint8 or uint16' if found == 3 else _mend(found)}"


def write_blank(file: BinaryIO, side: int, channels: int) -> None:
    """Writes a square TIFF of zeros, uint8; raises ValueError where tifffile is not installed."""
    check_installed()
    import tifffile

    values = np.zeros((side, side, channels), np.uint8)
    tifffile.imwrite(file, values, photometric="minisblack", planarconfig="contig")


def fault(encoded: bytes, channels: int) -> str:
    """Returns by what a file cannot be one of so many channels, in words; "" where it can, or is damaged."""
    try:
        if channels in (1, 3):
            Image.open(io.BytesIO(encoded))
        else:
            read(encoded, channels)
    except UnidentifiedImageError:
        return many_channels(encoded)
    except ValueError as error:
        return str(error)
    except Exception:
        return ""
    return ""


def _mend(channels: int) -> str:
    return f"give --config.data.channels={channels}" if channels <= MOST else f"at most {MOST} are supported"


def _shape(series: Any) -> dict[str, int]:
    """Returns {axis: side} of a TIFF's image: Y, X and, of more than one channel, that of channels or pages."""
    sides = [(axis, side) for axis, side in zip(series.axes, series.shape, strict=True) if side > 1 or axis in "YX"]
    shape = dict(sides)
    if len(sides) > 3 or not {"Y", "X"} <= shape.keys():
        raise ValueError(f"its axes {series.axes} {list(series.shape)} are not height, width and channels")
    return shape


def _format(encoded: bytes) -> str:
    """Returns what a file is, in words."""
    try:
        image = Image.open(io.BytesIO(encoded))
    except Exception:
        return f"not an image, starts with {encoded[:16]!r}"
    bands = len(image.getbands())
    return f"a {image.format} of {bands} channel{'s' * (bands > 1)}"
