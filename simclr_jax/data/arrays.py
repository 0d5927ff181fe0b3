"""From pixels in memory to batches of them, for views that are made on the devices. NumPy alone."""

from collections.abc import Iterator

import numpy as np

from simclr_jax.data.order import Order
from simclr_jax.data.split import Split

Batches = Iterator[dict[str, np.ndarray]]


def batches(split: Split, order: Order, steps: range, *, resident: bool = False) -> Batches:
    """Yields the batches of an order's steps.

    Args:
      split: of kind "pixels".
      order: which of its images a step sees.
      steps: the steps.
      resident: the devices hold the split: yield positions in it in the place of images, labels and ids.

    Yields:
      {"images": uint8 [n, H, W, 3], "labels": int32 [n], "ids": int32 [n], "epoch": int32 [n]}, or {"positions": int32
      [n], "epoch": int32 [n]}, with n = the number of positions that the order gives for a step.
    """
    for epoch, positions in map(order, steps):
        batch = {"positions": positions.astype(np.int32)} if resident else whole(split.take(positions))
        yield batch | {"epoch": np.full(len(positions), epoch, np.int32)}


def whole(split: Split) -> dict[str, np.ndarray]:
    """Returns a split as the devices hold it: "images", "labels" and "ids", which positions index."""
    labels, ids = split.class_numbers.astype(np.int32), split.ids.astype(np.int32)
    return {"images": split.images, "labels": labels, "ids": ids}
