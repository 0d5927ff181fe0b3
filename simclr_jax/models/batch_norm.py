"""BatchNorm whose gradient is written by hand: what jax finds by itself reads and writes half as much again.

Values, parameters and running statistics are those of flax's BatchNorm. Its gradient sums, over the batch, what each
statistic receives, one sum after another, with the masked gradient written in between. All of them follow from two
sums, of the output's gradient and of its product with the normalised input, which one pass over both arrays takes; a
second pass gives the input's gradient. Both compute in float32 whatever the dtype and round once.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

_CACHED = 2**24  # numbers, in bfloat16 32 MiB, which an L2 cache of 50 MB holds


class BatchNorm(nn.Module):
    """Normalises each channel, the last axis, by its mean and variance over all other axes.

    Attributes:
      use_running_average: normalise by the running statistics, and leave them alone.
      momentum: share of the running statistics that a step keeps.
      epsilon: joins the variance.
      dtype: of the output; parameters and statistics are float32.
      axis_name: mapped axis over whose devices the statistics are taken; None for each device alone.
      use_bias: whether an offset is learned beside the scale.
      scale_init: of the scale.
    """

    use_running_average: bool
    momentum: float
    epsilon: float
    dtype: Any = jnp.float32
    axis_name: str | None = None
    use_bias: bool = True
    scale_init: nn.initializers.Initializer = nn.initializers.ones

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`[..., C]` to the same shape."""
        channels = x.shape[-1:]
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, channels)
        running_variance = self.variable("batch_stats", "var", jnp.ones, channels)
        scale = self.param("scale", self.scale_init, channels)
        bias = self.param("bias", nn.initializers.zeros, channels) if self.use_bias else None
        if self.use_running_average:
            return _normalized(x, running_mean.value, running_variance.value, scale, bias, self.epsilon, self.dtype)
        axis_name = None if self.is_initializing() else self.axis_name
        y, mean, variance = normalize_by_batch(x, scale, bias, self.epsilon, jnp.dtype(self.dtype), axis_name)
        if not self.is_initializing():
            for running, of_batch in ((running_mean, mean), (running_variance, variance)):
                running.value = self.momentum * running.value + (1 - self.momentum) * of_batch
        return y


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def normalize_by_batch(
    x: jax.Array, scale: jax.Array, bias: jax.Array | None, epsilon: float, dtype: Any, axis_name: str | None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns x [..., C] normalised by its statistics, times scale plus bias [C], and mean and variance, float32 [C].

    The statistics carry no gradient of their own. Under a mapped axis the gradient is that of the sum over the devices
    of what each computes, as jax has it.
    """
    return _forward(x, scale, bias, epsilon, dtype, axis_name)[0]


def _forward(x, scale, bias, epsilon, dtype, axis_name):
    wide = x.astype(jnp.float32)
    sums = _sums_of_channels(wide, jnp.square(wide))
    mean, mean_of_squares = _over_devices(axis_name, *(of / (x.size / x.shape[-1]) for of in sums))
    variance = jnp.maximum(0.0, mean_of_squares - jnp.square(mean))  # rounding may leave less than nothing
    y = _normalized(x, mean, variance, scale, bias, epsilon, dtype)
    inverse = lax.rsqrt(variance + epsilon)
    moves = jnp.where(variance > 0, inverse, 0.0)  # a variance that was raised to 0 depends on nothing
    return (y, mean, variance), (x, mean, inverse, inverse * scale, moves, bias)


def _backward(epsilon, dtype, axis_name, residuals, gradients):
    x, mean, inverse, factor, moves, bias = residuals
    gradient, centred = gradients[0].astype(jnp.float32), x.astype(jnp.float32) - mean
    to_bias, to_scale = _sums_of_channels(gradient, gradient * (centred * inverse))
    by_mean, by_variance = _over_devices(axis_name, to_bias, to_scale)
    to_x = (gradient - (by_mean + centred * moves * by_variance) * (x.shape[-1] / x.size)) * factor
    return to_x.astype(x.dtype), to_scale, None if bias is None else to_bias


normalize_by_batch.defvjp(_forward, _backward)


def _normalized(x, mean, variance, scale, bias, epsilon, dtype):
    y = (x.astype(jnp.float32) - mean) * (lax.rsqrt(variance + epsilon) * scale)
    return (y if bias is None else y + bias).astype(dtype)


def _sums_of_channels(a, b):
    """Sums of both over all axes but the last."""
    on_gpu = {"cuda": sums_on_gpu, "rocm": sums_on_gpu}
    return lax.platform_dependent(a, b, **on_gpu, default=sums_elsewhere)


def sums_elsewhere(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the sums of a and of b [..., C] over all axes but the last: of each image, and then of the batch."""
    return _sums_of_rows(*(x.sum(tuple(range(1, x.ndim - 1))) for x in (a, b)))


def sums_on_gpu(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the same, the pair as one complex number where the cache does not hold them.

    Both are made of one array, which is often computed for them, as the gradient behind a join's ReLU is. XLA's cost
    model takes two sums for two readings of it, and so writes it first; the sum of one number is one reading.
    """
    a, b = (x.reshape(-1, x.shape[-1]) for x in (a, b))
    if a.size <= _CACHED:
        return _sums_of_rows(a, b)
    both = lax.complex(a, b).sum(0)
    return both.real, both.imag


def _sums_of_rows(a, b):
    """Of [rows, C], as one sum of pairs, which is one kernel."""
    zero = jnp.zeros((), a.dtype)
    return lax.reduce((a, b), (zero, zero), lambda x, y: (x[0] + y[0], x[1] + y[1]), [0])


def _over_devices(axis_name, *of_channels):
    """Means over the devices, in one message."""
    if axis_name is None:
        return of_channels
    return tuple(lax.pmean(jnp.stack(of_channels), axis_name))
