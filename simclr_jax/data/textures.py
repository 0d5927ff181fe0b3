"""A small labelled image set drawn by arithmetic: the pattern is the class, the colours are a nuisance.

It needs no download and no decoder, so the quickstart, the tests and ablations of SimCLR run anywhere. What
makes it a fair subject for contrastive learning:

- Every image draws its own palette, contrast, illumination, noise, scale, phase, rotation and warp, whatever its
  class. Two crops of one image share their colours, so without colour distortion SimCLR can tell images apart by
  colour alone and learn little about the pattern: the shortcut of section 3.2 of arXiv 2002.05709.
- Colour says nothing about the class: a pattern is reduced to the ranks of its pixels before it is painted, so
  all classes cover the same areas with the same colours.
- No two classes differ only by what a view may change: a mirror image, a change of scale, or which of two
  colours is the brighter.

Order, batches and views belong to the modules after this one. NumPy only.
"""

import numpy as np

SIZE = 24  # pixels: the side at which a crop of a third of the image still holds about two periods of a pattern
MIN_SIZE = 16  # pixels: below this the finest pattern falls under the sampling limit
TRAIN_IMAGES = 6000
VALIDATION_IMAGES = 1000
TEST_IMAGES = 2000
SIZES = {"train": TRAIN_IMAGES, "validation": VALIDATION_IMAGES, "test": TEST_IMAGES}

# Ranges of the nuisances, lengths in pixels of a 24-pixel image; every image draws uniformly from each.
PERIOD = (5.0, 7.5)
SHIFT = (-4.5, 4.5)  # wide enough to be any phase, narrow enough to keep the centre of rings and rays inside
ROTATION = (-0.16, 0.16)  # radians; far from the 45 degrees that tell stripes from diagonals
WARP = (0.0, 0.8)  # amplitude of a slow sinusoidal displacement
WARP_LENGTH = (16.0, 32.0)  # its wavelength
DUTY = (0.34, 0.46)  # fraction of the area that the first colour covers
EDGE = (0.04, 0.12)  # softness of the border between the colours, as a fraction of the area
CONTRAST = (0.5, 1.0)
SHADE = (0.0, 0.35)  # illumination falls by up to this fraction from the centre to the border
NOISE = (0.0, 0.05)  # standard deviation, on a scale where white is 1
TINT = 0.35  # largest change of a channel between the first colour and its companion
MIN_LUMA_GAP = 0.25  # a smaller gap would let a conversion to grey erase the class
LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601, the weights of the usual conversion to grey

_TAU = 2 * np.pi

Array = np.ndarray
Rng = np.random.Generator


CLASSES: tuple[str, ...] = (
    "horizontal",
    "vertical",
    "diagonal",
    "checkerboard",
    "dots",
    "triangles",
    "rings",
    "rays",
    "bricks",
    "zigzag",
    "basket",
    "labyrinth",
)


def make(n: int, *, size: int = SIZE, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Draws the first n images of a seed.

    Image i depends on (seed, i) and the size alone, so a larger n extends a smaller one. The classes take
    turns: label i is i modulo the number of classes. A larger size shows the same patterns in more detail.

    Args:
      n: number of images, 0 or more.
      size: side of the square images in pixels, at least `MIN_SIZE`.
      seed: a non-negative integer.

    Returns:
      images: uint8 [n, size, size, 3].
      labels: int64 [n], indices into `CLASSES`.

    Raises:
      ValueError: if n, size or seed is out of range.
    """
    return _make(n, size, seed, stream=0)


def splits(*, size: int = SIZE, seed: int = 0) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Draws the three splits of a seed, from random streams of their own.

    Args:
      size: side of the square images in pixels, at least `MIN_SIZE`.
      seed: a non-negative integer.

    Returns:
      {"train", "validation", "test"}, each (images uint8 [n, size, size, 3], labels int64 [n]) with n of
      `TRAIN_IMAGES`, `VALIDATION_IMAGES` and `TEST_IMAGES`. "train" holds the images that `make` draws.

    Raises:
      ValueError: if size or seed is out of range.
    """
    return {name: _make(n, size, seed, stream) for stream, (name, n) in enumerate(SIZES.items())}


def _make(n: int, size: int, seed: int, stream: int) -> tuple[np.ndarray, np.ndarray]:
    if n < 0 or seed < 0:
        raise ValueError(f"n and seed must be 0 or more, got n={n} and seed={seed}")
    if size < MIN_SIZE:
        raise ValueError(f"size {size} is too small for the patterns to be seen; use {MIN_SIZE} or more")
    images = np.empty((n, size, size, 3), np.uint8)
    labels = np.arange(n, dtype=np.int64) % len(CLASSES)
    for index, label in enumerate(labels):
        images[index] = _image(CLASSES[label], size, np.random.default_rng([seed, stream, index]))
    return images, labels


def _image(name: str, size: int, rng: Rng) -> Array:
    """One image of a class, uint8 [size, size, 3]. The order of the draws is part of what a seed means."""
    # Pixel positions in periods, after a random shift, mirror, warp, rotation and scale.
    x, y = _grid(size)
    x, y = (x - rng.uniform(*SHIFT)) * rng.choice([-1, 1]), y - rng.uniform(*SHIFT)
    amplitude, length = rng.uniform(*WARP), rng.uniform(*WARP_LENGTH)
    phase_x, phase_y = rng.uniform(0, _TAU, 2)
    x, y = (
        x + amplitude * np.sin(_TAU * y / length + phase_x),
        y + amplitude * np.sin(_TAU * x / length + phase_y),
    )
    angle, period = rng.uniform(*ROTATION), rng.uniform(*PERIOD)
    cos, sin = np.cos(angle) / period, np.sin(angle) / period
    field = _field(name, cos * x - sin * y, sin * x + cos * y, rng)

    # How much of each pixel has the first colour, in (0, 1). Ranks have the same histogram whatever the field.
    rank = np.empty(field.size)
    rank[field.ravel().argsort(kind="stable")] = (np.arange(field.size) + 0.5) / field.size
    duty, edge = rng.uniform(*DUTY), rng.uniform(*EDGE)
    cover = (0.5 + 0.5 * np.tanh((rank - (1 - duty)) / edge)).reshape(field.shape)

    # Two colours in [0, 1], uniform among the pairs that differ enough in brightness.
    while True:
        first, second = palette = rng.uniform(0, 1, (2, 3))
        if abs(np.subtract(*(palette @ LUMA))) >= MIN_LUMA_GAP:
            break

    # Across the image the first colour turns into a companion as bright as it, so that the pattern keeps its contrast.
    tint = rng.uniform(-TINT, TINT, 3)
    companion = first + (tint - LUMA @ tint)
    first_here = first + _ramp(size, rng)[..., None] * (companion - first)
    mean, contrast = (first + second) / 2, rng.uniform(*CONTRAST)
    pixels = mean + contrast * (second + cover[..., None] * (first_here - second) - mean)

    # Light that falls off in a random direction, and noise.
    pixels *= (1 - rng.uniform(*SHADE) * _ramp(size, rng))[..., None]
    pixels += rng.uniform(*NOISE) * rng.standard_normal(pixels.shape)
    return np.round(255 * np.clip(pixels, 0, 1)).astype(np.uint8)


def _field(name: str, u: Array, v: Array, rng: Rng) -> Array:
    """A height for every pixel, of which painting colours the highest; u, v: pixel positions in periods.

    The factors bring the grains of the classes to a common size, so that scale tells as little as colour.
    """
    match name:
        case "horizontal":
            return np.sin(_TAU * v)
        case "vertical":
            return np.sin(_TAU * u)
        case "diagonal":
            return np.sin(_TAU * (u + v) / np.sqrt(2))
        case "checkerboard":
            return np.sin(np.pi * 1.3 * u) * np.sin(np.pi * 1.3 * v)
        case "dots":
            return np.cos(_TAU * u) + np.cos(_TAU * v)
        case "triangles":  # three plane waves, 120 degrees apart, whose phases make the bright cells triangles
            a, b = 0.8 * _TAU * v, 0.8 * _TAU * (np.sqrt(0.75) * u - 0.5 * v)
            return np.sin(a) + np.sin(b) - np.sin(a + b)
        case "rings":
            return np.sin(_TAU * np.hypot(u, v) + rng.uniform(0, _TAU))
        case "rays":
            return np.sin(rng.integers(6, 10) * np.arctan2(v, u) + rng.uniform(0, _TAU))
        case "bricks":  # the distance to the mortar: rows one period high, every other row half a brick on
            length = 1.8
            along = u / length + 0.5 * (np.floor(v) % 2)
            return np.minimum(0.5 - np.abs(v % 1 - 0.5), length * (0.5 - np.abs(along % 1 - 0.5)))
        case "zigzag":
            slope, length = 1.1, 1.7
            return np.sin(_TAU * (v + slope * length * np.abs(u / length % 1 - 0.5)))
        case "basket":  # a board of tiles with stripes that run along u and along v by turns
            tile = 1.2
            across = (np.floor(u / tile) + np.floor(v / tile)) % 2 == 0
            return np.where(across, np.cos(_TAU * 2 * u / tile), np.cos(_TAU * 2 * v / tile))
        case "labyrinth":  # plane waves of one length in all directions: meandering walls without a direction
            angle, phase = (np.arange(9) + rng.uniform(size=9)) * np.pi / 9, rng.uniform(0, _TAU, 9)
            wave = np.cos(angle) * u[..., None] + np.sin(angle) * v[..., None]
            return np.sin(_TAU * wave + phase).sum(-1)


def _grid(size: int) -> tuple[Array, Array]:
    """x, y [size, size] of the pixel centres about the middle of the image, in pixels of a 24-pixel image."""
    y, x = (np.mgrid[:size, :size] + 0.5 - size / 2) * (SIZE / size)
    return x, y


def _ramp(size: int, rng: Rng) -> Array:
    """A slope from 0 to 1 across the image in a random direction."""
    x, y = _grid(size)
    angle = rng.uniform(0, _TAU)
    slope = np.cos(angle) * x + np.sin(angle) * y
    return 0.5 + slope / (np.sqrt(2) * SIZE)
