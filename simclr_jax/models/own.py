"""An encoder of a user's own: any Flax module, behind the interface of the encoders here."""

from typing import Any

import flax.errors
import flax.linen as nn
import jax
import jax.numpy as jnp

from simclr_jax.models.architectures import OwnArchitecture
from simclr_jax.models.images import normalized
from simclr_jax.models.network import Network

MODULE = "module"  # the one part that there is, and the name that its parameters are under


class OwnEncoder(nn.Module):
    """Calls a registered encoder's module, and checks that it keeps the contract of `register_encoder`.

    Its parameters are under "module", and so is all else that it keeps: under "batch_stats", by the name of the
    collection, so that whatever carries running statistics carries it.

    Attributes:
      architecture: holds what makes the module.
      network: how it is built; it has `normalize`, `channels` and `dtype`, and what the head has.
      axis_name: mapped axis over whose devices BatchNorm computes statistics; None = each device on its own.
      frozen: ("module",) = it is in evaluation mode in training too.
    """

    architecture: OwnArchitecture
    network: Network
    axis_name: str | None = None
    frozen: tuple[str, ...] = ()

    @property
    def parts(self) -> tuple[str, ...]:
        """What images pass one after another, as far as is known."""
        return (MODULE,)

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        """Representations of a batch.

        Args:
          images: `[B, H, W, C]`, float in [0, 1].
          train: of the module, and whether what it keeps beside parameters changes.

        Returns:
          h, float32 `[B, d]`.

        Raises:
          ValueError: the module cannot be made or called, keeps something that is no float array, or returns no h.
        """
        images = normalized(images, self.network)
        train = train and not self.frozen
        try:
            return self._called(images, train)
        except Exception as error:  # it is a user's, and may raise anything
            raise ValueError(
                f"the registered encoder {self.network.encoder!r} cannot be used with images {images.dtype}"
                f"{list(images.shape)}: {_reason(error)}"
            ) from error

    def _called(self, images, train):
        module = self.architecture.factory(dtype=jnp.dtype(self.network.dtype), axis_name=self.axis_name)
        if not isinstance(module, nn.Module):
            raise _Broken(
                f"its factory returns {type(module).__name__}, not a flax.linen.Module (an NNX class becomes one by "
                "flax.nnx.bridge.to_linen)"
            )
        if self.is_initializing():
            kept = dict(module.init(self.make_rng("params"), images, train=train))
            params = kept.pop("params", {})
            _check_kept(kept)
            if not jax.tree.leaves(params):
                raise _Broken("it has no parameters")
            self.put_variable("params", MODULE, params)
            if kept:
                self.put_variable("batch_stats", MODULE, kept)
        params, kept = self.get_variable("params", MODULE), self.get_variable("batch_stats", MODULE, {})
        changes = train and self.is_mutable_collection("batch_stats") and list(kept)
        found = module.apply({"params": params, **kept}, images, train=train, mutable=changes or False)
        h, kept = found if changes else (found, {})
        if changes:
            self.put_variable("batch_stats", MODULE, dict(kept))
        shape = getattr(h, "shape", None)
        batch = images.shape[0]
        if shape is None or not jnp.issubdtype(h.dtype, jnp.floating) or len(shape) != 2 or shape[0] != batch:
            returned = type(h).__name__ if shape is None else f"{h.dtype}{list(shape)}"
            raise _Broken(
                f"it returns {returned}, not h, a float array [{batch}, d]; of a map of features take the mean "
                "over height and width"
            )
        return h.astype(jnp.float32)


def check(encoder: OwnEncoder, image_size: int) -> None:
    """Traces a module as training and evaluation call it; raises ValueError where it breaks the contract.

    Args:
      encoder: what is to be asked.
      image_size: side of the images, pixels.
    """

    def calls(images):
        variables = encoder.init(jax.random.key(0), images, train=False)
        _, changed = encoder.apply(variables, images, train=True, mutable=["batch_stats"])
        return variables.get("batch_stats", {}), changed.get("batch_stats", {})

    mapped = jax.vmap(calls, **({"axis_name": encoder.axis_name} if encoder.axis_name else {}))
    images = jax.ShapeDtypeStruct(
        (1, 2, image_size, image_size, encoder.network.channels), jnp.float32
    )  # of one device
    before, after = map(_shapes, jax.eval_shape(mapped, images))
    if before != after:
        raise ValueError(
            f"the registered encoder {encoder.network.encoder!r} keeps other arrays after a step of training than "
            f"before it: {after}, before {before}"
        )


def feature_dim(encoder: OwnEncoder, image_size: int) -> int:
    """Returns the length of h for images of a size, pixels."""
    images = jnp.zeros((2, image_size, image_size, encoder.network.channels))
    h, _ = jax.eval_shape(lambda: encoder.init_with_output(jax.random.key(0), images, train=False))
    return h.shape[-1]


class _Broken(ValueError):
    """What part of the contract a module breaks, in words."""


def _reason(error: Exception) -> str:
    """One line."""
    if isinstance(error, flax.errors.InvalidRngError):
        return "it asks for random numbers, such as those of dropout, which an encoder is not given"
    if "_DimExpr" in str(error):
        return "an export is for any number of images, which Python's len() cannot be: use x.shape[0] instead of len(x)"
    return ("" if isinstance(error, _Broken) else f"{type(error).__name__}: ") + " ".join(str(error).split())


def _shapes(tree: Any) -> str:
    """The arrays of a device, in words."""
    named = jax.tree_util.tree_leaves_with_path(tree)
    shapes = [
        f"{jax.tree_util.keystr(p[1:], simple=True, separator='/')} {x.dtype}{list(x.shape[1:])}" for p, x in named
    ]
    return ", ".join(shapes) or "none"


def _check_kept(kept: dict[str, Any]) -> None:
    """Raises _Broken unless all that a module keeps beside its parameters are float arrays, which have a mean."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(kept):
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            raise _Broken(
                f"it keeps {name}, {leaf.dtype}{list(leaf.shape)}: what it keeps is averaged over devices and "
                "micro-batches, so that it must be float"
            )
