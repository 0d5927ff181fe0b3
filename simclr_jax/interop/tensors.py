"""Arrays by name: whether a file holds exactly what a network needs, and the tree that they make."""

from collections.abc import Iterable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

_SHOWN = 10  # names of each fault


def shapes(model: nn.Module, image_size: int = 32) -> dict[str, tuple[int, ...]]:
    """Returns {"params/encoder/stem_conv/kernel": shape} of all that a network consists of; nothing is made.

    Of the size of its images, pixels, nothing but a ViT's positions depends.
    """
    network = (model if hasattr(model, "network") else model.encoder).network
    image = jnp.zeros((1, image_size, image_size, network.channels))
    tree = jax.eval_shape(lambda: model.init(jax.random.key(0), image, train=False))
    return {path: leaf.shape for path, leaf in flat(tree).items()}


def check(
    wanted: dict[str, tuple[int, ...]], found: dict[str, tuple[int, ...]], *, surplus: Iterable[str], what: str
) -> None:
    """Raises ValueError unless a file holds all that is wanted, in its shape, and nothing else.

    Args:
      wanted, found: {name in the file: shape}.
      surplus: names of what the file holds besides.
      what: the file and what it was taken for.
    """
    if told := misfits(wanted, found, surplus):
        raise ValueError(f"{what}, but its tensors do not fit: {told}")


def misfits(wanted: dict[str, tuple[int, ...]], found: dict[str, tuple[int, ...]], surplus: Iterable[str] = ()) -> str:
    """Returns how many tensors are missing, surplus and misshapen, and the first of each; "" where all fit."""
    misshapen = [
        f"{name} is {list(found[name])} instead of {list(shape)}"
        for name, shape in wanted.items()
        if name in found and tuple(found[name]) != tuple(shape)
    ]
    missing = [name for name in wanted if name not in found]
    faults = {"missing": missing, "surplus": list(surplus), "misshapen": misshapen}
    told = []
    for fault, names in faults.items():
        some, rest = ", ".join(names[:_SHOWN]), len(names) - _SHOWN
        told += [f"{len(names)} {fault}: {some}" + (f" and {rest} more" if rest > 0 else "")] * bool(names)
    return "; ".join(told)


def flat(tree: Any) -> dict[str, Any]:
    """Returns the leaves of a tree by their paths, "params/encoder/stem_conv/kernel"."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def nested(arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """Returns the tree whose leaves have these paths."""
    tree: dict[str, Any] = {}
    for path, array in arrays.items():
        *folders, name = path.split("/")
        node = tree
        for folder in folders:
            node = node.setdefault(folder, {})
        node[name] = array
    return tree
