"""Norms of the arrays of a tree, of all of them at once: one by one they were half of the kernels of a GPU's step.

On a GPU they are laid side by side in rows, none with a part of two; a row is summed first, then the rows of an array.
Nothing is scattered, so that the same bits come out each time. CPUs and TPUs, whose compilers would copy them for it,
take them one by one.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

_ROW = 1024  # numbers; what an array lacks of its last row is filled with zeros
_ARRAYS = 40  # that are laid side by side: XLA's GPU kernels take 96 operands, of two trees that are read together


def norm(tree: Any) -> jax.Array:
    """Returns the Euclidean norm of all numbers of a tree, float32; not finite where one of them is not.

    Nor is it where the sum of the squares is too large for float32, of which a number above 1.8e19 is enough.
    """
    return jnp.sqrt(jnp.square(leaf_norms(tree)).sum())


def leaf_norms(tree: Any) -> jax.Array:
    """Returns the Euclidean norm of each leaf, float32 [leaves]."""
    leaves = jax.tree.leaves(tree)
    on_gpu = {"cuda": squares_side_by_side, "rocm": squares_side_by_side}
    return jnp.sqrt(lax.platform_dependent(*leaves, **on_gpu, default=squares_one_by_one))


def squares_one_by_one(*leaves: jax.Array) -> jax.Array:
    """Returns the sum of squares of each leaf, float32 [leaves], as is quick where a kernel costs nothing to start."""
    return jnp.stack([jnp.square(leaf.astype(jnp.float32)).sum() for leaf in leaves])


def squares_side_by_side(*leaves: jax.Array) -> jax.Array:
    """Returns the sum of squares of each leaf, float32 [leaves], in two kernels for many leaves."""
    groups = [leaves[start : start + _ARRAYS] for start in range(0, len(leaves), _ARRAYS)]
    return jnp.concatenate([_squares_of_group(group) for group in groups])


def _squares_of_group(leaves):
    flat = [leaf.astype(jnp.float32).reshape(-1) for leaf in leaves]
    padded = [jnp.pad(x, (0, -x.size % _ROW)) for x in flat]
    of_rows = jnp.square(jnp.concatenate(padded).reshape(-1, _ROW)).sum(1)
    leaf_of_row = np.repeat(np.arange(len(leaves)), [x.size // _ROW for x in padded])
    belongs = np.arange(len(leaves))[:, None] == leaf_of_row
    return jnp.where(belongs, of_rows, 0.0).sum(1)
