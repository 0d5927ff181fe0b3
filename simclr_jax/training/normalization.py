"""What model.normalize=data normalises by: mean and deviation of each channel, found once in some training images."""

import math
from typing import Any

import numpy as np

from simclr_jax.data import feed
from simclr_jax.data.unreadable import Unreadable

SAMPLED = 1024  # training images, chosen by the seed
_BATCH = 64
_DIGITS = 6  # that are kept, so that machines which sum in another order agree

Numbers = tuple[tuple[float, ...], tuple[float, ...]]  # the mean of each channel, and its deviation


def find(train: Any, *, image_size: int, seed: int) -> Numbers:
    """Returns mean and deviation of all pixels of the central views, as evaluation sees them, of some training images.

    Args:
      train: the training images; at most `SAMPLED` of them are looked at.
      image_size: side of the views, pixels.
      seed: decides which.

    Raises:
      ValueError: none of them can be read, or a channel is the same everywhere.
    """
    sample = train.sample(SAMPLED, seed=seed)
    unreadable = Unreadable(len(sample), max_fraction=1.0, named=0)  # they are told when training reads them
    views = feed.central_views(sample, image_size, batch_size=min(_BATCH, len(sample)), unreadable=unreadable)
    count, images, total, squares = 0, 0, 0.0, 0.0
    for batch in views:
        pixels = batch["images"].reshape(-1, train.channels).astype(np.float64)
        count, images = count + len(pixels), images + len(batch["images"])
        total, squares = total + pixels.sum(0), squares + np.square(pixels).sum(0)
    if not count:
        raise ValueError(f"model.normalize=data: none of {len(sample)} training images can be read")
    mean = total / count
    deviation = np.sqrt(np.maximum(squares / count - mean**2, 0.0))
    if (constant := np.flatnonzero(deviation < 1e-6)).size:
        channel = int(constant[0])
        raise ValueError(
            f"model.normalize=data: channel {channel} (counted from 0) is {mean[channel]:.4g} everywhere in {images:,} "
            "training images, so its deviation is 0; leave it out of the files, or use --config.model.normalize=none"
        )
    return tuple(map(_rounded, mean)), tuple(map(_rounded, deviation))


def ones(channels: int) -> Numbers:
    """Returns what stands in for numbers that are not known: a network with them has the same shapes."""
    return (1.0,) * channels, (1.0,) * channels


def _rounded(value: float) -> float:
    value = float(value)
    return round(value, _DIGITS - 1 - math.floor(math.log10(abs(value)))) if value else 0.0
