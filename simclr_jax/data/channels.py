"""Images of as many channels as the user asks for; what has others is told with both numbers and the mend."""

import contextlib
import os
from collections.abc import Sequence

import numpy as np

from simclr_jax.augment import bands

LOOKED_AT = 8  # files of a split, before any run: the others are when they are read
_AT_ONCE = 2**24  # values that are converted at a time, so that little memory is needed besides


def fitted(images: np.ndarray, channels: int, what: str) -> np.ndarray:
    """Returns pixels `[n, H, W, channels]` of an array.

    One channel is repeated to three. Three become one, by luma (see `bands.gray`): of uint8 float32, since it lies
    between two values. All else stays as it is.

    Args:
      images: `[n, H, W, C]`, or `[n, H, W]` of one channel; uint8, uint16 or float32.
      channels: data.channels.
      what: the array, for messages.

    Raises:
      ValueError: another type or shape, another number of channels, or floats that are not in [0, 1].
    """
    found = f"{what} is {images.dtype} {list(images.shape)}"
    if images.dtype.name not in bands.DTYPES or images.ndim not in (3, 4) or 0 in images.shape:
        raise ValueError(
            f"{found}; images must be uint8 [n, height, width, 3], or uint16 or float32, or have 1 to {bands.MOST} "
            "channels"
        )
    if images.ndim == 3:
        images = images[..., None]
    if images.dtype == np.float32:
        bands.check_range(images, what)
    if images.shape[-1] == channels:
        return images
    if (images.shape[-1], channels) == (1, 3):
        return np.repeat(images, 3, axis=-1)
    if (images.shape[-1], channels) == (3, 1):
        return np.concatenate([_luma(part) for part in np.array_split(images, max(1, images.size // _AT_ONCE))])
    mend = f"give --config.data.channels={images.shape[-1]}" if images.shape[-1] <= bands.MOST else ""
    mend = mend or f"at most {bands.MOST} channels are supported: leave some out"
    raise ValueError(f"{found}, {images.shape[-1]} channels, and data.channels={channels}: {mend}")


def check_files(paths: Sequence[str], channels: int) -> None:
    """Raises ValueError that names an image file of other channels, among a few of these, or what is not installed."""
    if channels not in (1, 3):
        bands.check_installed()
    tiff = [path for path in paths if channels not in (1, 3) or path.lower().endswith((".tif", ".tiff"))]
    for place in np.unique(np.linspace(0, len(tiff) - 1, LOOKED_AT).astype(int)) if tiff else ():
        with contextlib.suppress(OSError), open(tiff[place], "rb") as file:  # it is told when its turn comes
            if fault := bands.fault(file.read(), channels):
                raise ValueError(f"{os.fspath(tiff[place])}: {fault}")


def _luma(colours: np.ndarray) -> np.ndarray:
    if colours.dtype == np.uint16:  # which value is white is not known yet
        return np.rint(bands.gray(colours.astype(np.float32))).astype(np.uint16)
    return bands.gray(bands.scaled(colours))
