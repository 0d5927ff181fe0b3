"""NT-Xent, the contrastive loss of SimCLR, its decoupled form DCL, and two metrics that show whether it is learning.

Knows vectors and, through `axis_name`, that some of them live on other devices. Where the vectors come from, and
the pmean over devices of what is returned here, belong to `training.step`.
"""

import jax
import jax.numpy as jnp
from jax import lax

from simclr_jax.losses.gather import GATHERS, all_rows
from simclr_jax.losses.streaming import LossSettings, streaming_loss
from simclr_jax.losses.stripes import ENTROPY_EPSILON

# Bytes of the largest similarity matrix that is held: 512 images on one device. A dense step needs three to four times
# as much, and on CPUs, where both were measured, the stripes are quicker from here on (benchmarks/RESULTS.md).
DENSE_BYTES = 4 * 2**20

# Anchors of a view in a stripe where nobody says how many, and bytes that a stripe may take. Of 64 to 1,024 anchors,
# 256 and 512 were the quickest on a CPU.
STRIPE_ANCHORS, STRIPE_BYTES = 512, 128 * 2**20

_NORM_EPSILON = 1e-12  # tf.math.l2_normalize: keeps the gradient of a zero vector finite


def nt_xent(
    z1: jax.Array,
    z2: jax.Array,
    *,
    temperature: float = 0.1,
    axis_name: str | None = None,
    chunk_size: int | None = None,
    gather: str = "all",
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Normalised temperature-scaled cross-entropy between two views of a batch.

    Each of the 2n vectors is an anchor whose positive is the other view of its image; all other vectors are negatives.
    The computation is in float32, with matrix products at the highest precision, for any input dtype.

    Args:
      z1: projections z of the first views, `[n, d]`, any float dtype; they are l2-normalised here.
      z2: projections z of the second views, `[n, d]`; row i shows the same image as row i of `z1`.
      temperature: divides the cosine similarities.
      axis_name: mapped axis whose devices share their vectors. Each device then compares its own 2n anchors with
        the vectors of all devices, and the pmean of the loss, of the metrics and of the gradients is that
        of the global batch. None: a single device.
      chunk_size: number of anchors processed at a time, so that at most `[chunk_size, 2N]` similarities are in memory
        in the forward and backward pass. It changes memory and speed, not the result, and need not divide n. None
        chooses automatically: all similarities at once if they take at most `DENSE_BYTES`, otherwise stripes.
      gather: "all": each device holds the vectors of all devices. "ring": it holds those of one other device at a
        time, and the devices pass them around; always in stripes.

    Returns:
      The mean loss over the 2n anchors (half the value that Google's code reports) and a dict of two scalars without
      gradient, computed with first views as anchors and second views as candidates: `contrastive_accuracy`, how often
      the most similar candidate is the positive, and `contrastive_entropy`, of the softmax over candidates, in nats.

    Raises:
      ValueError: `z1` and `z2` do not have the same shape `[n, d]`, a number is not positive, or `gather` is unknown.

    Example:
      >>> loss, metrics = nt_xent(z1, z2, temperature=0.5)

    Reference:
      Chen et al. 2020, "A Simple Framework for Contrastive Learning of Visual Representations", section 2.1.
    """
    return _contrast(z1, z2, temperature, axis_name, chunk_size, gather, decoupled=False)


def dcl(
    z1: jax.Array,
    z2: jax.Array,
    *,
    temperature: float = 0.1,
    axis_name: str | None = None,
    chunk_size: int | None = None,
    gather: str = "all",
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Decoupled contrastive loss: NT-Xent whose denominator leaves out the positive.

    The softmax of NT-Xent multiplies an anchor's gradient by 1 - p(positive), which is small in a small batch of easy
    negatives; here it does not. This is the unweighted form. Its value has no lower bound of 0, and chance level, where
    all vectors are alike, is ln(2N - 2) for N images.

    Args:
      z1: as of `nt_xent`, and so are all others. There must be at least two images over all devices.
      z2: likewise.
      temperature: likewise.
      axis_name: likewise.
      chunk_size: likewise.
      gather: likewise.

    Returns:
      The mean loss over the 2n anchors, and the metrics of `nt_xent`: the positive is among their candidates.

    Raises:
      ValueError: as `nt_xent`, or there is only one image, which has no negatives.

    Example:
      >>> loss, metrics = dcl(z1, z2, temperature=0.1)

    Reference:
      Yeh et al. 2022, "Decoupled Contrastive Learning", equation 6, arXiv 2110.06848.
    """
    return _contrast(z1, z2, temperature, axis_name, chunk_size, gather, decoupled=True)


def l2_normalize(z: jax.Array) -> jax.Array:
    """Returns vectors [n, d] at length 1, in float32; a zero vector stays."""
    z_nxD = z.astype(jnp.float32)
    squared_norm_nx1 = jnp.sum(jnp.square(z_nxD), axis=1, keepdims=True)
    return z_nxD * lax.rsqrt(jnp.maximum(squared_norm_nx1, _NORM_EPSILON))


def _contrast(z1, z2, temperature, axis_name, chunk_size, gather, *, decoupled):
    if z1.ndim != 2 or z1.shape != z2.shape:
        raise ValueError(
            f"z1 {list(z1.shape)} and z2 {list(z2.shape)} must have the same shape [batch, dim]; row i of both "
            "shows image i"
        )
    if not temperature > 0:
        raise ValueError(f"temperature {temperature} must be above 0; the paper uses 0.1 to 0.5")
    if chunk_size is not None and chunk_size <= 0:
        raise ValueError(f"chunk_size {chunk_size} must be from 1 to {len(z1)}; None chooses automatically")
    if gather not in GATHERS:
        raise ValueError(f"gather {gather!r} must be {' or '.join(GATHERS)}")
    devices = 1 if axis_name is None else lax.axis_size(axis_name)
    if decoupled and len(z1) * devices < 2:
        raise ValueError(
            "dcl needs at least 2 images over all devices, and this batch has 1: an anchor is compared with the views "
            "of other images alone"
        )
    z1_nxD, z2_nxD = l2_normalize(z1), l2_normalize(z2)
    if chunk_size is None and gather == "all" and is_dense(len(z1), devices):
        loss, accuracy, entropy = _dense(z1_nxD, z2_nxD, temperature, axis_name, decoupled)
    else:
        row_bytes = 4 * 2 * len(z1) * devices
        stripe = chunk_size or max(1, min(STRIPE_ANCHORS, STRIPE_BYTES // row_bytes))
        settings = LossSettings(temperature, stripe, axis_name, gather, decoupled)
        loss, accuracy, entropy = streaming_loss(z1_nxD, z2_nxD, settings)
    return loss, {"contrastive_accuracy": accuracy, "contrastive_entropy": entropy}


def is_dense(n: int, devices: int) -> bool:
    """Tells whether all similarities of n images on each of some devices are held, where nobody says otherwise."""
    return 4 * 2 * n * 2 * n * devices <= DENSE_BYTES


def _dense(z1_nxD, z2_nxD, temperature, axis_name, decoupled):
    """Mean loss, accuracy and entropy from whole rows of similarities, differentiated by jax."""
    z1_NxD, z2_NxD = all_rows(z1_nxD, axis_name), all_rows(z2_nxD, axis_name)
    n_all = len(z1_NxD)
    first = 0 if axis_name is None else lax.axis_index(axis_name) * len(z1_nxD)
    rows_n = first + jnp.arange(len(z1_nxD))

    def score(anchors_nxD, candidates_MxD):
        """Of the M = 2N candidates those of the anchors' own view come first: candidate `row` is the anchor itself,
        candidate N + `row` its match.
        """
        candidate_M = jnp.arange(len(candidates_MxD))

        def of_anchor(anchor_D, row):
            logits_M = jnp.dot(anchor_D, candidates_MxD.T, precision=lax.Precision.HIGHEST) / temperature
            # Picked by a mask, not by an index: its gradient is a product too, and not a scatter.
            match = jnp.sum(logits_M, where=candidate_M == n_all + row)
            others_M = candidate_M != row
            if decoupled:
                others_M &= candidate_M != n_all + row
            loss = jax.nn.logsumexp(logits_M, where=others_M) - match
            across_N = lax.stop_gradient(logits_M[n_all:])
            p_N = jax.nn.softmax(across_N)
            entropy = -jnp.sum(p_N * jnp.log(p_N + ENTROPY_EPSILON))
            return loss, (jnp.argmax(across_N) == row).astype(jnp.float32), entropy

        return jax.vmap(of_anchor)(anchors_nxD, rows_n)

    loss1_n, accuracy_n, entropy_n = score(z1_nxD, jnp.concatenate([z1_NxD, z2_NxD]))
    loss2_n, _, _ = score(z2_nxD, jnp.concatenate([z2_NxD, z1_NxD]))
    return (jnp.mean(loss1_n) + jnp.mean(loss2_n)) / 2, jnp.mean(accuracy_n), jnp.mean(entropy_n)
