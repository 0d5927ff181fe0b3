"""The normalisations that encoder and head share: what is averaged over, and what is said of all of them once."""

import functools
from collections.abc import Callable

import flax.linen as nn

from simclr_jax.models.batch_norm import BatchNorm

NORMS = ("batch", "group")
GROUP_SIZE = 16  # channels of a group; Wu & He 2018, "Group Normalization", table 3

_EPSILON, _MOMENTUM = 1e-5, 0.9  # as in SimCLR's code


def norm_layer(kind: str, *, train: bool, axis_name: str | None) -> Callable[..., nn.Module]:
    """Returns the constructor of a normalisation with a learned scale and offset.

    Args:
      kind: "batch" normalises by the statistics of the batch, in evaluation by running ones; "group" by those of each
        image alone, so that a batch gives what its parts give.
      train: whether BatchNorm normalises by the batch and moves its running statistics.
      axis_name: mapped axis over whose devices BatchNorm takes its statistics; None for each device alone.
    """
    if kind == "group":
        return functools.partial(nn.GroupNorm, num_groups=None, group_size=GROUP_SIZE, epsilon=_EPSILON)
    return functools.partial(
        BatchNorm, use_running_average=not train, momentum=_MOMENTUM, epsilon=_EPSILON, axis_name=axis_name
    )
