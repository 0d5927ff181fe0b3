"""Losses by name: those of this library, and those that a user registers. All come to one interface, `Loss`."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from simclr_jax.losses.contrastive import dcl, nt_xent
from simclr_jax.losses.supervised import supcon
from simclr_jax.runtime.registry import Registry

# (z1, z2, *, labels, axis_name) → loss, {name: float32 scalar} with contrastive_accuracy and contrastive_entropy. z1
# and z2 are [n, dim], labels int [n], -1 where an image has none.
Loss = Callable[..., tuple[jax.Array, dict[str, jax.Array]]]

NAMES = ("nt_xent", "dcl", "supcon")
_METRICS = {"contrastive_accuracy", "contrastive_entropy"}
OWN: Registry[Callable] = Registry(
    "loss",
    key="loss.name",
    taken=NAMES,
    argument="loss",
    signature="(z1, z2, *, labels, temperature, axis_name)",
)


def register_loss(name: str, loss: Callable) -> None:
    """Makes a loss of your own known by a name that `config.loss.name` may hold.

    Every process that trains with it must register it first. A function that is defined and registered again, as by a
    notebook's cell that is run again, replaces the first.

    Args:
      name: a word of letters, digits, _ and -, such as "my_loss".
      loss: a function `(z1, z2, *, labels, temperature, axis_name) -> (loss, metrics)`. z1 and z2 are the projections
        of the first and second views of a device's images, `[n, dim]`, float32 or bfloat16, not normalised; labels are
        int `[n]`, -1 where there is none; `jax.lax` collectives over axis_name reach the other devices, whose losses
        and gradients are averaged. The loss is a float scalar, metrics a dict of scalars, which is logged with it.
        `contrastive_accuracy` and `contrastive_entropy` are added as `nt_xent` has them where they are not in it.

    Raises:
      ValueError: the name is not such a word, is one of the library's, or is that of another function; or the loss
        cannot be called.

    Example:
      >>> simclr_jax.register_loss("my_loss", my_loss)
      >>> config = simclr_jax.load_config("cifar10", {"loss.name": "my_loss"})
    """
    OWN.register(name, loss)


def check_name(name: str) -> None:
    """Raises ValueError unless a loss has that name; names the nearest."""
    OWN.check(name)


def create_loss(name: str, *, temperature: float, chunk_size: int | None = None, gather: str = "all") -> Loss:
    """Returns the loss of that name with its settings.

    Args:
      name: one of `NAMES`, or a registered one.
      temperature: divides the similarities.
      chunk_size: as of `nt_xent`; a registered loss has none.
      gather: likewise.

    Returns:
      A function `(z1, z2, *, labels, axis_name) -> (loss, metrics)`.

    Raises:
      ValueError: there is no such loss, or it is a registered one and a setting would have no effect on it.
    """
    check_name(name)
    if name in OWN.own:
        if chunk_size is not None or gather != "all":
            raise ValueError(
                f"loss.chunk_size and loss.gather have no effect on the registered loss {name!r}; leave them 0 and all"
            )
        return functools.partial(_registered_loss, loss=OWN.own[name], temperature=temperature)
    settings = {"temperature": temperature, "chunk_size": chunk_size, "gather": gather}
    if name == "supcon":
        return functools.partial(supcon, **settings)
    return functools.partial(_without_labels, loss={"nt_xent": nt_xent, "dcl": dcl}[name], **settings)


def _without_labels(z1, z2, *, labels, axis_name, loss, **settings):
    del labels
    return loss(z1, z2, axis_name=axis_name, **settings)


def _registered_loss(z1, z2, *, labels, axis_name, loss, temperature):
    """Calls a user's loss, checks what it returns, and adds the metrics that all that follows a run looks at."""
    returned = loss(z1, z2, labels=labels, temperature=temperature, axis_name=axis_name)
    if not isinstance(returned, tuple) or len(returned) != 2:
        raise ValueError(f"it must return a pair, the loss and a dict of metrics, but returns {_words(returned)}")
    value, metrics = returned
    if not _is_scalar(value) or not jnp.issubdtype(jnp.result_type(value), jnp.floating):
        raise ValueError(f"its loss must be a float scalar, but is {_words(value)}")
    if not isinstance(metrics, dict):
        raise ValueError(f"its metrics must be a dict of scalars, but are {_words(metrics)}")
    for name, metric in metrics.items():
        if not isinstance(name, str) or not _is_scalar(metric):
            raise ValueError(f"its metric {name!r} must be a scalar with a name, but is {_words(metric)}")
    metrics = {name: jnp.asarray(metric, jnp.float32) for name, metric in metrics.items()}
    if not metrics.keys() >= _METRICS:  # nothing but them is computed of it
        z1, z2 = jax.lax.stop_gradient((z1, z2))
        metrics = nt_xent(z1, z2, temperature=temperature, axis_name=axis_name)[1] | metrics
    return jnp.asarray(value, jnp.float32), metrics


def _is_scalar(value: Any) -> bool:
    return isinstance(value, int | float) or (hasattr(value, "dtype") and jnp.shape(value) == ())


def _words(value: Any) -> str:
    """Says what a loss returned: type and shape of an array, the type of anything else."""
    if hasattr(value, "dtype"):
        return f"{value.dtype}{list(value.shape)}"
    return f"a tuple of {len(value)}" if isinstance(value, tuple) else type(value).__name__
