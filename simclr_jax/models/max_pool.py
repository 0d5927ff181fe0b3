"""The stem's max-pool, with a gradient that sums what is there and scatters nothing.

XLA's GPU compiler makes of lax's gradient a window reduction of float32 values and int32 places, and a scatter whose
additions meet in any order. Here the forward pass keeps in one byte which entry of its window each maximum is, and each
input receives in one pass from those of its windows that point to it, always in the same order.
"""

import functools
import itertools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

SIDE, STRIDE = 3, 2


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def max_pool(x: jax.Array, padding: Any) -> jax.Array:
    """Returns the largest of each 3×3 window, at a stride of 2, of each channel.

    Of equal ones the first, row by row, receives the gradient, as lax has it.

    Args:
      x: `[B, H, W, C]`.
      padding: "SAME", or ((before, after), (before, after)) of rows and columns; what is beyond the edge is no entry.
    """
    return nn.max_pool(x, (SIDE, SIDE), strides=(STRIDE, STRIDE), padding=padding)


def _forward(x, padding):
    around = _around(x, padding)
    padded = lax.pad(x, jnp.array(-jnp.inf, x.dtype), [(0, 0, 0), *((*of, 0) for of in around), (0, 0, 0)])
    sides = [(side - SIDE) // STRIDE + 1 for side in padded.shape[1:3]]
    y = chosen = place = None
    for index, taps in enumerate(itertools.product(range(SIDE), range(SIDE))):
        ends = (tap + STRIDE * (side - 1) + 1 for tap, side in zip(taps, sides, strict=True))
        entry = lax.slice(padded, (0, *taps, 0), (len(x), *ends, x.shape[-1]), (1, STRIDE, STRIDE, 1))
        if y is None:
            y, chosen, place = entry, entry, jnp.zeros(entry.shape, jnp.uint8)
            continue
        stays = chosen >= entry  # as lax chooses: a NaN is taken, and any number instead of it
        chosen, place = jnp.where(stays, chosen, entry), jnp.where(stays, place, jnp.uint8(index))
        y = jnp.maximum(y, entry)
    return y, (place, jnp.zeros((0, *x.shape[1:3]), x.dtype))


def _backward(padding, residuals, gradient):
    place, like = residuals
    around = _around(like, padding)
    zero, total = jnp.zeros((), jnp.float32), 0.0
    for index, taps in enumerate(itertools.product(range(SIDE), range(SIDE))):
        given = jnp.where(place == index, gradient.astype(jnp.float32), zero)
        moves = [(0, 0, 0)]
        for tap, length, windows, (before, _) in zip(taps, like.shape[1:], place.shape[1:3], around, strict=True):
            start = tap - before
            moves.append((start, length - start - STRIDE * (windows - 1) - 1, STRIDE - 1))
        total += lax.pad(given, zero, [*moves, (0, 0, 0)])
    return (total.astype(gradient.dtype),)


max_pool.defvjp(_forward, _backward)


def _around(x, padding):
    """Rows and columns of padding, ((before, after), (before, after))."""
    if isinstance(padding, str):
        return tuple(lax.padtype_to_pads(x.shape[1:3], (SIDE, SIDE), (STRIDE, STRIDE), padding))
    return tuple(padding)
