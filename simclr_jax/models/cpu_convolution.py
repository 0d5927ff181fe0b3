"""Convolutions whose values and gradients are written in the form that is quick on the platform they are compiled for.

Elsewhere than on a CPU that form is lax's. XLA's CPU compiler hands a convolution to its fast kernels if batch comes
first and channels last. It brings others to that order, but not inside loops, and jax's gradients are convolutions in
another order: there they took 25 times as long. So on a CPU they are written in that order, or as matrix products of
groups of images, small enough to stay in a cache from one operation to the next:

- 1×1 kernels as matrix products, 3×3 kernels at a stride by im2col (a matrix of all that an output sees, times the
  kernel), and other 3×3 kernels of many channels by :mod:`cpu_winograd`;
- kernels of more taps than the image has pixels as a product for each tap that sees a pixel: XLA would let image and
  kernel change places, into a form that it has no fast one for, and 2×2 pixels took 30 times as long as 3×3;
- dgrad, the input's gradient, at a stride as one product of the gradient with all of the kernel, whose parts are then
  added where they belong (col2im): XLA's convolution would multiply the zeros between them;
- wgrad, the kernel's gradient, as the sum of the groups', which are transposed in the cache.

The platform is the one that a program is lowered for, which need not be that of the machine that lowers it: with a
CPU's forms XLA's GPU compiler aborts.
"""

import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from simclr_jax.models import cpu_winograd

_ORDER = ("NHWC", "HWIO", "NHWC")
_CACHE = 2**21  # bytes of a group
_LEAST = 4  # images of a group, if they divide the batch: fewer make slow convolutions
_CHANNELS = (64, 512)  # for which Winograd's form was quicker: below, transforms outweigh products


def conv_general_dilated(x: jax.Array, kernel: jax.Array, strides: Any, padding: Any, **_: Any) -> jax.Array:
    """What flax's Conv takes in the place of lax's, for square kernels, one stride and symmetric padding."""
    return convolve(x, kernel, strides[0], padding[0][0])


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def convolve(x: jax.Array, kernel: jax.Array, stride: int, pad: int) -> jax.Array:
    """Returns [B, H', W', O] of x [B, H, W, I] and a kernel [k, k, I, O], x padded by zeros on all four sides.

    Where nothing is differentiated it is lax's, but for tiny images on a CPU: of any number of images, on any device
    that a program is exported for.
    """
    if not _is_tiny(x, kernel):
        return _plain(x, kernel, stride, pad)
    forms = {"cpu": functools.partial(_tiny, stride=stride, pad=pad)}
    return lax.platform_dependent(x, kernel, default=functools.partial(_plain, stride=stride, pad=pad), **forms)


def _forward(x, kernel, stride, pad):
    def on_cpu(x, kernel):
        if len(kernel) == 1:
            return _pointwise(x, kernel, stride)
        if _is_tiny(x, kernel):
            return _tiny(x, kernel, stride, pad)
        if _suits_im2col(x, kernel, stride):
            matrix = kernel.reshape(-1, kernel.shape[-1])
            return _in_groups(lambda part: cpu_winograd.product(_im2col(part, len(kernel), stride, pad), matrix), x)
        if _suits_winograd(x, kernel, stride, pad):
            return _winograd(x, cpu_winograd.of_kernel(kernel))
        return _plain(x, kernel, stride, pad)

    elsewhere = functools.partial(_plain, stride=stride, pad=pad)
    return lax.platform_dependent(x, kernel, cpu=on_cpu, default=elsewhere), (x, kernel)


def _backward(stride, pad, residuals, gradient):
    def on_cpu(x, kernel, gradient):
        if len(kernel) == 1:
            return jax.vjp(functools.partial(_pointwise, stride=stride), x, kernel)[1](gradient)
        return _dgrad(x, kernel, gradient, stride, pad), _wgrad(x, kernel, gradient, stride, pad)

    def elsewhere(x, kernel, gradient):
        return jax.vjp(functools.partial(_plain, stride=stride, pad=pad), x, kernel)[1](gradient)

    return lax.platform_dependent(*residuals, gradient, cpu=on_cpu, default=elsewhere)


def _plain(x, kernel, stride, pad):
    return _in_order(x, kernel, (stride, stride), [(pad, pad)] * 2)


def _pointwise(x, kernel, stride):
    """A 1×1 convolution, x not padded."""
    return cpu_winograd.product(x[:, ::stride, ::stride], kernel[0, 0])


def _tiny(x, kernel, stride, pad):
    """The sum, over the taps of the kernel, of products of the pixels that a tap sees and its matrix, in float32."""
    (n, *sides, inputs), outputs = x.shape, kernel.shape[-1]
    places = [(side + 2 * pad - len(kernel)) // stride + 1 for side in sides]
    total = jnp.zeros((n, *places, outputs), jnp.float32)
    for (a, rows), (b, columns) in itertools.product(*(_taps(side, kernel, stride, pad) for side in sides)):
        i, j = (of.start * stride + tap - pad for of, tap in ((rows, a), (columns, b)))
        ends = (of[-1] * stride + tap - pad + 1 for of, tap in ((rows, a), (columns, b)))
        seen = lax.slice(x, (0, i, j, 0), (n, *ends, inputs), (1, stride, stride, 1))
        found = jnp.matmul(seen.reshape(-1, inputs), kernel[a, b], preferred_element_type=jnp.float32)
        around = [(of.start, places_of - of.stop) for of, places_of in zip((rows, columns), places, strict=True)]
        total += jnp.pad(found.reshape(n, len(rows), len(columns), outputs), ((0, 0), *around, (0, 0)))
    return total.astype(x.dtype)


def _taps(side, kernel, stride, pad):
    """[(tap, the places of the output at which it sees a pixel)], without taps that see the padding alone."""
    k, last = len(kernel), (side + 2 * pad - len(kernel)) // stride
    starts = (tap - pad for tap in range(k))  # where a tap is at the first place, counted from the first pixel
    seen = [range(max(0, -(start // stride)), min(last, (side - 1 - start) // stride) + 1) for start in starts]
    return [(tap, places) for tap, places in enumerate(seen) if places]


def _winograd(x, transformed):
    return _in_groups(lambda part: cpu_winograd.convolve(part, transformed), x)


def _im2col(x, k, stride, pad, taps=None):
    """[n, H, W, I] → [n, H', W', k k I], beside each other what one output is made of; or of some rows and columns."""
    x = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    rows, columns = ((side - k) // stride * stride + 1 for side in x.shape[1:3])
    n, _, _, inputs = x.shape
    seen = [
        lax.slice(x, (0, i, j, 0), (n, i + rows, j + columns, inputs), (1, stride, stride, 1))
        for i, j in itertools.product(*(taps or (range(k), range(k))))
    ]
    return jnp.concatenate(seen, -1)


def _dgrad(x, kernel, gradient, stride, pad):
    """The gradient of x: a convolution of the output's gradient with the kernel turned round."""
    k = len(kernel)
    if stride > 1:
        return _in_groups(lambda part: _dgrad_at_a_stride(part, kernel, x.shape[1:3], stride, pad), gradient)
    if _suits_winograd(x, kernel, stride, pad):
        # The turned kernel's transform is a permutation of the kernel's own, which XLA computes once for both passes.
        return _winograd(gradient, cpu_winograd.of_flipped(cpu_winograd.of_kernel(kernel)))
    turned = kernel[::-1, ::-1].swapaxes(2, 3)
    form = _tiny if _is_tiny(gradient, kernel) else _plain
    return form(gradient, turned, 1, k - 1 - pad)


def _dgrad_at_a_stride(gradient, kernel, sides, stride, pad):
    """[n, H', W', O] → [n, H, W, I]: what each entry gives to each of the k × k inputs that it came from.

    As a convolution the gradient would be dilated by stride - 1 zeros, three quarters of it at stride 2. Here one
    product makes all k × k parts of all entries, and col2im adds them up: of the inputs only those whose place modulo
    the stride is that of a tap receive from it, so that each of the stride × stride phases is a sum of shifted parts,
    and the phases are interleaved at the end.
    """
    n, h, w, outputs = gradient.shape
    k, _, inputs, _ = kernel.shape
    to_all = kernel.transpose(3, 0, 1, 2).reshape(outputs, -1)
    given = jnp.matmul(gradient.reshape(-1, outputs), to_all, preferred_element_type=jnp.float32)
    given = given.reshape(n, h, w, k, k, inputs)
    height, width = (-(-side // stride) for side in sides)

    def received(i, j):
        """Of the inputs in row i and column j of each square of stride × stride."""
        total = jnp.zeros((n, height, width, inputs), given.dtype)
        for a in range((i + pad) % stride, k, stride):
            for b in range((j + pad) % stride, k, stride):
                part = _moved(given[:, :, :, a, b], (i + pad - a) // stride, height, 1)
                total += _moved(part, (j + pad - b) // stride, width, 2)
        return total

    squares = [jnp.stack([received(i, j) for j in range(stride)], 3) for i in range(stride)]
    whole = jnp.stack(squares, 2).reshape(n, stride * height, stride * width, inputs)
    return whole[:, : sides[0], : sides[1]].astype(gradient.dtype)


def _moved(x, start, length, axis):
    """x from ``start`` on, zeros where it has ended or not begun."""
    around = [(0, 0, 0)] * x.ndim
    around[axis] = (-start, length + start - x.shape[axis], 0)
    return lax.pad(x, jnp.zeros((), x.dtype), around)


def _wgrad(x, kernel, gradient, stride, pad):
    """The gradient of the kernel: a correlation of x with the output's gradient, summed over the images in float32."""
    k = len(kernel)
    if _suits_winograd(x, kernel, stride, pad):
        return cpu_winograd.to_kernel(_sum_of_groups(cpu_winograd.correlate, x, gradient))

    rows, columns = taps = [range(k)] * 2
    if _is_tiny(x, kernel):
        seen = ([tap for tap, _ in _taps(side, kernel, stride, pad)] for side in x.shape[1:3])
        rows, columns = taps = [range(of[0], of[-1] + 1) for of in seen]

    def by_columns(x, gradient):
        """[n, H, W, I], [n, H', W', O] → [k k I, O]."""
        seen = _im2col(x, k, stride, pad, taps)
        # The barrier keeps XLA from folding the transposition into the product, of a form that it has no fast one for.
        transposed = lax.optimization_barrier(seen.reshape(-1, seen.shape[-1]).T)
        return jnp.matmul(transposed, gradient.reshape(-1, gradient.shape[-1]), preferred_element_type=jnp.float32)

    if _suits_im2col(x, kernel, stride) or _is_tiny(x, kernel):
        found = _sum_of_groups(by_columns, x, gradient).reshape(len(rows), len(columns), *kernel.shape[2:])
        unseen = [(of.start, k - of.stop) for of in (rows, columns)]
        return jnp.pad(found, (*unseen, (0, 0), (0, 0))).astype(kernel.dtype)

    # Rows and columns at the end, padding included, that the last stride does not reach, are cut off.
    unreached = (x.shape[axis] + 2 * pad - k - (gradient.shape[axis] - 1) * stride for axis in (1, 2))
    around = [(pad, pad - rest) for rest in unreached]

    def as_convolution(x, gradient):
        """[n, H, W, I], [n, H', W', O] → [k, k, I, O]: channels take the place of the batch, the batch of channels."""
        x, gradient, dilation = x.transpose(3, 1, 2, 0), gradient.transpose(1, 2, 0, 3), (stride, stride)
        found = _in_order(x, gradient, (1, 1), around, rhs_dilation=dilation, preferred_element_type=jnp.float32)
        return found.transpose(1, 2, 0, 3)

    return _sum_of_groups(as_convolution, x, gradient).astype(kernel.dtype)


def _is_tiny(x, kernel):
    return x.shape[1] * x.shape[2] < kernel.shape[0] * kernel.shape[1]


def _suits_im2col(x, kernel, stride):
    return len(kernel) == 3 and stride > 1 and _is_large(x)


def _suits_winograd(x, kernel, stride, pad):
    (least, most), of_kernel = _CHANNELS, kernel.shape[2:]
    suits = (len(kernel), stride, pad) == (3, 1, 1) and least <= min(of_kernel) and max(of_kernel) <= most
    even = all(side % 2 == 0 for side in x.shape[1:3])
    return suits and even and x.dtype == kernel.dtype == jnp.float32 and _is_large(x)


def _is_large(x):
    """Where x fits into the cache as it is, the plain form was as quick, and compiles sooner."""
    return x.size * x.itemsize > _CACHE


def _group(*of_images):
    """Images of a group: as many as divide the batch and fit; all of them where these would be too few."""
    batch = len(of_images[0])
    fit = max(_LEAST, _CACHE * batch // sum(x.size * x.itemsize for x in of_images))
    size = max(size for size in range(1, min(fit, batch) + 1) if batch % size == 0)
    return size if size >= min(_LEAST, batch) else batch


def _in_groups(of_images: Callable, x: jax.Array) -> jax.Array:
    """Joins what each group of images gives."""
    size = _group(x)
    found = lax.map(of_images, x.reshape(len(x) // size, size, *x.shape[1:]))
    return found.reshape(len(x), *found.shape[2:])


def _sum_of_groups(of_images: Callable, x: jax.Array, gradient: jax.Array) -> Any:
    """Adds what each group of images gives, float32 arrays."""
    size = _group(x, gradient)

    def add(index, total):
        found = of_images(*(lax.dynamic_slice_in_dim(a, index * size, size) for a in (x, gradient)))
        return jax.tree.map(jnp.add, total, found)

    shapes = jax.eval_shape(of_images, x[:size], gradient[:size])
    return lax.fori_loop(0, len(x) // size, add, jax.tree.map(lambda of: jnp.zeros(of.shape, of.dtype), shapes))


def _in_order(x, kernel, strides, padding, **others):
    return lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=_ORDER, **others)


convolve.defvjp(_forward, _backward)
