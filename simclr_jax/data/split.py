"""A split: images that are fetched by position, each with a lasting id and, where known, a label."""

import dataclasses
import hashlib
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from simclr_jax.augment.pillow import DEEPEST

HELD_OUT = ("validation", "test")  # what a training split may give images to; each has its own range of draws


@dataclasses.dataclass(frozen=True)
class Split:
    """Images by position.

    Attributes:
      images: pixels, uint8, uint16 or float32 in [0, 1], [n, H, W, C]; or paths, NumPy's bytes [n]; or encoded images,
        bytes objects [n].
      labels: int64 [n], or None where the source has no labels. A single image without one has the label -1.
      ids: int64 [n]; an image keeps its id whatever is cut from or taken out of its split. Those of files are made from
        their names, so that they stay when files come and go; those of images in memory are their positions.
      names: bytes [n], the paths of files as seen from the source's folder; None for images in memory.
      bits: bit depth whose largest value is white in uint16 pixels and encoded images of 16 bits, see `bit_depth`.
      channels: C that encoded images are decoded to.
    """

    images: np.ndarray
    labels: np.ndarray | None
    ids: np.ndarray
    names: np.ndarray | None = None
    bits: int = DEEPEST
    channels: int = 3

    @classmethod
    def whole(
        cls, images: np.ndarray, labels: np.ndarray | None, names: np.ndarray | None = None, *, channels: int = 3
    ) -> "Split":
        """Returns the split that holds all these images, with ids of their own."""
        if labels is not None and len(labels) != len(images):
            raise ValueError(f"{len(images)} images but {len(labels)} labels")
        ids = np.arange(len(images)) if names is None else (_hashes(names, b"id") >> 1).astype(np.int64)
        return cls(images, labels, ids, names, channels=images.shape[-1] if images.ndim == 4 else channels)

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
        return {"u": "pixels", "f": "pixels", "S": "paths", "O": "bytes"}[self.images.dtype.kind]

    def with_positions_as_ids(self) -> "Split":
        """Returns the same images with their positions as ids."""
        return dataclasses.replace(self, ids=np.arange(len(self)))

    def take(self, positions: np.ndarray) -> "Split":
        """Returns the images at these positions, in this order."""
        labels = None if self.labels is None else self.labels[positions]
        names = None if self.names is None else self.names[positions]
        taken = {"images": self.images[positions], "labels": labels, "ids": self.ids[positions], "names": names}
        return dataclasses.replace(self, **taken)

    def first(self, limit: int) -> "Split":
        """Returns the first ``limit`` images; all of them for 0."""
        return self.take(np.arange(min(limit, len(self)))) if limit else self

    def sample(self, limit: int, *, seed: int) -> "Split":
        """Returns ``limit`` images that the seed chooses, in their old order; all of them for 0."""
        if not 0 < limit < len(self):
            return self
        return self.take(np.sort(np.argsort(self._draws(f"sample {seed}"), kind="stable")[:limit]))

    def hold_out(
        self, roles: Iterable[str], fraction: float, *, seed: int, every_class: bool = True
    ) -> dict[str, "Split"]:
        """Cuts off about ``fraction`` of the images for each role; "train" is what remains. All keep their old order.

        Whether an image is held out depends on the seed and on its own name or, in memory, on its pixels alone: other
        images may come and go, and none that was trained on is held out then.

        Args:
          roles: of `HELD_OUT`.
          fraction: of the images, for each role; 0 = none.
          seed: decides which.
          every_class: whether a class of which chance gives a role less than half of its share, or nothing, gives it
            that many all the same, if one is left to train on. Which these are depends on the class's other images.
        """
        draws, labels = self._draws(f"hold out {seed}"), self.class_numbers
        role_of = np.full(len(self), -1)
        numbers = [HELD_OUT.index(role) for role in roles]
        for number in numbers:
            role_of[(draws >= number * fraction) & (draws < (number + 1) * fraction)] = number
        order = np.lexsort((draws, labels))
        ends = np.flatnonzero(np.diff(labels[order])) + 1
        for of_class in np.split(order, ends) if every_class and fraction else ():
            for number in numbers:
                least = max(1, round(fraction * len(of_class) / 2))
                missing = max(0, least - int((role_of[of_class] == number).sum()))
                left = of_class[role_of[of_class] < 0]
                role_of[left[: min(missing, len(left) - 1)]] = number
        parts = {HELD_OUT[number]: self.take(np.flatnonzero(role_of == number)) for number in numbers}
        return parts | {"train": self.take(np.flatnonzero(role_of < 0))}

    def cut(self, sizes: Sequence[int], *, seed: int) -> list["Split"]:
        """Cuts off seeded random parts of these sizes; the last returned split is what remains, in its old order.

        Which images these are depends on how many there are and on their order: for runs of before `hold_out`.
        """
        if not sizes:
            return [self]
        shuffled = np.random.default_rng([seed, len(self)]).permutation(len(self))
        pieces = np.split(shuffled, np.cumsum(sizes))
        return [self.take(np.sort(piece)) for piece in pieces]

    def _draws(self, purpose: str) -> np.ndarray:
        """Returns a number in [0, 1) for each image, float64 [n], made of the purpose and its name or content.

        Copies of one image are told apart by how many came before: a set of a few images again and again can be cut.
        """
        hashes = _hashes(self.names if self.names is not None else self.images, purpose.encode())
        order = np.argsort(hashes, kind="stable")
        position = np.arange(len(self))
        begins = np.append(True, np.diff(hashes[order]) != 0)[: len(self)]
        copy = np.empty(len(self), int)
        copy[order] = position - np.maximum.accumulate(np.where(begins, position, 0))
        again = copy > 0
        named = zip(hashes[again].tolist(), copy[again].tolist(), strict=True)
        hashes[again] = _hashes([b"%d %d" % pair for pair in named], purpose.encode())
        return (hashes >> 11) / 2.0**53


def _hashes(values: Iterable, purpose: bytes) -> np.ndarray:
    """Returns a hash of each value, uint64 [n], another one for each purpose; the same on every machine."""

    def each() -> Iterator[bytes]:
        started = hashlib.blake2b(digest_size=8, key=purpose)
        for value in values:
            found = started.copy()
            found.update(value if isinstance(value, bytes) else np.ascontiguousarray(value))
            yield found.digest()

    return np.frombuffer(b"".join(each()), "<u8").astype(np.uint64)
