"""How the vectors of a batch lie: sums over all devices that :mod:`simclr_jax.training.collapse` makes measures of."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

MOST_IMAGES = 512  # of a batch, whose pairs are compared; all pairs of a large one would cost what the loss costs

_NORM_EPSILON = 1e-12  # as the loss has it


def sums(h: jax.Array, z: jax.Array, axis_name: str | None = None) -> dict[str, Any]:
    """Returns what the measures need of the batch of all devices; each device returns the same.

    Args:
      h: representations [2n, feature_dim], of the first views of all images and then of the second.
      z: projections [2n, dim], likewise; they are l2-normalised here.
      axis_name: mapped axis over which the batch is sharded.

    Returns:
      float32 "h" and "z", each {"count" of rows, "mean" [d], "scatter" [d, d] about that mean}; "distance", the mean
      squared distance between an image's two z; and "closeness", the mean of exp(-2 · squared distance) over the pairs
      of different images among the first `MOST_IMAGES`, of one view and of the other.
    """
    z = z.astype(jnp.float32)
    z *= lax.rsqrt(jnp.maximum(jnp.sum(jnp.square(z), axis=1, keepdims=True), _NORM_EPSILON))
    first, second = jnp.split(z, 2)
    distance = jnp.mean(jnp.sum(jnp.square(first - second), axis=1))
    return {
        "h": _moments(h.astype(jnp.float32), axis_name),
        "z": _moments(z, axis_name),
        "distance": lax.pmean(distance, axis_name) if axis_name else distance,
        "closeness": (_closeness(first, axis_name) + _closeness(second, axis_name)) / 2,
    }


def _moments(x: jax.Array, axis_name: str | None) -> dict[str, jax.Array]:
    """About the mean, because squares of vectors that are nearly the same would lose in float32 what they differ by."""
    count = len(x) * (lax.axis_size(axis_name) if axis_name else 1)
    mean = jnp.mean(x, axis=0)
    mean = lax.pmean(mean, axis_name) if axis_name else mean
    scatter = jnp.dot((x - mean).T, x - mean, precision=lax.Precision.HIGHEST)
    scatter = lax.psum(scatter, axis_name) if axis_name else scatter
    return {"count": jnp.float32(count), "mean": mean, "scatter": scatter}


def _closeness(z: jax.Array, axis_name: str | None) -> jax.Array:
    z = (lax.all_gather(z, axis_name, tiled=True) if axis_name else z)[:MOST_IMAGES]
    similarities = jnp.dot(z, z.T, precision=lax.Precision.HIGHEST)
    return jnp.mean(jnp.exp(4 * similarities - 4), where=~jnp.eye(len(z), dtype=bool))
