"""From pixels in memory to batches of them, for views that are made on the devices. NumPy alone."""

from collections.abc import Iterator

import numpy as np

from simclr_jax.data.order import Order, stored_order, training_order
from simclr_jax.data.split import Split

Batches = Iterator[dict[str, np.ndarray]]


def training_images(
    split: Split,
    *,
    batch_size: int,
    seed: int,
    first_step: int,
    last_step: int,
    shard: tuple[int, int] = (0, 1),
    resident: bool = False,
) -> Batches:
    """Yields batches of images, in the order of :func:`simclr_jax.data.pipeline.training_views`.

    Args:
      split: of kind "pixels".
      batch_size, seed, first_step, last_step, shard: as for training views.
      resident: the devices hold the split: yield positions in it in the place of images, labels and ids.

    Yields:
      {"images": uint8 [n, H, W, 3], "labels": int32 [n], "ids": int32 [n], "epoch": int32 [n]}, or {"positions": int32
      [n], "epoch": int32 [n]}, with n = batch_size / hosts.

    Raises:
      ValueError: the batch is larger than the split or does not divide by the hosts.
    """
    order = training_order(len(split), batch_size=batch_size, seed=seed, shard=shard)
    return _batches(split, order, range(first_step, last_step), resident)


def validation_images(split: Split, *, batch_size: int, shard: tuple[int, int] = (0, 1)) -> Batches:
    """Yields one pass over a split in its stored order, without the images that do not fill the last batch."""
    order = stored_order(np.arange(len(split)), batch_size=batch_size, shard=shard)
    return _batches(split, order, range(len(split) // batch_size))


def stored_images(split: Split, *, batch_size: int) -> Batches:
    """Yields every image once, in the stored order."""
    order = stored_order(np.arange(len(split)), batch_size=batch_size)
    return _batches(split, order, range(-(-len(split) // batch_size)))


def whole(split: Split) -> dict[str, np.ndarray]:
    """Returns a split as the devices hold it: "images", "labels" and "ids", which positions index."""
    labels = np.full(len(split), -1) if split.labels is None else split.labels
    return {"images": split.images, "labels": labels.astype(np.int32), "ids": split.ids.astype(np.int32)}


def _batches(split: Split, order: Order, steps: range, resident: bool = False) -> Batches:
    for epoch, positions in map(order, steps):
        batch = {"positions": positions.astype(np.int32)} if resident else whole(split.take(positions))
        yield batch | {"epoch": np.full(len(positions), epoch, np.int32)}
