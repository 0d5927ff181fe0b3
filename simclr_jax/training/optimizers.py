"""Optimizers and learning-rate schedules: how parameters change.

Which parameters decay is left to `decay`, and turning epochs into steps to `schedule`.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from simclr_jax.models.parts import NORM, belongs, order
from simclr_jax.runtime.config import shown
from simclr_jax.runtime.registry import Registry
from simclr_jax.training.decay import ALL_BUT_KERNELS, KERNELS, Mask, decay_mask, path_name
from simclr_jax.training.tree_norms import leaf_norms

Schedule = Callable[[jax.typing.ArrayLike], jax.Array]
OptimizerFactory = Callable[..., optax.GradientTransformation]  # (learning_rate, *, weight_decay, mask) → optimizer

_LINEAR_SCALING_BATCH = 256  # Goyal et al. 2017: published linear rates are per 256 images


def lars(
    learning_rate: float | Schedule,
    *,
    weight_decay: float = 0.0,
    momentum: float = 0.9,
    nesterov: bool = False,
    trust_coefficient: float = 1e-3,
    mask: Mask = KERNELS,
) -> optax.GradientTransformation:
    """LARS as used by SimCLR: parameters other than kernels get neither weight decay nor a layer-wise learning rate.

    A classifier's kernel gets weight decay but no layer-wise rate, as in Google's code, because it starts at zero. The
    decay is added to the gradient before the trust ratio is computed; the momentum buffer holds scaled updates.

    Args:
      learning_rate: a number, or a function of the step.
      weight_decay: multiple of a parameter that is added to its gradient.
      momentum: decay of the momentum.
      nesterov: whether the momentum is Nesterov's; else heavy-ball, as in SimCLR.
      trust_coefficient: ratio of update norm to parameter norm at learning rate 1.
      mask: (params) → tree of bools: which get weight decay and a layer-wise learning rate; by default kernels.

    Returns:
      An optax transformation; its `update` needs the parameters.

    Reference:
      You et al. 2017, "Large Batch Training of Convolutional Networks"; Chen et al. 2020, section 2.2.
    """

    def adapts(params: Any) -> Any:
        def one(path, decays):
            return decays and not path_name(path).startswith("classifier/")

        return jax.tree_util.tree_map_with_path(one, mask(params))

    return optax.chain(
        optax.add_decayed_weights(weight_decay, mask=mask),
        _scale_by_trust_ratio(trust_coefficient, adapts),
        optax.scale_by_learning_rate(learning_rate),
        optax.trace(decay=momentum, nesterov=nesterov),
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


def sgd(
    learning_rate: float | Schedule,
    *,
    weight_decay: float = 0.0,
    momentum: float = 0.9,
    nesterov: bool = True,
    mask: Mask = KERNELS,
) -> optax.GradientTransformation:
    """SGD with momentum; weight decay is added to the gradient. Arguments as of `lars`."""
    decay = optax.add_decayed_weights(weight_decay, mask=mask)
    return optax.chain(decay, optax.sgd(learning_rate, momentum=momentum, nesterov=nesterov))


def adamw(
    learning_rate: float | Schedule,
    *,
    weight_decay: float = 0.0,
    betas: tuple[float, float] = (0.9, 0.999),
    mask: Mask = KERNELS,
) -> optax.GradientTransformation:
    """AdamW; ``betas`` are the decays of its two moments, and weight decay is multiplied by the learning rate."""
    return optax.adamw(learning_rate, b1=betas[0], b2=betas[1], weight_decay=weight_decay, mask=mask)


OPTIMIZERS: dict[str, OptimizerFactory] = {"lars": lars, "sgd": sgd, "adamw": adamw}
OWN: Registry[OptimizerFactory] = Registry(
    "optimizer",
    key="optimizer",
    taken=OPTIMIZERS,
    argument="factory",
    signature="(learning_rate, *, weight_decay, mask) that returns an optax transformation",
)
# Keys that some optimizers alone have: which, and the value that leaves it to them.
_HAVING = {"momentum": ("lars", "sgd"), "nesterov": ("lars", "sgd"), "betas": ("adamw",)}
_USUAL = {"momentum": 0.9, "nesterov": "", "betas": (0.9, 0.999)}


def register_optimizer(name: str, factory: OptimizerFactory) -> None:
    """Registers an optimizer of your own, which ``config.optimizer.name`` may then name.

    A run that is resumed needs it registered again; probes and `load_encoder` do not.

    Args:
      name: a word of letters, digits, _ and -, such as "lion".
      factory: called as ``factory(learning_rate, weight_decay=…, mask=…)``; returns an optax transformation, whose
        updates are added to the parameters. learning_rate is a function of the step, counted from 0, with warm-up,
        scaling and cosine in it; weight_decay is config.optimizer.weight_decay; mask is a function of the tree of
        parameters, which returns the tree of bools of those that config.optimizer.exclude leaves to weight decay.

    Raises:
      ValueError: the name is no word, one of this library's, or that of another factory; or the factory cannot be
        called. The same function, or one that a notebook's cell has defined anew, replaces the first.

    Example:
      >>> def lion(learning_rate, *, weight_decay, mask):
      ...     return optax.lion(learning_rate, weight_decay=weight_decay, mask=mask)
      >>> simclr_jax.register_optimizer("lion", lion)
    """
    OWN.register(name, factory)


def create_optimizer(
    name: str,
    learning_rate: Schedule,
    *,
    weight_decay: float,
    exclude: str = ALL_BUT_KERNELS,
    momentum: float = _USUAL["momentum"],
    nesterov: str = _USUAL["nesterov"],
    betas: Sequence[float] = _USUAL["betas"],
) -> optax.GradientTransformation:
    """Returns the optimizer that config keys describe.

    Args:
      name: of `OPTIMIZERS`, or registered.
      learning_rate: a function of the step.
      weight_decay, exclude: how much, and which parameters not, see `decay_mask`.
      momentum, nesterov: of lars and sgd; "yes", "no", or "" = as the optimizer has it.
      betas: of adamw.

    Raises:
      ValueError: the name is unknown, a key has no effect with it, or a registered factory makes no optimizer.
    """
    OWN.check(name)
    factory = (OPTIMIZERS | OWN.own)[name]
    values = {"momentum": momentum, "nesterov": nesterov, "betas": tuple(betas)}
    own: dict[str, Any] = {key: value for key, value in values.items() if value != _USUAL[key]}
    for key, value in own.items():
        if name not in _HAVING[key]:
            raise ValueError(
                f"config.optimizer.{key}={value} only applies to {' and '.join(_HAVING[key])}, but "
                f"config.optimizer.name is {name}: leave it {_USUAL[key] or 'empty'}"
            )
    if nesterov:
        own["nesterov"] = nesterov == "yes"
        if own["nesterov"] and not momentum:
            raise ValueError("config.optimizer.nesterov=yes needs momentum, but config.optimizer.momentum is 0")
    arguments = {"weight_decay": weight_decay, "mask": decay_mask(exclude), **own}
    if name in OPTIMIZERS:
        return factory(learning_rate, **arguments)
    return _of_registered(name, factory, learning_rate, arguments)


def _of_registered(name: str, factory: OptimizerFactory, learning_rate: Schedule, arguments: dict[str, Any]) -> Any:
    """What a registered factory makes, if it is an optimizer."""
    try:
        made = factory(learning_rate, **arguments)
    except Exception as error:  # it is somebody else's program, and may raise anything
        fault = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise ValueError(
            f"the registered optimizer {name!r} cannot be made: {fault}; it is called as factory(learning_rate, "
            "weight_decay=…, mask=…)"
        ) from error
    if not isinstance(made, optax.GradientTransformation):
        raise ValueError(
            f"the registered optimizer {name!r} returns {shown(made)}, not an optax.GradientTransformation"
        )
    return made


def without(optimizer: optax.GradientTransformation, parts: tuple[str, ...]) -> optax.GradientTransformation:
    """Returns an optimizer that leaves the parameters of some parts of an encoder alone, decay included."""

    def left_alone(params: Any) -> Any:
        return jax.tree_util.tree_map_with_path(lambda path, _: belongs(path_name(path), parts), params)

    return optax.chain(optimizer, optax.masked(optax.set_to_zero(), left_alone))


def layer_rates(encoder: Any, decay: float) -> dict[str, float]:
    """Returns what the learning rate of each part of an encoder is multiplied by: `decay` to the number of parts after.

    The head is the last part, and a final norm of h is counted with it; {"stem": decay³, "stage1": decay², …}.

    Raises:
      ValueError: the encoder does not name its parts, or none that is trained has another rate.

    Reference:
      Clark et al. 2020, "ELECTRA"; as Bao et al. 2022 ("BEiT") and He et al. 2022 ("MAE") have it in their code.
    """
    parts = [part for part in order(encoder) if part != NORM]
    if not parts:
        raise ValueError(
            f"optimizer.layer_decay={decay:g} needs an encoder that names its parts in their order, and "
            f"{encoder.network.encoder} does not; leave it 1"
        )
    if encoder.network.freeze >= len(parts):
        raise ValueError(
            f"optimizer.layer_decay={decay:g} has no effect with model.freeze={encoder.network.freeze}: all parts that "
            "are trained have the same rate; leave it 1"
        )
    return {part: decay ** (len(parts) - index) for index, part in enumerate(parts)}


def layer_wise(optimizer: optax.GradientTransformation, rates: dict[str, float]) -> optax.GradientTransformation:
    """Returns an optimizer whose updates, decay included, are multiplied by the `layer_rates` of an encoder's parts."""

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        def scaled(path: Any, update: jax.Array) -> jax.Array:
            rate = next((rate for part, rate in rates.items() if belongs(path_name(path), (part,))), None)
            return update if rate is None else update * rate

        return jax.tree_util.tree_map_with_path(scaled, updates), state

    return optax.chain(optimizer, optax.GradientTransformation(lambda params: optax.EmptyState(), update))


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
    if scaling not in SCALINGS:
        raise ValueError(f"unknown scaling {scaling!r}; choose one of: {', '.join(SCALINGS)}")
    return SCALINGS[scaling](base, batch_size)
