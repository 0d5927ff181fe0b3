"""A split: images that are fetched by position, each with a lasting id and, where known, a label."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from simclr_jax.augment.pillow import DEEPEST


@dataclasses.dataclass(frozen=True)
class Split:
    """Images by position.

    Attributes:
      images: pixels, uint8 [n, H, W, 3]; or paths, NumPy's bytes [n]; or encoded images, bytes objects [n].
      labels: int64 [n], or None where the source has no labels. A single image without one has the label -1.
      ids: int64 [n]; an image keeps its id whatever is cut from or taken out of its split.
      bits: bit depth whose largest value is white in encoded images of 16 bits, see `bit_depth`.
    """

    images: np.ndarray
    labels: np.ndarray | None
    ids: np.ndarray
    bits: int = DEEPEST

    @classmethod
    def whole(cls, images: np.ndarray, labels: np.ndarray | None) -> "Split":
        """Returns the split that holds all these images, with their positions as ids."""
        if labels is not None and len(labels) != len(images):
            raise ValueError(f"{len(images)} images but {len(labels)} labels")
        return cls(images, labels, np.arange(len(images)))

    def __len__(self) -> int:
        return len(self.images)

    @property
    def labelled(self) -> bool:
        """Whether any image has a label."""
        return self.labels is not None and bool((self.labels >= 0).any())

    @property
    def class_numbers(self) -> np.ndarray:
        """The labels, int64 [n]; -1 for an image that has none."""
        return np.full(len(self), -1) if self.labels is None else self.labels

    @property
    def kind(self) -> str:
        """ "pixels", "paths" or "bytes": what an entry of ``images`` is."""
        return {"u": "pixels", "S": "paths", "O": "bytes"}[self.images.dtype.kind]

    def take(self, positions: np.ndarray) -> "Split":
        """Returns the images at these positions, in this order."""
        labels = None if self.labels is None else self.labels[positions]
        return dataclasses.replace(self, images=self.images[positions], labels=labels, ids=self.ids[positions])

    def first(self, limit: int) -> "Split":
        """Returns the first ``limit`` images; all of them for 0."""
        return self.take(np.arange(min(limit, len(self)))) if limit else self

    def cut(self, sizes: Sequence[int], *, seed: int) -> list["Split"]:
        """Cuts off seeded random parts of these sizes; the last returned split is what remains, in its old order."""
        if not sizes:
            return [self]
        shuffled = np.random.default_rng([seed, len(self)]).permutation(len(self))
        pieces = np.split(shuffled, np.cumsum(sizes))
        return [self.take(np.sort(piece)) for piece in pieces]
