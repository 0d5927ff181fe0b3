"""The stem's max-pool, with a gradient that sums what is there and scatters nothing.

XLA's GPU compiler makes of lax's gradient a window reduction of float32 values and int32 places, and a scatter whose
additions meet in any order. Here the forward pass keeps in one byte which entry of its window each maximum is, and each
input receives in one pass from those of its windows that point to it, always in the same order. TPUs have a form of
their own for lax's gradient, and keep it.
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
    return _plain(x, padding)


def _plain(x, padding):
    return nn.max_pool(x, (SIDE, SIDE), strides=(STRIDE, STRIDE), padding=padding)


def _forward(x, padding):
    """Residuals are both forms'; the compiler drops what the form of its platform does not use."""

    def on_tpu(x):
        y = _plain(x, padding)
        return y, jnp.zeros(y.shape, jnp.uint8)

    elsewhere = functools.partial(maxima_and_places, padding=padding)
    y, place = lax.platform_dependent(x, tpu=on_tpu, default=elsewhere)
    return y, (x, place)


def _backward(padding, residuals, gradient):
    def on_tpu(x, place, gradient):
        return jax.vjp(functools.partial(_plain, padding=padding), x)[1](gradient)[0]

    def elsewhere(x, place, gradient):
        return gradient_by_places(place, gradient, x.shape[1:3], padding)

    return (lax.platform_dependent(*residuals, gradient, tpu=on_tpu, default=elsewhere),)


max_pool.defvjp(_forward, _backward)


def maxima_and_places(x: jax.Array, padding: Any) -> tuple[jax.Array, jax.Array]:
    """Returns the maxima, and which entry of its window, 0 to 8, each of them is, uint8."""
    around = _around(x.shape[1:3], padding)
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
    return y, place


def gradient_by_places(place: jax.Array, gradient: jax.Array, sides: tuple[int, int], padding: Any) -> jax.Array:
    """Returns the gradient of an input of these sides: of each place the gradients that it is the source of."""
    around = _around(sides, padding)
    zero, total = jnp.zeros((), jnp.float32), 0.0
    for index, taps in enumerate(itertools.product(range(SIDE), range(SIDE))):
        given = jnp.where(place == index, gradient.astype(jnp.float32), zero)
        moves = [(0, 0, 0)]
        for tap, length, windows, (before, _) in zip(taps, sides, place.shape[1:3], around, strict=True):
            start = tap - before
            moves.append((start, length - start - STRIDE * (windows - 1) - 1, STRIDE - 1))
        total += lax.pad(given, zero, [*moves, (0, 0, 0)])
    return total.astype(gradient.dtype)


def _around(sides, padding):
    """Rows and columns of padding, ((before, after), (before, after))."""
    if isinstance(padding, str):
        return tuple(lax.padtype_to_pads(sides, (SIDE, SIDE), (STRIDE, STRIDE), padding))
    return tuple(padding)
