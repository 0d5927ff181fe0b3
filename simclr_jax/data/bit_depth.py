"""Which value is white in a data set's files of 16 bits: found once, from a sample of them. Without TensorFlow.

Such files, or arrays, often hold 10, 12 or 14 bits, and do not say so. One number for all keeps a dark image darker
than a bright one, which a range of each image's own would not.
"""

import contextlib
import dataclasses
import io
import os
from typing import Any, BinaryIO

import numpy as np
from etils import epath

from simclr_jax.augment import bands, pillow
from simclr_jax.data.split import Split

DEPTHS = (8, 10, 12, 14, 16)  # that are found
MOST_FILES, MOST_IMAGES = 1024, 256  # whose first bytes, and whose pixels are looked at
MOST_PIXELS = 2**25  # of all that is looked at: 8 radiographs, or 128 slices of a CT
_EIGHT_BITS = (b".jpg", b".jpeg", b".jpe", b".jfif", b".webp", b".gif", b".bmp", b".avif", b".heic")  # at most


@dataclasses.dataclass(frozen=True)
class BitDepth:
    """What is white: 2 ** bits - 1, in files that do not themselves declare it.

    Attributes:
      bits: 8 to 16.
      images: how many it was found in; 0 where it was given, or there was none to find it in.
    """

    bits: int
    images: int = 0

    def __str__(self) -> str:
        of = f", detected from {self.images:,} of them" if self.images else ""
        return f"the value {2**self.bits - 1:,} is white ({self.bits} bits){of}"


def may_be_deep(split: Any) -> bool:
    """Whether a split has images of 16 bits, or files that may be such."""
    return split.kind != "pixels" or split.images.dtype == np.uint16


def find(split: Split, *, seed: int) -> BitDepth:
    """Looks at a seeded sample of a split's encoded images of 16 bits; brighter ones that it misses will be clipped.

    Of pixels in memory it looks at all.
    """
    if split.kind == "pixels":
        return BitDepth(_least_depth(int(split.images.max(initial=0))), len(split))
    images = split.images.tolist()
    may_be_deep = [split.kind == "bytes" or not image.lower().endswith(_EIGHT_BITS) for image in images]
    sample = np.random.default_rng(seed).permutation(np.flatnonzero(may_be_deep))[:MOST_FILES]
    largest, found, left = 0, 0, MOST_PIXELS
    for image in (images[place] for place in sample):
        # What cannot be read is told when its turn comes.
        with contextlib.suppress(Exception), _opened(image, split.kind) as file:
            size, value = _largest(file, split.channels)
            if value is not None:
                largest, found, left = max(largest, value), found + 1, left - size
        if found == MOST_IMAGES or left <= 0 or largest >= 2 ** DEPTHS[-2]:
            break
    return BitDepth(_least_depth(largest) if found else DEPTHS[-1], found)


def _largest(file: BinaryIO, channels: int) -> tuple[int, int | None]:
    """Returns how many values an image of 16 bits has, and the largest; None of what has no 16 bits."""
    if channels in (1, 3):
        size = pillow.deep_pixels(file)
        return size, pillow.largest(file.read()) if size else None
    values = bands.read(file.read(), channels)
    return values.size, int(values.max()) if values.dtype == np.uint16 else None


def _least_depth(largest: int) -> int:
    return next(bits for bits in DEPTHS if largest < 2**bits)


def _opened(image: bytes, kind: str) -> BinaryIO:
    return epath.Path(os.fsdecode(image)).open("rb") if kind == "paths" else io.BytesIO(image)
