"""3×3 convolutions with fewer products: Winograd's F(2×2, 3×3) (Lavin and Gray 2015, arXiv 1509.09308, section 4.1).

A tile d of 4×4 inputs and a kernel g give 2×2 outputs, Y = Aᵀ [(G g Gᵀ) ⊙ (Bᵀ d B)] A, with

         1  0 -1  0          1   0   0
    Bᵀ = 0  1  1  0      G = ½   ½   ½      Aᵀ = 1  1  1  0
         0 -1  1  0          ½  -½   ½           0  1 -1 -1
         0  1  0 -1          0   0   1

Four outputs take 16 products a pair of channels in the place of 36: ⊙ becomes 16 matrix products over the channels of
all tiles. Bᵀ and Aᵀ only add, so that in float32 the result is that of the plain convolution but for the order of
rounding. All of it is written for a group of images small enough to stay in a CPU's cache between the transforms and
the products; a `Grid` holds the 16 places of all tiles as separate arrays, because a slice of each is contiguous then.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import lax

Grid = list[list[jax.Array]]  # 4 × 4 arrays


def of_kernel(kernel: jax.Array) -> Grid:
    """[3, 3, I, O] → 4 × 4 arrays [I, O], for :func:`convolve`."""
    return [_of_taps(row) for row in zip(*(_of_taps(column) for column in kernel.swapaxes(0, 1)), strict=True)]


def convolve(x: jax.Array, transformed: Grid) -> jax.Array:
    """Returns [n, H, W, O] of x [n, H, W, I], of even sides and padded by a zero all round, and `of_kernel`'s."""
    tiles = _both(_of_image, _padded(x))
    products = [list(map(product, *rows)) for rows in zip(tiles, transformed, strict=True)]
    rows = zip(*(_of_products(row) for row in products), strict=True)  # along the width, then along the height
    left, right = (_of_products(column) for column in rows)
    top, bottom = (jnp.stack(pair, 3) for pair in zip(left, right, strict=True))
    n, h, w, _, outputs = top.shape
    return jnp.stack([top, bottom], 2).reshape(n, 2 * h, 2 * w, outputs)


def of_flipped(transformed: Grid) -> Grid:
    """Returns `of_kernel` of the kernel of dgrad, turned round and with its channels swapped, from `of_kernel`'s.

    Turning a kernel round swaps its outer taps, and with them the first and the last row of G g; the sums in between
    stay. So the transform of one is a permutation of that of the other, and is not computed twice.
    """
    ends_swapped = (3, 1, 2, 0)
    return [[transformed[row][column].T for column in ends_swapped] for row in ends_swapped]


def correlate(x: jax.Array, gradient: jax.Array) -> list[jax.Array]:
    """Returns 4 arrays [3 I, O], wgrad before `to_kernel`, of x [n, H, W, I] and the gradient [n, H, W, O].

    F(2, 3) along the height alone: three taps of the width make a larger product of each transform, which is quicker.
    So is a product that sums over the columns of its left side and the rows of its right one.
    """
    x, gradient = x.transpose(3, 1, 2, 0), gradient.transpose(1, 2, 0, 3)
    rows = _of_image(_padded(x), 1)
    width = gradient.shape[1]
    seen = (jnp.concatenate([lax.slice_in_dim(row, tap, tap + width, 1, 2) for tap in range(3)]) for row in rows)
    pairs = zip(seen, _of_gradient(gradient, 0), strict=True)
    return [taps.reshape(len(taps), -1) @ given.reshape(-1, given.shape[-1]) for taps, given in pairs]


def to_kernel(correlated: list[jax.Array]) -> jax.Array:
    """Returns the gradient of the kernel, [3, 3, I, O], of the sum of what `correlate` gives of each group."""
    rows = jnp.stack(_to_taps(correlated))
    return rows.reshape(3, 3, -1, rows.shape[-1])


def product(x: jax.Array, matrix: jax.Array) -> jax.Array:
    """[n, h, w, I], [I, O] → [n, h, w, O], as a product of two matrices: other shapes are slower."""
    return (x.reshape(-1, x.shape[-1]) @ matrix).reshape(*x.shape[:-1], -1)


def _both(transform: Callable, x: jax.Array) -> Grid:
    """Transforms along the height and then along the width: arrays with one entry a tile."""
    return [transform(row, 2) for row in transform(x, 1)]


def _of_taps(taps: Sequence[jax.Array]) -> list[jax.Array]:
    """G."""
    a, b, c = taps
    return [a, (a + c + b) / 2, (a + c - b) / 2, c]


def _to_taps(values: Sequence[jax.Array]) -> list[jax.Array]:
    """Gᵀ, and the sign that `_of_gradient` leaves out."""
    a, b, c, d = values
    return [a + (b + c) / 2, (b - c) / 2, (b + c) / 2 - d]


def _of_image(x: jax.Array, axis: int) -> list[jax.Array]:
    """Bᵀ of the tiles of 4 that begin at every other row."""
    last = x.shape[axis] - 3
    a, b, c, d = (lax.slice_in_dim(x, start, start + last, 2, axis) for start in range(4))
    return [a - c, b + c, c - b, b - d]


def _of_gradient(gradient: jax.Array, axis: int) -> list[jax.Array]:
    """A of the tiles of 2, but for the sign of the last, which would be a pass over all of it."""
    even, odd = (lax.slice_in_dim(gradient, start, None, 2, axis) for start in range(2))
    return [even, even + odd, even - odd, odd]


def _of_products(products: Sequence[jax.Array]) -> tuple[jax.Array, jax.Array]:
    """Aᵀ."""
    a, b, c, d = products
    return a + b + c, b - c - d


def _padded(x: jax.Array) -> jax.Array:
    """Zeros all round the two axes in the middle."""
    return jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
