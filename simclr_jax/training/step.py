"""Pure step functions: state and batch in, state and metrics out. No devices, no disk, no config.

With ``axis_name`` they run on one shard of the batch under a mapped axis and reduce over it; without, they are the
single-device program.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from simclr_jax.losses import Loss
from simclr_jax.models.parts import held
from simclr_jax.training import collapse
from simclr_jax.training.gradients import in_evaluation, in_micro_batches, in_one_pass, pmean, psum, settled
from simclr_jax.training.state import TrainState
from simclr_jax.training.tree_norms import norm

ViewsOf = Callable[[Any, Any], dict[str, jax.Array]]


def pretrain_step(
    state: TrainState,
    batch: Any,
    resident: Any = None,
    *,
    model: nn.Module,
    loss: Loss,
    optimizer: optax.GradientTransformation,
    probe: nn.Module | None,
    probe_optimizer: optax.GradientTransformation,
    views_of: ViewsOf = lambda batch, resident: batch,
    microbatches: int = 1,
    skip_nonfinite: bool = False,
    axis_name: str | None = None,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Takes one step of SimCLR (Algorithm 1 of the paper) and one of the online probe.

    Both views of an image go through the network in one forward pass, so that BatchNorm sees both, unless
    `model.view_batch_norm`. The online probe
    learns from h behind a stop_gradient: it watches, and changes nothing.

    Args:
      state: the run.
      batch, resident: one shard of a batch and what the device holds, which ``views_of`` makes into
        {"views": float [n, 2, size, size, 3], "labels": int [n], -1 where there is none}.
      model, optimizer: what is pretrained, and how.
      loss: (z1, z2, *, labels, axis_name) → loss, metrics: what :func:`simclr_jax.losses.create_loss` returns.
      probe, probe_optimizer: the online probe; None without labels.
      views_of: makes the views on the device; by default the batch holds them.
      microbatches: parts that the shard passes in, see :mod:`simclr_jax.training.gradients`; 1 is one pass.
      skip_nonfinite: drop an update that is not finite, all but its step number.
      axis_name: mapped axis over which the batch is sharded.

    Returns:
      The next state, and float32 scalars over the global batch: "loss", "contrastive_accuracy",
      "contrastive_entropy", "gradient_norm", "update_ratio" (by what share of their norm the parameters change),
      "finite" (1.0 where the loss and the norms of its gradient, of the update and of the parameters are; one above
      1e19 is not) and, with labels, "online_loss" and "online_top1"; with ``skip_nonfinite`` "skipped", the newest
      steps in a row whose updates were dropped. Other metrics of the loss are among them.
    """
    how = {
        "views_of": functools.partial(views_of, resident=resident),
        "model": model,
        "loss": functools.partial(loss, axis_name=axis_name),
    }
    if microbatches == 1:
        result, gradients = in_one_pass(state.params, state.batch_stats, batch, **how)
    else:
        result, gradients = in_micro_batches(state.params, state.batch_stats, batch, count=microbatches, **how)
    gradients, batch_stats = pmean((gradients, result.batch_stats), axis_name)
    # Means over devices and micro-batches of equal numbers may be others by rounding.
    batch_stats = held(batch_stats, state.batch_stats, getattr(model.encoder, "frozen", ()))
    gradients = settled(gradients)
    updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
    updated = state.replace(
        params=optax.apply_updates(state.params, updates),
        batch_stats=batch_stats,
        opt_state=opt_state,
    )
    update_norm, params_norm = norm(updates), norm(state.params)
    metrics = pmean({"loss": result.loss, **result.metrics}, axis_name) | {
        "gradient_norm": norm(gradients),
        "update_ratio": update_norm / params_norm,
    }
    if probe is not None:
        h, params = jax.lax.stop_gradient(result.h), state.probe_params
        gradients, online = jax.grad(_probe_loss, has_aux=True)(params, h, result.labels, probe, axis_name)
        updates, opt_state = probe_optimizer.update(psum(gradients, axis_name), state.probe_opt_state, params)
        updated = updated.replace(probe_params=optax.apply_updates(params, updates), probe_opt_state=opt_state)
        metrics |= online
    # A finite gradient times a large learning rate may be too large for float32, so the update is asked too. Where
    # both norms are finite the parameters' sum with it is.
    finite = jnp.isfinite(jnp.stack([metrics["loss"], metrics["gradient_norm"], update_norm, params_norm])).all()
    metrics |= {"finite": finite.astype(jnp.float32)}
    if skip_nonfinite:
        kept = jax.tree.map(lambda new, old: jnp.where(finite, new, old), updated, state)
        updated = kept.replace(skipped=jnp.where(finite, 0, state.skipped + 1))
        metrics |= {"skipped": updated.skipped.astype(jnp.float32)}
    return updated.replace(step=state.step + 1), metrics


def validation_step(
    state: TrainState,
    batch: Any,
    resident: Any = None,
    *,
    model: nn.Module,
    loss: Loss,
    probe: nn.Module | None,
    views_of: ViewsOf = lambda batch, resident: batch,
    microbatches: int = 1,
    axis_name: str | None = None,
) -> tuple[dict[str, jax.Array], dict[str, Any]]:
    """Measures a state on held-out views, BatchNorm in evaluation mode.

    Returns:
      :func:`pretrain_step`'s loss and accuracies, and the :func:`simclr_jax.training.collapse.sums` of h and z.
    """
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    views_of = functools.partial(views_of, resident=resident)
    h, z, labels = in_evaluation(variables, batch, count=microbatches, views_of=views_of, model=model)
    value, metrics = loss(*jnp.split(z, 2), labels=labels, axis_name=axis_name)
    metrics = pmean({"loss": value, **metrics}, axis_name)
    if probe is not None:
        metrics |= _probe_loss(state.probe_params, h, labels, probe, axis_name)[1]
    return metrics, collapse.sums(h, z, axis_name)


def loss_step(_: None, batch: tuple, __: None, *, loss: Loss, axis_name: str | None = None) -> Any:
    """Returns the loss and its gradient by z alone, for a plan, which tells what memory they take.

    Args:
      batch: z [2, n, dim] and labels [n].
      loss, axis_name: as of `pretrain_step`.
    """
    z, labels = batch
    return jax.value_and_grad(lambda z: loss(z[0], z[1], labels=labels, axis_name=axis_name), has_aux=True)(z)


def encode_step(variables: Any, images: jax.Array, *, model: nn.Module, layer: int) -> jax.Array:
    """Returns layer ``layer`` of [h, head layer 1, …, z] for images [n, H, W, 3], BatchNorm in evaluation mode."""
    return model.apply(variables, images, train=False)[layer].astype(jnp.float32)


def _probe_loss(params, h, labels, probe, axis_name):
    """Returns this shard's part of the mean cross-entropy over labelled views, and the metrics over all of them."""
    labels = jnp.concatenate([labels, labels])
    weights = (labels >= 0).astype(jnp.float32)
    weights = weights / jnp.maximum(psum(weights.sum(), axis_name), 1.0)
    logits = probe.apply({"params": params}, h)
    loss = jnp.sum(weights * optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(labels, 0)))
    top1 = jnp.sum(weights * (logits.argmax(-1) == labels))
    return loss, psum({"online_loss": loss, "online_top1": top1}, axis_name)
