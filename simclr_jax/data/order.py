"""Which images come when: a function of (seed, epoch), so that the position in the data is the step number.

An order maps a step to its epoch and to the positions of this host's images in the split. Nothing is read here.
"""

import functools
from collections.abc import Callable, Iterator

import numpy as np

VALIDATION_EPOCH = -1  # no epoch of training has this number, so validation views are their own and never change

Order = Callable[[int], tuple[int, np.ndarray]]


def training_order(n: int, *, batch_size: int, seed: int, shard: tuple[int, int]) -> Order:
    """Returns the order that shuffles n images anew in every epoch and drops those that do not fill its last batch.

    Args:
      n: images.
      batch_size: images per step over all hosts.
      seed: of the run.
      shard: this host's index and the number of hosts.

    Raises:
      ValueError: the batch is larger than the split or does not divide by the hosts.
    """
    check_batch(batch_size, n, shard)

    @functools.lru_cache(maxsize=1)
    def shuffled(epoch: int) -> np.ndarray:
        return np.random.default_rng([seed, epoch]).permutation(n)

    def order(step: int):
        epoch, index = divmod(step, n // batch_size)
        return epoch, _batch_of(shuffled(epoch), index, batch_size, shard)

    return order


def stored_order(positions: np.ndarray, *, batch_size: int, shard: tuple[int, int] = (0, 1)) -> Order:
    """Returns the order that takes positions as they stand; the last batch may be smaller where there is one host."""
    return lambda step: (VALIDATION_EPOCH, _batch_of(positions, step, batch_size, shard))


def check_batch(batch_size: int, n: int, shard: tuple[int, int]) -> None:
    """Raises ValueError where a batch is larger than its split or does not divide by the hosts."""
    if batch_size > n:
        raise ValueError(f"batch_size {batch_size} is larger than the {n} images; use {n} or less")
    if batch_size % shard[1]:
        raise ValueError(f"batch_size {batch_size} is not divisible by {shard[1]} hosts")


def epochs(first_step: int, last_step: int, steps_per_epoch: int) -> Iterator[tuple[int, int, int]]:
    """Yields (epoch, its first step, its last step + 1), counted from the epoch's start, over a range of steps."""
    for epoch in range(first_step // steps_per_epoch, -(-last_step // steps_per_epoch)):
        begin = epoch * steps_per_epoch
        yield epoch, max(first_step - begin, 0), min(last_step - begin, steps_per_epoch)


def _batch_of(positions: np.ndarray, index: int, batch_size: int, shard: tuple[int, int]) -> np.ndarray:
    return np.split(positions[index * batch_size : (index + 1) * batch_size], shard[1])[shard[0]]
