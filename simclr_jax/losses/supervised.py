"""SupCon, the supervised contrastive loss: NT-Xent in which images of one class are each other's positives.

Only the positives differ from NT-Xent, and they enter the loss linearly: the mean over an anchor's positives of its
scores is its score against their mean. So SupCon is NT-Xent with the match replaced by that mean, which sums by class
give in time and memory linear in the batch; no pair of images is looked at for its labels.
"""

import functools

import jax
import jax.numpy as jnp

from simclr_jax.losses.contrastive import l2_normalize, nt_xent
from simclr_jax.losses.gather import over_others


def supcon(
    z1: jax.Array,
    z2: jax.Array,
    *,
    labels: jax.Array,
    temperature: float = 0.1,
    axis_name: str | None = None,
    chunk_size: int | None = None,
    gather: str = "all",
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Supervised contrastive loss: of each anchor, the mean over its positives of their cross-entropies.

    The positives of an anchor are all other views, on all devices, of images with its label, its own other view among
    them; its candidates are all vectors but itself (the paper's L_out). An image without a label is a class of its own:
    without any label this is `nt_xent`. The paper's code multiplies the loss by temperature / 0.07; this does not.

    Args:
      z1: as of `nt_xent`, and so are all others but the labels.
      z2: likewise.
      labels: class of each image, int `[n]`; -1 where it is not known.
      temperature: likewise.
      axis_name: likewise.
      chunk_size: likewise.
      gather: likewise.

    Returns:
      The mean loss over the 2n anchors, and the metrics of `nt_xent`, in which the match is the other view alone.

    Raises:
      ValueError: as `nt_xent`, or the labels are not whole numbers `[n]`.

    Example:
      >>> loss, metrics = supcon(z1, z2, labels=jnp.array([0, 1, 0, -1]))

    Reference:
      Khosla et al. 2020, "Supervised Contrastive Learning", equation 2, arXiv 2004.11362.
    """
    loss, metrics = nt_xent(z1, z2, temperature=temperature, axis_name=axis_name, chunk_size=chunk_size, gather=gather)
    if labels.shape != z1.shape[:1] or not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(
            f"labels {labels.dtype}{list(labels.shape)} must be whole numbers [{len(z1)}], one for each image; -1 "
            "where there is none"
        )
    z1, z2 = l2_normalize(z1), l2_normalize(z2)
    both_and_one = jnp.concatenate([z1 + z2, jnp.ones_like(z1[:, :1])], axis=1)
    others = _sum_of_class(both_and_one, labels, axis_name, gather)
    views, images = others[:, :-1], others[:, -1:]
    mean1, mean2 = ((match + views) / (1 + 2 * images) for match in (z2, z1))  # of the positives; exact without others
    # What NT-Xent scores by the match, SupCon scores by the mean of the positives.
    difference = jnp.sum(z1 * (z2 - mean1)) + jnp.sum(z2 * (z1 - mean2))
    return loss + difference / (2 * len(z1) * temperature), metrics


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _sum_of_class(x: jax.Array, labels: jax.Array, axis_name: str | None, gather: str) -> jax.Array:
    """Returns [n, d]: for each image the sum of x [n, d] over the other images of its class on all devices.

    As a matrix over all images this is symmetric, so that its gradient is the same sum of the cotangents.
    """
    x = jnp.where(labels[:, None] >= 0, x, 0)
    order = jnp.sort(labels)  # each class of this device is summed where it begins in here

    def add(sums, others, _=None):
        x, labels = others
        place = jnp.searchsorted(order, labels)
        here = order.at[place].get(mode="clip") == labels
        return sums.at[jnp.where(here, place, len(order))].add(x, mode="drop")

    held = x, labels
    sums = over_others(add, add(jnp.zeros_like(x), held), held, axis_name=axis_name, gather=gather)
    return sums[jnp.searchsorted(order, labels)] - x


def _forward(x, labels, axis_name, gather):
    return _sum_of_class(x, labels, axis_name, gather), labels


def _backward(axis_name, gather, labels, cotangent):
    return _sum_of_class(cotangent, labels, axis_name, gather), None


_sum_of_class.defvjp(_forward, _backward)
