"""Blank images in the place of a source that is not here: a plan needs their number and shapes alone."""

import dataclasses
import io
import math
from typing import Any

import numpy as np
from PIL import Image

from simclr_jax.augment import bands
from simclr_jax.data.split import Split

CLASSES = 1000  # ImageNet's; they decide the size of the online probe, which is small beside any encoder
LARGEST_ARRAY = 64  # pixels a side, up to which the images of a TFDS set are taken to be arrays of one size


@dataclasses.dataclass(frozen=True)
class Blank:
    """What stands in for :class:`simclr_jax.data.sources.Splits`.

    Args:
      name: of the source that is not here: npz: and textures have arrays, folder: files.
      images: of its training split, hold-outs included.
      side: of the images, pixels.
      held_out: roles whose images are held out of the training split.
      holdout_fraction: share that each of them takes.
      limit: use only that many training images; 0 = all.
      channels: of the images.
    """

    name: str
    images: int
    side: int
    held_out: tuple[str, ...]
    holdout_fraction: float
    limit: int
    channels: int = 3

    class_names = tuple(map(str, range(CLASSES)))

    @property
    def source(self) -> "Blank":
        """Whoever asks for the classes of the source finds them here."""
        return self

    def load(self, role: str) -> Split:
        """Returns as many blank images as the role has."""
        held = math.ceil(self.images * self.holdout_fraction)
        left = self.images - held * len(self.held_out)
        return self._split(min(left, self.limit or left) if role == "train" else held)

    def _split(self, count: int) -> Split:
        kind = self.name.partition(":")[0]
        if kind in ("npz", "textures") or (kind == "tfds" and self.side <= LARGEST_ARRAY):
            pixels = np.broadcast_to(
                np.zeros((), np.uint8), (count, self.side, self.side, self.channels)
            )  # takes no memory
            return Split.whole(pixels, np.zeros(count, np.int64))
        file = io.BytesIO()
        if self.channels in (1, 3):
            Image.new("RGB", (self.side, self.side)).save(file, "png")
        else:
            bands.write_blank(file, self.side, self.channels)
        files: Any = np.empty(count, object)
        files.fill(file.getvalue())  # one file, however many there are
        return Split.whole(files, np.zeros(count, np.int64), channels=self.channels)
