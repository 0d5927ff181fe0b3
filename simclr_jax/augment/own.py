"""A user's own function on views: the last that happens to a view, on the device, wherever the rest of it was made."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from simclr_jax.runtime.registry import Registry

ViewFunction = Callable[[jax.Array, jax.Array], jax.Array]  # (key, view) → view

OWN: Registry[ViewFunction] = Registry(
    "view function", key="augment.own", argument="function", signature="(key, view) that returns a view"
)
_STREAM = 0x6F776E  # apart from the keys that the recipe's own draws are made of


def register_view_function(name: str, function: ViewFunction) -> None:
    """Registers a function of your own on views, which ``config.augment.own`` may then name.

    It is the last that happens to each view of pretraining, in the compiled step, wherever the view was made. A run
    that is resumed, and each of several processes, needs it registered again, and so does what makes views as the run
    did: `diagnose`, and the pictures of views. Probes, features and `load_encoder` do not. A resumed run compares
    the name, and cannot see whether the function still does the same.

    Args:
      name: a word of letters, digits, _ and -, such as "cutout".
      function: called as ``function(key, view)``. key is a jax PRNG key, which depends on (seed, epoch, image, view)
        alone; view is float32 `[size, size, channels]` in [0, 1]. Returns a view of that shape, of a float type, which
        is then clipped to [0, 1]. It is traced and mapped over the batch: what is random must be drawn from the key,
        and what depends on values said with `jax.numpy.where`.

    Raises:
      ValueError: the name is no word, or that of another function; or the function cannot be called. The same function,
        or one that a notebook's cell has defined anew, replaces the first.

    Example:
      >>> def quieter(key, view):
      ...     return view * jax.random.uniform(key, minval=0.5)
      >>> simclr_jax.register_view_function("quieter", quieter)
    """
    OWN.register(name, function)


def check(name: str, shape: tuple[int, int, int]) -> None:
    """Raises ValueError unless a function of that name is registered and works on views of a shape; computes nothing.

    Args:
      name: of the function; "" for none.
      shape: height, width and channels of a view.
    """
    if not name:
        return
    OWN.check(name)
    views = jax.ShapeDtypeStruct((1, 2, *shape), jnp.float32)
    number = jax.ShapeDtypeStruct((1,), jnp.int32)
    try:
        jax.eval_shape(functools.partial(changed, name, seed=0), views, epoch=number, ids=number)
    except Exception as error:  # it is somebody else's program, and may raise anything
        what = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(
            f"the registered view function augment.own={name!r} cannot be used with a view float32{list(shape)}: "
            f"{what}{reason}"
        ) from error


def changed(name: str, views: jax.Array, *, seed: int, epoch: Any, ids: Any) -> jax.Array:
    """Returns views after a registered function.

    Args:
      name: of the function.
      views: float32 `[n, 2, size, size, C]`.
      seed: of the run.
      epoch: int `[n]`, of the run.
      ids: int `[n]`, or int32 `[n, 2]`: the low and the high half of an id of 64 bits.

    Returns:
      float32 as the views, clipped to [0, 1].

    Raises:
      ValueError: it is not registered, or returns what is no such view.
    """
    OWN.check(name)
    function = OWN.own[name]
    halves = ids if ids.ndim == 2 else jnp.stack([ids, jnp.zeros_like(ids)], axis=1)
    parts = jnp.concatenate([jnp.asarray(epoch)[:, None], halves], axis=1).astype(jnp.uint32)

    def of_view(parts, view_index, view):
        key = jax.random.fold_in(jax.random.key(seed), _STREAM)
        for part in (*parts, view_index):
            key = jax.random.fold_in(key, part)
        return _checked(function(key, view), view.shape)

    of_both = jax.vmap(of_view, (None, 0, 0))
    return jax.vmap(of_both, (0, None, 0))(parts, jnp.arange(views.shape[1], dtype=jnp.uint32), views)


def _checked(returned: Any, shape: tuple[int, ...]) -> jax.Array:
    """What a function returned, as a view."""
    if not hasattr(returned, "shape") or not hasattr(returned, "dtype"):
        raise ValueError(f"it must return an array, float{list(shape)}, but returns {type(returned).__name__}")
    if returned.shape != shape or not jnp.issubdtype(returned.dtype, jnp.floating):
        raise ValueError(
            f"it must return float{list(shape)}, the shape it is given, but returns "
            f"{returned.dtype}{list(returned.shape)}"
        )
    return jnp.clip(jnp.asarray(returned, jnp.float32), 0.0, 1.0)
