"""Images that cannot be read: counted, named, limited; in training another image stands in for each."""

import logging

import numpy as np

NAMED = 10  # images that are named in the log

_log = logging.getLogger(__name__)


class Unreadable:
    """The images of one split that turned out to be unreadable.

    Whether an image can be read depends on its bytes alone, and what stands in for it on (seed, epoch, position), so
    a run that learns late of a broken file sees the same images as one that knew.

    Args:
      size: images in the split.
      max_fraction: of them that may be unreadable.
      named: how many to name in the log.
    """

    def __init__(self, size: int, max_fraction: float, *, named: int = NAMED):
        self._size, self._max_fraction, self._named = size, max_fraction, named
        self._names: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, position: int) -> bool:
        return position in self._names

    @property
    def names(self) -> list[str]:
        """What was found, as "name: reason"."""
        return list(self._names.values())

    def add(self, found: dict[int, str]) -> None:
        """Takes in {position: "name: reason"} and names the first ones in the log.

        Raises:
          ValueError: there are more than ``max_fraction`` of the split now.
        """
        for position, name in found.items():
            if len(self._names) < self._named:
                _log.warning("unreadable image, replaced or skipped: %s", name)
            elif len(self._names) == self._named > 0:
                _log.warning("further unreadable images are not listed here; simclr-jax check-data lists them all")
            self._names[position] = name
        if len(self._names) > self._max_fraction * self._size:
            raise ValueError(
                f"{len(self._names)} of {self._size} images cannot be read, more than "
                f"data.max_corrupt_fraction={self._max_fraction:g} allows; the first is {self.names[0]}; "
                "simclr-jax check-data --config=… lists them all"
            )

    def replace(self, epoch: int, positions: np.ndarray, seed: int) -> np.ndarray:
        """Returns the positions with readable ones in the place of those known to be unreadable."""
        if not self._names:
            return positions
        if len(self._names) >= self._size:
            raise ValueError(f"none of the {self._size} images can be read, so there is nothing to replace them by")
        replaced = positions.copy()
        for place, position in enumerate(positions.tolist()):
            if position in self._names:
                draws = np.random.default_rng([seed, epoch + 1, position])  # + 1: validation's epoch is -1
                while replaced[place] in self._names:
                    replaced[place] = draws.integers(self._size)
        return replaced
