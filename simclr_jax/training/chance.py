"""What a loss is worth whose candidates are all alike, and what a difference from that means."""

import math

import numpy as np

# How much nearer in cosine an image's other view may seem to be than other images are, by the loss of an untrained
# network: they were found to be this far below chance, and no farther.
NEAR_CHANCE = 0.1


def chance_loss(batch_size: int, loss: str = "nt_xent") -> float | None:
    """Returns a loss, by its name, where all candidates of an anchor are alike, N images a batch.

    They are all other 2N - 1 vectors or, of DCL, all but the positive. None for a loss of which this is not known.
    """
    fewer = {"nt_xent": 1, "supcon": 1, "dcl": 2}.get(loss)
    return None if fewer is None else math.log(2 * batch_size - fewer)


def cosine_scale(loss: str, temperature: float, labels: np.ndarray, batch_size: int) -> float | None:
    """Returns by what a difference of the loss is multiplied to be one of cosines; None where this is not known.

    The temperature. But SupCon's loss can fall below chance no farther than its classes tell images apart, by
    ln(1 / share) of each image's class: of few classes, or a frequent one, what it falls by counts for more.

    Args:
      loss: its name.
      temperature: divides the similarities.
      labels: of the training images, int [n].
      batch_size: images a batch.
    """
    if loss != "supcon":
        return temperature if loss in ("nt_xent", "dcl") else None
    counts = np.unique(labels[labels >= 0], return_counts=True)[1]
    unlabelled = 1 - counts.sum() / len(labels)
    room = np.sum(counts / len(labels) * np.log(len(labels) / counts)) + unlabelled * math.log(2 * batch_size)
    return max(temperature, NEAR_CHANCE / room) if room > 0 else temperature
