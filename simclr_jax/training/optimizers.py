"""Optimizers and learning-rate schedules: how parameters change.

Every optimizer here decays the same leaves, chosen by their path in the parameter tree: kernels do, BatchNorm
scales, BatchNorm biases and biases of dense layers do not. Turning epochs into steps belongs to `schedule`.
"""

import difflib
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from simclr_jax.training.tree_norms import leaf_norms

Schedule = Callable[[jax.typing.ArrayLike], jax.Array]

_LINEAR_SCALING_BATCH = 256  # Goyal et al. 2017: published linear rates are per 256 images


def lars(
    learning_rate: float | Schedule,
    *,
    weight_decay: float = 0.0,
    momentum: float = 0.9,
    trust_coefficient: float = 1e-3,
) -> optax.GradientTransformation:
    """LARS as used by SimCLR: parameters other than kernels get neither weight decay nor a layer-wise learning rate.

    A classifier's kernel gets weight decay but no layer-wise rate, as in Google's code, because it starts at zero. The
    decay is added to the gradient before the trust ratio is computed; the momentum buffer holds scaled updates.

    Args:
      learning_rate: a number, or a function of the step.
      weight_decay: multiple of a kernel that is added to its gradient.
      momentum: decay of the heavy-ball (not Nesterov) momentum.
      trust_coefficient: ratio of update norm to kernel norm at learning rate 1.

    Returns:
      An optax transformation; its `update` needs the parameters.

    Reference:
      You et al. 2017, "Large Batch Training of Convolutional Networks"; Chen et al. 2020, section 2.2.
    """
    return optax.chain(
        optax.add_decayed_weights(weight_decay, mask=_leaves(_is_kernel)),
        _scale_by_trust_ratio(
            trust_coefficient, _leaves(lambda path: _is_kernel(path) and not path.startswith("classifier/"))
        ),
        optax.scale_by_learning_rate(learning_rate),
        optax.trace(decay=momentum),
    )


def _scale_by_trust_ratio(trust_coefficient: float, adapts: Callable) -> optax.GradientTransformation:
    """What optax.lars has in this place, state included, with the norms of all leaves taken together.

    A leaf that is not adapted is multiplied by 1: so that none changes before all have been read, or XLA would copy
    each of them first, with a kernel of its own.
    """

    def update(updates, state, params):
        of_params, of_updates = leaf_norms(params), leaf_norms(updates)
        adapted = np.array(jax.tree.leaves(adapts(updates))) & (of_params > 0.0) & (of_updates > 0.0)
        ratios = jnp.where(adapted, trust_coefficient * of_params / of_updates, 1.0)
        leaves, tree = jax.tree.flatten(updates)
        return jax.tree.unflatten(tree, [x * ratio for x, ratio in zip(leaves, ratios, strict=True)]), state

    return optax.GradientTransformation(optax.masked(optax.scale_by_trust_ratio(), adapts).init, update)


def sgd(learning_rate: float | Schedule, *, weight_decay: float = 0.0) -> optax.GradientTransformation:
    """SGD with Nesterov momentum 0.9; weight decay, added to the gradient, applies to kernels only."""
    decay = optax.add_decayed_weights(weight_decay, mask=_leaves(_is_kernel))
    return optax.chain(decay, optax.sgd(learning_rate, momentum=0.9, nesterov=True))


def adamw(learning_rate: float | Schedule, *, weight_decay: float = 0.0) -> optax.GradientTransformation:
    """AdamW with optax's moments (0.9, 0.999); weight decay, times the learning rate, applies to kernels only."""
    return optax.adamw(learning_rate, weight_decay=weight_decay, mask=_leaves(_is_kernel))


OPTIMIZERS = {"lars": lars, "sgd": sgd, "adamw": adamw}


def create_optimizer(
    name: str, learning_rate: float | Schedule, *, weight_decay: float
) -> optax.GradientTransformation:
    """Returns the optimizer called `name` in `OPTIMIZERS`; raises ValueError for another name."""
    return _known("optimizer", name, OPTIMIZERS)(learning_rate, weight_decay=weight_decay)


def warmup_cosine(peak_lr: float, *, warmup_steps: int, total_steps: int) -> Schedule:
    """Linear warm-up from 0 to `peak_lr`, then cosine decay to 0 without restarts.

    Args:
      peak_lr: learning rate at step `warmup_steps`.
      warmup_steps: number of warm-up steps; 0 starts at the peak.
      total_steps: the step from which on the learning rate is 0.

    Returns:
      A function of the step (a number or a traced array) that returns a float32 scalar.

    Raises:
      ValueError: the warm-up is negative or leaves no step for the decay.

    Reference:
      Chen et al. 2020, section 2.2; Loshchilov & Hutter 2016, "SGDR".
    """
    if not 0 <= warmup_steps < total_steps:
        raise ValueError(
            f"warmup_steps {warmup_steps} must be at least 0 and below total_steps {total_steps}; "
            "shorten the warmup or train longer"
        )

    def schedule(step):
        step = jnp.asarray(step, jnp.float32)
        # max: without warmup the first branch is never chosen, but 0 / 0 would still be computed.
        warmup = step / max(warmup_steps, 1)
        progress = jnp.clip((step - warmup_steps) / (total_steps - warmup_steps), 0.0, 1.0)
        return peak_lr * jnp.where(step < warmup_steps, warmup, (1 + jnp.cos(jnp.pi * progress)) / 2)

    return schedule


SCALINGS = {
    "linear": lambda base, batch_size: base * batch_size / _LINEAR_SCALING_BATCH,
    "sqrt": lambda base, batch_size: base * math.sqrt(batch_size),
    "none": lambda base, batch_size: base,
}


def scaled_learning_rate(base: float, *, batch_size: int, scaling: str) -> float:
    """Peak learning rate for a batch of `batch_size` images.

    Args:
      base: the learning rate before scaling.
      batch_size: images over all devices.
      scaling: "linear" (base·B/256), "sqrt" (base·√B, better below 1,024 images or for few epochs) or "none".

    Returns:
      The rate, a Python float.

    Raises:
      ValueError: if `scaling` is unknown.

    Reference:
      Chen et al. 2020, section 2.2 and appendix B.1.
    """
    return _known("scaling", scaling, SCALINGS)(base, batch_size)


def excluded_from_decay(params) -> list[str]:
    """Paths such as "encoder/stem_norm/scale" of the leaves that skip weight decay and adaptation."""
    paths = [_path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    return [path for path in paths if not _is_kernel(path)]


def _leaves(chosen: Callable[[str], bool]) -> Callable:
    """Returns the mask of the leaves whose paths are chosen, as optax takes it."""
    return lambda params: jax.tree_util.tree_map_with_path(lambda path, _: chosen(_path_name(path)), params)


def _path_name(path) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _is_kernel(path: str) -> bool:
    return path.rsplit("/", 1)[-1] == "kernel"


def _known(what, name, table):
    """`table[name]`, or a ValueError that lists what there is."""
    if name not in table:
        near = difflib.get_close_matches(name, table, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"unknown {what} {name!r}; choose one of: {', '.join(table)}{hint}")
    return table[name]
