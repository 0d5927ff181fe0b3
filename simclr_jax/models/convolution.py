"""A convolution whose gradients a CPU computes quickly.

XLA's CPU compiler hands a convolution to its fast kernels if batch comes first and channels last. It brings others to
that order, but not inside loops, and jax's gradients are convolutions in another order: there they took 25 times as
long. Here the same gradients are written in that order.

The kernel's gradient needs both of its operands transposed. It is the sum of those of groups of images, small enough to
be transposed in a cache: transposing the whole batch took longer than the convolution.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

_ORDER = ("NHWC", "HWIO", "NHWC")
_CACHE = 2**21  # bytes
_LEAST = 8  # images of a group, if they divide the batch: fewer make slow convolutions


def conv_general_dilated(x: jax.Array, kernel: jax.Array, strides: Any, padding: Any, **others: Any) -> jax.Array:
    """What flax's Conv takes in the place of lax's, for square kernels, one stride and symmetric padding.

    Elsewhere than on a CPU it is lax's.
    """
    if jax.default_backend() != "cpu":
        return lax.conv_general_dilated(x, kernel, strides, padding, **others)
    return convolve(x, kernel, strides[0], padding[0][0])


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def convolve(x: jax.Array, kernel: jax.Array, stride: int, pad: int) -> jax.Array:
    """Returns [B, H', W', O] of x [B, H, W, I] and a kernel [k, k, I, O], x padded by zeros on all four sides."""
    return _in_order(x, kernel, (stride, stride), [(pad, pad)] * 2)


def _forward(x, kernel, stride, pad):
    return convolve(x, kernel, stride, pad), (x, kernel)


def _backward(stride, pad, residuals, gradient):
    x, kernel = residuals
    return _of_input(x, kernel, gradient, stride, pad), _of_kernel(x, kernel, gradient, stride, pad)


def _of_input(x, kernel, gradient, stride, pad):
    k = len(kernel)
    flipped = kernel[::-1, ::-1].swapaxes(2, 3)
    around = [(k - 1 - pad, k - 1 - pad + rest) for rest in _unreached(x, k, gradient, stride, pad)]
    return _in_order(gradient, flipped, (1, 1), around, lhs_dilation=(stride, stride))


def _of_kernel(x, kernel, gradient, stride, pad):
    k, size = len(kernel), _group(x)
    if k == 1:
        x, of_images, size = x[:, ::stride, ::stride], _product, 1
    else:
        around = [(pad, pad - rest) for rest in _unreached(x, k, gradient, stride, pad)]
        of_images = functools.partial(_correlation, around=around, stride=stride)

    def add(index, total):
        return total + of_images(*(lax.dynamic_slice_in_dim(a, index * size, size) for a in (x, gradient)))

    return lax.fori_loop(0, len(x) // size, add, jnp.zeros(kernel.shape, jnp.float32)).astype(kernel.dtype)


def _group(x):
    """Images of a group: as many as divide the batch and fit."""
    fit = max(_LEAST, _CACHE // (x.itemsize * x[0].size))
    return max(size for size in range(1, min(fit, len(x)) + 1) if len(x) % size == 0)


def _product(x, gradient):
    """[1, H, W, I], [1, H, W, O] → [1, 1, I, O]."""
    x, gradient = (a.reshape(-1, a.shape[-1]) for a in (x, gradient))
    return jnp.matmul(x.T, gradient, preferred_element_type=jnp.float32)[None, None]


def _correlation(x, gradient, around, stride):
    """[n, H, W, I], [n, H', W', O] → [k, k, I, O], as a convolution: channels as batch, batch as channels."""
    x, gradient = x.transpose(3, 1, 2, 0), gradient.transpose(1, 2, 0, 3)
    result = _in_order(x, gradient, (1, 1), around, rhs_dilation=(stride, stride), preferred_element_type=jnp.float32)
    return result.transpose(1, 2, 0, 3)


def _unreached(x, k, gradient, stride, pad):
    """Rows and columns at the end, padding included, that the last stride does not reach."""
    return [x.shape[i] + 2 * pad - k - (gradient.shape[i] - 1) * stride for i in (1, 2)]


def _in_order(x, kernel, strides, padding, **others):
    return lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=_ORDER, **others)


convolve.defvjp(_forward, _backward)
