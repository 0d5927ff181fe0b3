"""Which parameters decay: weight decay, and the adaptation of LARS, leave some out, by their paths in the tree.

By default kernels decay; scales and biases of BatchNorm and biases of dense layers do not.
"""

from collections.abc import Callable
from typing import Any

import jax

Mask = Callable[[Any], Any]  # a tree of parameters → the same tree of bools, as optax takes it: True = decays

ALL_BUT_KERNELS, NOTHING = "all_but_kernels", "none"  # values of config.optimizer.exclude; others are parts of paths


def path_name(path: Any) -> str:
    """Returns the path of a leaf in a tree as text, "encoder/stem_norm/scale"."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _is_kernel(path: str) -> bool:
    return path.rsplit("/", 1)[-1] == "kernel"


def parts_of(exclude: str) -> tuple[str, ...]:
    """The parts of paths that config.optimizer.exclude names; () for one of its words."""
    return () if exclude in (ALL_BUT_KERNELS, NOTHING) else tuple(part.strip() for part in exclude.split(","))


def decay_mask(exclude: str) -> Mask:
    """Returns the mask of the leaves that decay.

    Args:
      exclude: which do not: "all_but_kernels", "none", or parts of their paths, separated by commas, such as
        "bias,norm": a path is like "encoder/stage1_block1/norm1/scale".
    """
    parts = parts_of(exclude)

    def decays(path: str) -> bool:
        return _is_kernel(path) if exclude == ALL_BUT_KERNELS else not any(part in path for part in parts)

    return lambda params: jax.tree_util.tree_map_with_path(lambda path, _: decays(path_name(path)), params)


KERNELS = decay_mask(ALL_BUT_KERNELS)


def excluded_from_decay(params: Any, exclude: str = ALL_BUT_KERNELS) -> list[str]:
    """Paths such as "encoder/stem_norm/scale" of the leaves that skip weight decay and adaptation."""
    leaves = jax.tree_util.tree_leaves_with_path(decay_mask(exclude)(params))
    return [path_name(path) for path, decays in leaves if not decays]


def check_exclude(exclude: str, params: Any) -> None:
    """Raises ValueError for a part of paths that no parameter, an array or its shape, has in its path."""
    paths = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    for part in parts_of(exclude):
        if not any(part in path for path in paths):
            raise ValueError(
                f"config.optimizer.exclude: no parameter has {part!r} in its path; paths are like {paths[-1]}; or give "
                f"{ALL_BUT_KERNELS} or {NOTHING}"
            )
