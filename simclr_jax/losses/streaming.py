"""NT-Xent and DCL in stripes: exact, and the similarity matrix is never held, in neither pass.

The similarities of a device's own 2n vectors are a symmetric matrix: each entry serves two anchors, that of its row and
that of its column, and is computed once in the forward pass and once more in the backward pass. Those to the vectors
of other devices serve this device's anchors alone. The gradient is written out here; jax differentiates nothing.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from simclr_jax.losses import stripes
from simclr_jax.losses.gather import over_others


class LossSettings(NamedTuple):
    """How the loss is computed; only ``temperature`` and ``decoupled`` change the result.

    Attributes:
      temperature: divides the similarities.
      chunk_size: anchors in a stripe, at most.
      axis_name: mapped axis whose devices share their vectors, or None.
      gather: "all" or "ring", see `gather`.
      decoupled: whether an anchor's match is left out of its log-sum-exp, as DCL has it.
    """

    temperature: float
    chunk_size: int
    axis_name: str | None
    gather: str
    decoupled: bool


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def streaming_loss(z1: jax.Array, z2: jax.Array, settings: LossSettings) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns loss, accuracy and entropy, means over this device's anchors, the last two without gradient.

    Args:
      z1, z2: l2-normalised float32 `[n, d]`.
      settings: see `LossSettings`.
    """
    return _forward(z1, z2, settings)[0]


def _forward(z1, z2, settings):
    """Each anchor's log-sum-exp is complete for a block of candidates, and runs on over the blocks.

    That of first views is kept in two parts, over the vectors of their own view and, across, over those of the other:
    the metrics need the second alone.
    """
    across, across_of_2, match = stripes.lse_of_both(z1, z2, settings)
    own = stripes.lse_within(z1, settings), across, jnp.logaddexp(stripes.lse_within(z2, settings), across_of_2)

    def add_others(lse, others, _):
        same, other = others
        both = jnp.concatenate(others)
        found = stripes.lse(z1, same, settings), stripes.lse(z1, other, settings), stripes.lse(z2, both, settings)
        return jax.tree.map(jnp.logaddexp, lse, found)

    same, across, lse2 = over_others(add_others, own, (z1, z2), axis_name=settings.axis_name, gather=settings.gather)
    lse1 = jnp.logaddexp(same, across)
    loss = (jnp.mean(lse1 - match) + jnp.mean(lse2 - match)) / 2
    if settings.decoupled:  # the metrics know all candidates
        across = jnp.logaddexp(across, match)
    accuracy, entropy = _metrics(z1, z2, across, settings)
    return (loss, accuracy, entropy), (z1, z2, lse1, lse2)


def _backward(settings, residuals, cotangents):
    """Σ_j (g_i p_i(j) + g_j p_j(i)) z_j - 2 g_i z_match, for vector i as an anchor and as a candidate of every other.

    p_i is anchor i's softmax over its candidates, and 0 elsewhere. g_i, the loss's cotangent on the device of anchor i
    over 2nτ, is 1 / 2nτ on all devices where each differentiates its own loss.
    """
    z1, z2, lse1, lse2 = residuals
    # Of this device's own block each similarity serves both its anchors at once, at weight 1, and is scaled at the end.
    weight = jnp.full(2 * len(z1), cotangents[0] / (2 * len(z1) * settings.temperature))
    dz1, dz2 = stripes.pull_of_both(z1, lse1, z2, lse2, settings)
    dz1 += stripes.pull_within(z1, lse1, settings)
    dz2 += stripes.pull_within(z2, lse2, settings)
    own = jnp.concatenate([dz1 - 2 * z2, dz2 - 2 * z1]) * weight[:, None]
    held = jnp.concatenate([z1, z2]), jnp.concatenate([lse1, lse2]), weight

    # A vector is a negative of the anchors of other devices too. Their log-sum-exps, and the cotangents that weigh
    # them, travel with their vectors, so that no gradient has to travel back.
    def add_others(gradient, others, _):
        return gradient + stripes.pull(held, others, settings)

    gradient = over_others(add_others, own, held, axis_name=settings.axis_name, gather=settings.gather)
    return tuple(jnp.split(gradient, 2))


streaming_loss.defvjp(_forward, _backward)


def _metrics(z1, z2, across, settings):
    """A second look at the similarities of the two views: the entropy needs `across` [n], their complete log-sum-exp.

    It costs a ninth of a step's products on one device. XLA leaves it out where nothing reads the metrics.
    """
    entropy, beaten, match = stripes.look_across(z1, across, z2, settings)

    def add_others(found, other, earlier):
        added = stripes.look_across(z1, across, other, settings, match=match, earlier=earlier)
        return found[0] + added[0], found[1] | added[1]

    entropy, beaten = over_others(
        add_others, (entropy, beaten), z2, axis_name=settings.axis_name, gather=settings.gather
    )
    return jnp.mean(1.0 - beaten), jnp.mean(entropy)
