"""All that a training run carries from step to step, and nothing else."""

from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax

from simclr_jax.models import feature_dim
from simclr_jax.runtime import checksums

# What runs once takes longer to optimise than to run: with this a fifth of the time for a small network.
_ONCE = {"xla_backend_optimization_level": 0}


@flax.struct.dataclass
class TrainState:
    """A run at a step.

    Attributes:
      step: int32 scalar, steps taken so far. The position in the data and all random keys follow from it.
      skipped: int32 scalar, the newest steps in a row whose updates were dropped, see steps.
      params: {"encoder", "head"}, float32.
      batch_stats: running means and variances of BatchNorm, float32; {} without BatchNorm.
      opt_state: the optimiser's.
      probe_params: the online probe, a linear classifier on h; {} without labels.
      probe_opt_state: the online probe's optimiser.
    """

    step: jax.Array
    skipped: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any
    probe_params: Any
    probe_opt_state: Any


def create(
    key: jax.Array,
    image_size: int,
    *,
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    probe: nn.Module | None,
    probe_optimizer: optax.GradientTransformation,
    start: dict[str, Any] | None = None,
) -> TrainState:
    """Returns the state of step 0.

    Args:
      key: decides the initial parameters; the same key gives the same encoder with any head or probe.
      image_size: pixels.
      model, optimizer: what is pretrained, and how.
      probe, probe_optimizer: the online probe, or None, and how it is trained.
      start: {"params": {"encoder": …}, "batch_stats": …}, what takes the place of initial variables of these names.
    """
    variables = initial_variables(key, image_size, model=model)
    if start:
        variables = {of: {**tree, **start.get(of, {})} for of, tree in variables.items()}

    def made(variables, key):
        return _with_variables(variables, key, image_size, model, optimizer, probe, probe_optimizer)

    return jax.jit(made, compiler_options=_ONCE)(variables, key)


def shapes(image_size: int, *, model, optimizer, probe, probe_optimizer) -> TrainState:
    """Returns the shapes and types that :func:`create` gives, without making anything."""

    def made():
        key = jax.random.key(0)
        variables = model.init(key, _an_image(image_size, model), train=False)
        return _with_variables(variables, key, image_size, model, optimizer, probe, probe_optimizer)

    return jax.eval_shape(made)


def _with_variables(variables, key, image_size, model, optimizer, probe, probe_optimizer) -> TrainState:
    probe_params = {}
    if probe:
        probe_params = probe.init(key, jnp.zeros((1, feature_dim(model.encoder, image_size))))["params"]
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        skipped=jnp.zeros((), jnp.int32),
        params=variables["params"],
        batch_stats=variables.get("batch_stats", {}),
        opt_state=optimizer.init(variables["params"]),
        probe_params=probe_params,
        probe_opt_state=probe_optimizer.init(probe_params),
    )


def initial_variables(key: jax.Array, image_size: int, *, model: nn.Module) -> dict[str, Any]:
    """Returns the network as it is before training, {"params"} and, with BatchNorm, "batch_stats"."""
    return jax.jit(model.init, static_argnames="train", compiler_options=_ONCE)(
        key, _an_image(image_size, model), train=False
    )


def check_variables(variables: dict[str, Any], *, model: nn.Module, image_size: int, run: str) -> None:
    """Raises ValueError unless arrays that were read from a run are those of a model, by name, shape and type.

    Args:
      variables: {"params"} and, with BatchNorm, "batch_stats".
      model: what is to compute with them.
      image_size: of the images that they were trained on, pixels.
      run: RUN, for messages.
    """
    wanted = jax.eval_shape(lambda: model.init(jax.random.key(0), _an_image(image_size, model), train=False))
    wrong = checksums.form_differences(variables, wanted)
    if wrong:
        raise ValueError(f"{run}: {len(wrong)} arrays do not fit the network of its config.json: {wrong[0]}")


def _an_image(image_size, model):
    return jnp.zeros((1, image_size, image_size, model.encoder.network.channels))
