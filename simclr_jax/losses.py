"""NT-Xent, the contrastive loss of SimCLR, and the two metrics that show whether it is learning.

Knows vectors and, through `axis_name`, that some of them live on other devices. Where the vectors come from, and
the pmean over devices of what is returned here, belong to `steps`.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

_NORM_EPSILON = 1e-12  # tf.math.l2_normalize: keeps the gradient of a zero vector finite
_ENTROPY_EPSILON = 1e-8  # Google's tf2 code; keeps log(0) out of the entropy


def nt_xent(
    z1: jax.Array,
    z2: jax.Array,
    *,
    temperature: float = 0.1,
    axis_name: str | None = None,
    chunk_size: int | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Normalised temperature-scaled cross-entropy between two views of a batch.

    Each of the 2n vectors is an anchor that must find its other view among all vectors but itself. Everything
    is computed in float32, products at the highest precision, whatever dtype comes in.

    Args:
      z1: projections of the first views, `[n, d]`, any float dtype; they are l2-normalised here.
      z2: projections of the second views, `[n, d]`; row i shows the same image as row i of `z1`.
      temperature: divides the cosine similarities.
      axis_name: mapped axis whose devices share their vectors. Each device then scores its own 2n anchors against
        the vectors of all devices, and the pmean of the loss, of the metrics and of the gradients is the value
        of the global batch. None is the single-device program.
      chunk_size: anchors of a view that are scored at a time, so that only `[chunk_size, 2N]` similarities exist
        at any time of the forward or the backward pass, at the price of computing them twice. It changes memory
        and speed, not the result, and need not divide n. None scores all at once.

    Returns:
      The mean loss over the 2n anchors (half of what Google's code reports) and a dict of two scalars without
      gradient, over first-view anchors and second-view candidates only: `contrastive_accuracy`, how often the
      most similar candidate is the match, and `contrastive_entropy`, of the softmax over candidates, in nats.

    Raises:
      ValueError: if the views are not two equal `[n, d]` shapes, or a number is not positive.

    Example:
      >>> loss, metrics = nt_xent(z1, z2, temperature=0.5)

    Reference:
      Chen et al. 2020, "A Simple Framework for Contrastive Learning of Visual Representations", section 2.1.
    """
    _check(z1, z2, temperature, chunk_size)
    z1_nxD, z2_nxD = _l2_normalize(z1), _l2_normalize(z2)
    z1_NxD, z2_NxD = _gather(z1_nxD, axis_name), _gather(z2_nxD, axis_name)
    first = 0 if axis_name is None else lax.axis_index(axis_name) * len(z1)
    rows_n = first + jnp.arange(len(z1))

    score = functools.partial(_score_anchors, rows_n=rows_n, temperature=temperature, chunk_size=chunk_size)
    loss1_n, accuracy_n, entropy_n = score(z1_nxD, jnp.concatenate([z1_NxD, z2_NxD]))
    loss2_n, _, _ = score(z2_nxD, jnp.concatenate([z2_NxD, z1_NxD]))
    loss = (jnp.mean(loss1_n) + jnp.mean(loss2_n)) / 2
    return loss, {"contrastive_accuracy": jnp.mean(accuracy_n), "contrastive_entropy": jnp.mean(entropy_n)}


def _score_anchors(anchors_nxD, candidates_MxD, *, rows_n, temperature, chunk_size):
    """Loss, accuracy and entropy of each anchor; M = 2N, the anchors' own view before the other."""
    score = functools.partial(_score_anchor, candidates_MxD=candidates_MxD, temperature=temperature)
    if chunk_size is None:
        return jax.vmap(score)(anchors_nxD, rows_n)
    # The checkpoint makes the backward pass recompute a stripe of similarities instead of keeping all of them.
    score = jax.checkpoint(score)
    return lax.map(lambda anchor: score(*anchor), (anchors_nxD, rows_n), batch_size=chunk_size)


def _score_anchor(anchor_D, row, *, candidates_MxD, temperature):
    """Loss, accuracy and entropy of one anchor: candidate `row` is itself, candidate N + `row` its match."""
    logits_M = jnp.dot(anchor_D, candidates_MxD.T, precision=lax.Precision.HIGHEST) / temperature
    candidate_M = jnp.arange(len(candidates_MxD))
    n_per_view = len(candidates_MxD) // 2
    # Picked by a mask, not by an index: its gradient is a product too, and not a scatter.
    match = jnp.sum(logits_M, where=candidate_M == n_per_view + row)
    loss = jax.nn.logsumexp(logits_M, where=candidate_M != row) - match

    across_N = lax.stop_gradient(logits_M[n_per_view:])
    p_N = jax.nn.softmax(across_N)
    entropy = -jnp.sum(p_N * jnp.log(p_N + _ENTROPY_EPSILON))
    return loss, (jnp.argmax(across_N) == row).astype(jnp.float32), entropy


def _gather(z_nxD, axis_name):
    """The rows of all devices in device order; differentiable, so that negatives receive their gradient."""
    return z_nxD if axis_name is None else lax.all_gather(z_nxD, axis_name, tiled=True)


def _l2_normalize(z_nxD):
    z_nxD = z_nxD.astype(jnp.float32)
    squared_norm_nx1 = jnp.sum(jnp.square(z_nxD), axis=1, keepdims=True)
    return z_nxD * lax.rsqrt(jnp.maximum(squared_norm_nx1, _NORM_EPSILON))


def _check(z1, z2, temperature, chunk_size):
    if z1.ndim != 2 or z1.shape != z2.shape:
        raise ValueError(
            f"z1 {list(z1.shape)} and z2 {list(z2.shape)} must have one shape [batch, dim]; row i of both is image i"
        )
    if not temperature > 0:
        raise ValueError(f"temperature {temperature} must be above 0; the paper uses 0.1 to 0.5")
    if chunk_size is not None and chunk_size <= 0:
        raise ValueError(f"chunk_size {chunk_size} must be at least 1; None scores all {len(z1)} anchors at once")
