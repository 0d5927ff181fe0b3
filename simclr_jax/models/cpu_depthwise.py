"""Depthwise convolutions that are quick on the platform they are compiled for: each channel with a kernel of its own.

Elsewhere than on a CPU they are lax's. XLA's CPU compiler has no fast kernel for groups of channels: 7×7 took 14 to 60
times as long as the sum of 49 products written here, which it makes one loop of. Of the gradients, dgrad (the input's)
is the same sum with the kernel turned round. wgrad, the kernel's, adds the products of all images first and their
pixels afterwards: sums over a leading axis are additions of whole rows, the others are not.
"""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax


def conv_general_dilated(x: jax.Array, kernel: jax.Array, *_: Any, **__: Any) -> jax.Array:
    """What flax's Conv takes in the place of lax's, for stride 1 and as many zeros around x as keep its size."""
    return depthwise(x, kernel)


@jax.custom_vjp
def depthwise(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Returns [B, H, W, C] of x [B, H, W, C] and a kernel [k, k, 1, C], k odd, with zeros around x."""
    return lax.platform_dependent(x, kernel, cpu=_sum_of_taps, default=_plain)


def _backward(residuals, gradient):
    def on_cpu(x, kernel, gradient):
        return _sum_of_taps(gradient, kernel[::-1, ::-1]), _wgrad(x, kernel, gradient)

    def elsewhere(x, kernel, gradient):
        return jax.vjp(_plain, x, kernel)[1](gradient)

    return lax.platform_dependent(*residuals, gradient, cpu=on_cpu, default=elsewhere)


depthwise.defvjp(lambda x, kernel: (depthwise(x, kernel), (x, kernel)), _backward)


def _plain(x, kernel):
    order = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=order, feature_group_count=x.shape[-1])


def _sum_of_taps(x, kernel):
    """In float32 whatever the type, as XLA's convolutions are."""
    side, (height, width), taps = len(kernel), x.shape[1:3], kernel.astype(jnp.float32)[:, :, 0]
    around = _with_zeros(x.astype(jnp.float32), side)
    places = itertools.product(range(side), repeat=2)
    return sum(around[:, i : i + height, j : j + width] * taps[i, j] for i, j in places).astype(x.dtype)


def _wgrad(x, kernel, gradient):
    side, (height, width) = len(kernel), x.shape[1:3]
    images, gradient = _with_zeros(x.astype(jnp.float32), side), gradient.astype(jnp.float32)

    def row(_, i):  # of the kernel; all of its rows at once would take three times as long to compile
        def add(sums, image_and_gradient):
            image, of_image = image_and_gradient
            seen = lax.dynamic_slice_in_dim(image, i, height)
            return tuple(of + seen[:, j : j + width] * of_image for j, of in enumerate(sums)), None

        sums, _ = lax.scan(add, (jnp.zeros(x.shape[1:], jnp.float32),) * side, (images, gradient))
        return None, jnp.stack([of.sum((0, 1)) for of in sums])

    _, found = lax.scan(row, None, jnp.arange(side))
    return found[:, :, None].astype(kernel.dtype)


def _with_zeros(x, side):
    pad = side // 2
    return jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
