"""Loss and gradient of a batch: in one pass, or in micro-batches by GradCache, which take the memory of one of them.

GradCache (Gao et al. 2021, "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup") embeds every
micro-batch and keeps nothing but z and h; takes the loss and its gradient over the z of the whole batch, so that the
negatives are the same; then each micro-batch passes again and carries its part of that gradient back to the
parameters. It costs a forward pass more.

BatchNorm takes its statistics over a micro-batch, as it must. Its running statistics move once a step, by the mean over
the micro-batches, so that their momentum means what it means in one pass. Without BatchNorm the gradient is that of
one pass.

With `model.view_batch_norm` the two views pass one after the other, each with statistics of its own; running statistics
then move twice a step, by the first view's and then by the second's.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

Loss = Callable[..., tuple[jax.Array, dict[str, jax.Array]]]  # (z1, z2, *, labels) → loss, metrics
Views = Callable[[Any], dict[str, jax.Array]]


class BatchResult(NamedTuple):
    """What the forward pass of a batch of n images gives.

    Attributes:
      loss, metrics: the loss's.
      batch_stats: BatchNorm's next running statistics; {} without BatchNorm.
      h: representations [2n, feature_dim], of the first views of all images and then of the second.
      labels: int [n].
    """

    loss: jax.Array
    metrics: dict[str, jax.Array]
    batch_stats: Any
    h: jax.Array
    labels: jax.Array


def in_one_pass(params: Any, batch_stats: Any, batch: Any, *, views_of: Views, model: nn.Module, loss: Loss):
    """Returns what a batch gives, a `BatchResult`, and the gradient of the parameters.

    Args:
      params, batch_stats: of the model.
      batch: arrays [n, …].
      views_of: makes {"views": [n, 2, size, size, 3], "labels": [n]} of a batch, or of any part of it.
      model: images to [h, …, z].
      loss: (z1, z2, *, labels) → loss, metrics.
    """
    batch = views_of(batch)

    def loss_fn(params):
        h, z, stats = _embed(params, batch_stats, batch["views"], model)
        value, metrics = loss(*jnp.split(z, 2), labels=batch["labels"])
        return value, BatchResult(value, metrics, stats, h, batch["labels"])

    gradients, result = jax.grad(loss_fn, has_aux=True)(params)
    return result, gradients


def in_micro_batches(
    params: Any, batch_stats: Any, batch: Any, *, count: int, views_of: Views, model: nn.Module, loss: Loss
):
    """Returns what `in_one_pass` returns, by GradCache; ``count`` micro-batches divide n.

    Views are made anew in either pass: to keep them would take the memory that micro-batches save.
    """
    parts = _cut(batch, count)

    def embed(mean_stats, part):
        part = views_of(part)
        h, z, stats = _embed(params, batch_stats, part["views"], model)
        return jax.tree.map(lambda mean, new: mean + new / count, mean_stats, stats), (h, z, part["labels"])

    stats, (h, z, labels) = jax.lax.scan(embed, jax.tree.map(jnp.zeros_like, batch_stats), parts)

    def loss_fn(z):
        return loss(*jnp.split(_whole(z), 2), labels=labels.reshape(-1))

    # The one place where the whole batch is seen: dz [count, 2n / count, dim], the gradient of the loss by each z.
    (value, metrics), dz = jax.value_and_grad(loss_fn, has_aux=True)(z)

    def pull(gradients, part_and_dz):
        part, dz = part_and_dz
        views = views_of(part)["views"]
        _, pull_back = jax.vjp(lambda params: _embed(params, batch_stats, views, model)[1], params)
        return jax.tree.map(jnp.add, gradients, pull_back(dz)[0]), None

    gradients, _ = jax.lax.scan(pull, jax.tree.map(jnp.zeros_like, params), (parts, dz))
    return BatchResult(value, metrics, stats, _whole(h), labels.reshape(-1)), gradients


def in_evaluation(variables: Any, batch: Any, *, count: int, views_of: Views, model: nn.Module):
    """Returns h and z, [2n, …] as in `BatchResult`, and labels [n], with BatchNorm in evaluation mode.

    The batch passes in ``count`` parts; views and model as of `in_one_pass`.
    """

    def embed(part):
        part = views_of(part)
        hiddens = model.apply(variables, both_views(part["views"]), train=False)
        return hiddens[0], hiddens[-1], part["labels"]

    h, z, labels = jax.lax.map(embed, _cut(batch, count))
    return _whole(h), _whole(z), labels.reshape(-1)


def pmean(tree: Any, axis_name: str | None) -> Any:
    """Returns the mean over the shards of a batch; the tree itself where no axis is mapped."""
    return jax.lax.pmean(tree, axis_name) if axis_name else tree


def psum(tree: Any, axis_name: str | None) -> Any:
    """Returns the sum over the shards of a batch; the tree itself where no axis is mapped."""
    return jax.lax.psum(tree, axis_name) if axis_name else tree


def settled(tree: Any) -> Any:
    """Returns the tree itself, on a GPU laid in the order of the parameters before anything is made of it.

    A GPU's convolutions give the gradients of their kernels in another order. XLA would join the transposition with
    the update, which then cannot be written in place, and would be copied; flat, an array has one order only. TPUs lay
    arrays out in tiles, and would copy each to make it flat.
    """
    leaves, shape = jax.tree.flatten(tree)
    on_gpu = {"cuda": _through_flat, "rocm": _through_flat}
    return shape.unflatten(jax.lax.platform_dependent(*leaves, **on_gpu, default=lambda *leaves: leaves))


def _through_flat(*leaves):
    flat = jax.lax.optimization_barrier([leaf.ravel() for leaf in leaves])
    return tuple(x.reshape(leaf.shape) for x, leaf in zip(flat, leaves, strict=True))


def _cut(batch, count):
    """[n, …] → [count, n / count, …]."""
    return jax.tree.map(lambda x: x.reshape(count, x.shape[0] // count, *x.shape[1:]), batch)


def _embed(params, batch_stats, views, model):
    """h, z and the running statistics after both views passed, together or one after the other."""
    if not model.view_batch_norm:
        return _pass(params, batch_stats, both_views(views), model)
    h1, z1, batch_stats = _pass(params, batch_stats, views[:, 0], model)
    h2, z2, batch_stats = _pass(params, batch_stats, views[:, 1], model)
    return jnp.concatenate([h1, h2]), jnp.concatenate([z1, z2]), batch_stats


def _pass(params, batch_stats, images, model):
    """h, z and the running statistics after images passed that BatchNorm sees together."""
    variables = {"params": params, "batch_stats": batch_stats}
    hiddens, updates = model.apply(variables, images, train=True, mutable=["batch_stats"])
    return hiddens[0], hiddens[-1], updates.get("batch_stats", {})


def both_views(views: jax.Array) -> jax.Array:
    """[n, 2, …] → [2n, …]: the first views of all images, then the second."""
    return views.swapaxes(0, 1).reshape(-1, *views.shape[2:])


def _whole(x):
    """[parts, 2k, d], each part's first views before its second → [2n, d], all first views before the second."""
    parts, rows, d = x.shape
    return x.reshape(parts, 2, rows // 2, d).swapaxes(0, 1).reshape(-1, d)
