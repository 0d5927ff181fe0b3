"""Pure functions of supervised training: a network with a classifier, of which all or the last parts learn.

As in :mod:`simclr_jax.training.step`, ``axis_name`` is the mapped axis over which a batch is sharded; without, they
are the single-device program.
"""

from collections.abc import Callable
from typing import Any

import flax.struct
import flax.traverse_util
import jax
import jax.numpy as jnp
import optax

from simclr_jax.models import Classifier
from simclr_jax.training.gradients import pmean, settled
from simclr_jax.training.tree_norms import norm

Flat = dict[str, jax.Array]  # by path, "encoder/stem_conv/kernel"
ImagesOf = Callable[[Any, jax.Array], dict[str, jax.Array]]


@flax.struct.dataclass
class SupervisedState:
    """A supervised training at a step.

    Attributes:
      learning_rate: float32 scalar, the peak. The optimizer's own is 1 there, so that one program serves them all.
      seed: int32 scalar, of the views.
      params: what learns, float32 by path.
      frozen: what does not.
      batch_stats: running statistics of BatchNorm; {} without BatchNorm.
      opt_state: the optimizer's.
    """

    learning_rate: jax.Array
    seed: jax.Array
    params: Flat
    frozen: Flat
    batch_stats: Any
    opt_state: Any


def initial_state(
    variables: dict[str, Any],
    *,
    model: Classifier,
    optimizer: optax.GradientTransformation,
    learning_rate: float,
    seed: int,
    image_size: int,
) -> SupervisedState:
    """Returns the state of step 0: a network's variables, and a classifier of zeros.

    Args:
      variables: of a `SimCLR`, {"params"} and, with BatchNorm, "batch_stats".
      model: the classifier.
      optimizer: of rate 1 at its peak.
      learning_rate: the peak.
      seed: of the views.
      image_size: of the views, pixels.
    """
    an_image = jnp.zeros((1, image_size, image_size, model.encoder.network.channels))
    wanted = jax.eval_shape(lambda: model.init(jax.random.key(0), an_image, train=False))

    def chosen(name: str) -> Flat:
        have = _flat(variables.get(name, {}))
        return {  # copies, because a step donates its state
            path: jnp.array(have[path]) if path in have else jnp.zeros(leaf.shape, leaf.dtype)
            for path, leaf in _flat(wanted.get(name, {})).items()
        }

    params = chosen("params")
    trained = {path: leaf for path, leaf in params.items() if not model.is_frozen(path)}
    return SupervisedState(
        learning_rate=jnp.float32(learning_rate),
        seed=jnp.int32(seed),
        params=trained,
        frozen={path: leaf for path, leaf in params.items() if path not in trained},
        batch_stats=_nested(chosen("batch_stats")),
        opt_state=optimizer.init(trained),
    )


def supervised_step(
    state: SupervisedState,
    batch: Any,
    resident: Any = None,
    *,
    images_of: ImagesOf,
    model: Classifier,
    optimizer: optax.GradientTransformation,
    axis_name: str | None = None,
) -> tuple[SupervisedState, dict[str, jax.Array]]:
    """Takes one step down the mean cross-entropy of a batch.

    Args:
      state: the training.
      batch: one shard, which ``images_of`` makes into {"images": float [n, size, size, 3], "labels": int [n]}.
      resident: not used.
      images_of: (batch, seed) → images and labels.
      model, optimizer: what is trained, and how; the optimizer's rate is 1 at its peak.
      axis_name: mapped axis over which the batch is sharded.

    Returns:
      The next state, and float32 scalars over the global batch: "loss", "top1", "finite" (1.0 where the loss and
      the norm of the new parameters are).
    """
    batch = images_of(batch, state.seed)

    def loss_fn(params):
        logits, changed = model.apply(_variables(state, params), batch["images"], train=True, mutable=["batch_stats"])
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["labels"])
        top1 = (logits.argmax(-1) == batch["labels"]).mean(dtype=jnp.float32)
        return losses.mean(), ({"loss": losses.mean(), "top1": top1}, changed.get("batch_stats", {}))

    gradients, (metrics, batch_stats) = jax.grad(loss_fn, has_aux=True)(state.params)
    gradients, metrics, batch_stats = pmean((gradients, metrics, batch_stats), axis_name)
    updates, opt_state = optimizer.update(settled(gradients), state.opt_state, state.params)
    params = jax.tree.map(lambda p, update: p + state.learning_rate * update, state.params, updates)
    finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(norm(params))
    metrics |= {"finite": finite.astype(jnp.float32)}
    return state.replace(params=params, batch_stats=batch_stats, opt_state=opt_state), metrics


def logits_step(
    state: SupervisedState, images: jax.Array, resident: Any = None, *, model: Classifier, axis_name: str | None = None
) -> jax.Array:
    """Returns logits [n, classes] of central views [n, size, size, 3], BatchNorm in evaluation mode."""
    return model.apply(_variables(state, state.params), images, train=False)


def _variables(state: SupervisedState, params: Flat) -> dict[str, Any]:
    return {"params": _nested(params | state.frozen), "batch_stats": state.batch_stats}


def _flat(tree: Any) -> Flat:
    return flax.traverse_util.flatten_dict(tree, sep="/")


def _nested(flat: Flat) -> Any:
    return flax.traverse_util.unflatten_dict(flat, sep="/")
