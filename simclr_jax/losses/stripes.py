"""Sweeps over a block of similarities, a stripe of rows at a time: log-sum-exps, what gradients need, and metrics.

x and y are blocks of l2-normalised vectors, [m, d] and [k, d]; a stripe is [c, k]. Arguments called `settings` have a
`chunk_size`, the largest c, and a `temperature`. Where x and y are the two views of the same images, row i and column i
are each other's match; `decoupled` settings count it in no log-sum-exp and no pull.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

ENTROPY_EPSILON = 1e-8  # Google's tf2 code; keeps log(0) out of the entropy
_MASKED = -1e30  # instead of -inf, whose difference from itself is not a number


def lse(x: jax.Array, y: jax.Array, settings: Any) -> jax.Array:
    """Returns [m]: each row's log-sum-exp over y."""
    return _sweep(lambda _, x, row: (None, _log_sum_exp(_scores(x, y, settings), 1)), None, x, settings)[1]


def lse_of_both(x: jax.Array, y: jax.Array, settings: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns [n] three times: the rows' log-sum-exps over y, the columns' over x, and the scores of the matches."""

    def visit(columns, x, row):
        scores = _scores(x, y, settings)
        # The last stripe ends in rows of zeros, which must not count among the columns' candidates.
        outside = jnp.where(row < len(y), 0.0, _MASKED)[:, None]
        candidates = jnp.where(_is_match(scores, row), _MASKED, scores) if settings.decoupled else scores
        columns = jnp.logaddexp(columns, _log_sum_exp(candidates + outside, 0))
        return columns, (_log_sum_exp(candidates, 1), _matches(scores, row))

    columns, (rows, match) = _sweep(visit, jnp.full(len(y), _MASKED, x.dtype), x, settings)
    return rows, columns, match


def lse_within(x: jax.Array, settings: Any) -> jax.Array:
    """Returns [n]: each vector's log-sum-exp over all others of the block; very small for one that is alone."""
    circle = _Circle.of(len(x), settings.chunk_size)
    xs = circle.around(x)
    outside = circle.around(jnp.zeros(len(x), x.dtype), fill=_MASKED)

    def visit(lse, index):
        window, mask = circle.window(xs, index), circle.window(outside, index)
        scores = _scores(circle.head(window), window, settings)
        # The stripe's own square holds each of its pairs twice, so that it serves as rows alone; what follows it in the
        # window holds each pair once, which serves the stripe as rows and the others as columns.
        rows = _log_sum_exp(jnp.where(circle.itself, _MASKED, scores + mask), 1)
        columns = _log_sum_exp(circle.tail(scores, 1) + circle.head(mask)[:, None], 0)
        found = jnp.concatenate([rows, columns])
        return circle.put(lse, jnp.logaddexp(circle.window(lse, index), found), index), None

    lse, _ = lax.scan(visit, jnp.full_like(outside, _MASKED), jnp.arange(circle.stripes))
    return circle.fold(lse, jnp.logaddexp)[: len(x)]


def pull(one: tuple, other: tuple, settings: Any) -> jax.Array:
    """Returns [m, d]: how the vectors of one block are pulled by those of another, as anchors and as candidates.

    Args:
      one, other: a block's vectors [m, d], and their log-sum-exps over all candidates and weights as anchors, [m].
      settings: see above.
    """
    y, lse_y, weight_y = other

    def visit(_, rows, row):
        x, lse_x, weight_x = rows
        scores = _scores(x, y, settings)
        weights = weight_x[:, None] * jnp.exp(scores - lse_x[:, None]) + weight_y * jnp.exp(scores - lse_y)
        return None, _product(weights, y)

    return _sweep(visit, None, one, settings)[1]


def pull_of_both(
    x: jax.Array, lse_x: jax.Array, y: jax.Array, lse_y: jax.Array, settings: Any
) -> tuple[jax.Array, jax.Array]:
    """Returns [n, d] twice: `pull` of x by y and of y by x at weight 1, from one sweep."""

    def visit(dy, rows, row):
        x, lse_x = rows
        scores = _scores(x, y, settings)
        weights = jnp.exp(scores - lse_x[:, None]) + jnp.exp(scores - lse_y)
        weights = jnp.where((row < len(y))[:, None], weights, 0.0)
        if settings.decoupled:
            weights = jnp.where(_is_match(scores, row), 0.0, weights)
        return dy + _product(weights.T, x), _product(weights, y)

    dy, dx = _sweep(visit, jnp.zeros_like(y), (x, lse_x), settings)
    return dx, dy


def pull_within(x: jax.Array, lse: jax.Array, settings: Any) -> jax.Array:
    """Returns [n, d]: `pull` of each vector by all others of its block at weight 1."""
    circle = _Circle.of(len(x), settings.chunk_size)
    xs, lses = circle.around(x), circle.around(lse, fill=-_MASKED)  # exp(score - lse) is 0 outside

    def visit(dx, index):
        window, lse_of_window = circle.window(xs, index), circle.window(lses, index)
        scores = _scores(circle.head(window), window, settings)
        weights = jnp.exp(scores - circle.head(lse_of_window)[:, None]) + jnp.exp(scores - lse_of_window)
        weights = jnp.where(circle.itself, 0.0, weights)
        found = [_product(weights, window), _product(circle.tail(weights, 1).T, circle.head(window))]
        return circle.put(dx, circle.window(dx, index) + jnp.concatenate(found), index), None

    dx, _ = lax.scan(visit, jnp.zeros_like(xs), jnp.arange(circle.stripes))
    return circle.fold(dx, jnp.add)[: len(x)]


def look_across(
    x: jax.Array, lse: jax.Array, y: jax.Array, settings: Any, *, match: jax.Array | None = None, earlier: Any = None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns [n] three times: y's part of each row's entropy, whether one of y is chosen before the match, the match.

    As by argmax, the first of equals is chosen: where all vectors are the same, only the very first match is found.

    Args:
      x: first views.
      lse: their log-sum-exps over the second views of all devices.
      y: second views; without ``match``, those of the same images.
      settings: see above.
      match: the scores of the matches, where y does not hold them.
      earlier: which of y then precede the match among all candidates, bool [k].
    """

    def visit(_, rows, row):
        x, lse, match_of_rows = rows
        scores, column = _scores(x, y, settings), jnp.arange(len(y))
        if match is None:
            match_of_rows = _matches(scores, row)
            before, other = column < row[:, None], column != row[:, None]
        else:
            before, other = earlier, True
        chosen = other & jnp.where(before, scores >= match_of_rows[:, None], scores > match_of_rows[:, None])
        p = jnp.exp(scores - lse[:, None])
        return None, (-jnp.sum(p * jnp.log(p + ENTROPY_EPSILON), 1), jnp.any(chosen, 1), match_of_rows)

    return _sweep(visit, None, (x, lse, lse if match is None else match), settings)[1]


def _scores(x, y, settings):
    x = x / settings.temperature
    return lax.dot_general(x, y, (((1,), (1,)), ((), ())), precision=lax.Precision.HIGHEST)


def _product(a, b):
    return jnp.dot(a, b, precision=lax.Precision.HIGHEST)


def _log_sum_exp(scores, axis):
    highest = jnp.max(scores, axis=axis, keepdims=True)
    return jnp.log(jnp.sum(jnp.exp(scores - highest), axis=axis)) + jnp.squeeze(highest, axis)


def _matches(scores, row):
    column = jnp.minimum(row, scores.shape[1] - 1)[:, None]  # rows outside find anything
    return jnp.take_along_axis(scores, column, axis=1)[:, 0]


def _is_match(scores, row):
    return jnp.arange(scores.shape[1]) == row[:, None]


def _sweep(visit: Callable, carry: Any, rows: Any, settings: Any) -> tuple[Any, Any]:
    """Folds ``visit(carry, stripe of rows, their numbers) -> carry, values [c, …]`` over arrays [m, …].

    The last stripe may end in rows of zeros, numbered from m on, whose values are cut off.
    """
    m = len(jax.tree.leaves(rows)[0])
    stripes = -(-m // settings.chunk_size)
    c = -(-m // stripes)
    cut = jax.tree.map(lambda x: _pad(x, stripes * c).reshape(stripes, c, *x.shape[1:]), rows)
    carry, values = lax.scan(
        lambda carry, stripe: visit(carry, *stripe), carry, (cut, jnp.arange(stripes * c).reshape(stripes, c))
    )
    return carry, jax.tree.map(lambda x: x.reshape(stripes * c, *x.shape[2:])[:m], values)


def _pad(x, length, fill=0.0):
    return jnp.pad(x, [(0, length - len(x)), *[(0, 0)] * (x.ndim - 1)], constant_values=fill)


class _Circle(NamedTuple):
    """An odd number of stripes in a circle, each of which faces itself and the half that follows: its window.

    So every two different stripes meet once, and a stripe meets itself. Of three stripes, 0 faces 0 and 1, 1 faces 1
    and 2, 2 faces 2 and 0: all pairs of a symmetric matrix in little more than half of its entries, in pieces of one
    shape, as a loop that is compiled once needs them.
    """

    stripes: int
    c: int

    @classmethod
    def of(cls, n: int, chunk_size: int) -> "_Circle":
        stripes = -(-n // chunk_size) // 2 * 2 + 1
        return cls(stripes, -(-n // stripes))

    @property
    def width(self) -> int:
        return (self.stripes // 2 + 1) * self.c

    @property
    def itself(self) -> jax.Array:
        return jnp.eye(self.c, self.width, dtype=bool)

    def around(self, x, fill=0.0):
        """The circle and, after its end, its first half again, so that each window is one piece."""
        circle = _pad(x, self.stripes * self.c, fill)
        return jnp.concatenate([circle, circle[: self.width - self.c]])

    def fold(self, x, combine):
        """Undoes `around`: what lies after the end joins the beginning."""
        circle, after = x[: self.stripes * self.c], x[self.stripes * self.c :]
        return jnp.concatenate([combine(circle[: len(after)], after), circle[len(after) :]])

    def window(self, x, index):
        return lax.dynamic_slice_in_dim(x, index * self.c, self.width)

    def put(self, x, window, index):
        return lax.dynamic_update_slice_in_dim(x, window, index * self.c, axis=0)

    def head(self, window):
        return window[: self.c]

    def tail(self, window, axis):
        return lax.slice_in_dim(window, self.c, None, axis=axis)
