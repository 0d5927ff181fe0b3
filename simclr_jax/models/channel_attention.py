"""Layers that weigh channels by the image as a whole: selective kernels, and squeeze and excitation.

Both receive `conv` as the blocks of :mod:`simclr_jax.models.resnet` do.
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

_STREAMS = 2


def kernel_squeezed(filters: int, sk_ratio: float) -> int:
    """Returns the channels that decide on the streams of a selective kernel; 32 at least, as in SimCLR's code."""
    return max(int(filters * sk_ratio), 32)


def excitation_squeezed(filters: int, se_ratio: float) -> int:
    """Returns the channels that decide on a block's channels."""
    return max(int(filters * se_ratio), 1)


class SelectiveKernel(nn.Module):
    """Two streams of 3×3 convolution, mixed per image and channel by weights that add up to 1.

    Attributes:
      filters: channels of each stream and of the result.
      stride: of the convolution.
      sk_ratio: of the filters, see `kernel_squeezed`.
      conv, norm: as a block has them.

    Reference:
      Li et al. 2019, "Selective Kernel Networks"; both streams with 3×3 kernels as in Chen et al. 2020b, section 3.2.
    """

    filters: int
    stride: int
    sk_ratio: float
    conv: Callable
    norm: Callable

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`[B, H, W, C]` to `[B, H / stride, W / stride, filters]`."""
        both = self.conv(_STREAMS * self.filters, 3, self.stride, name="conv")(x)
        both = nn.relu(self.norm(name="norm")(both))
        streams = both.reshape(*both.shape[:-1], _STREAMS, self.filters)
        channels = kernel_squeezed(self.filters, self.sk_ratio)
        squeeze = self.conv(channels, 1, 1, name="squeeze")(_pixels_mean(streams.sum(-2)))
        squeeze = nn.relu(self.norm(name="squeeze_norm")(squeeze))
        mixing = self.conv(_STREAMS * self.filters, 1, 1, name="mixing")(squeeze)
        weights = nn.softmax(mixing.reshape(*mixing.shape[:-1], _STREAMS, self.filters), axis=-2)
        return (streams * weights).sum(-2)


class SqueezeExcitation(nn.Module):
    """Each channel times a factor from 0 to 1 that all channels of the image decide on.

    Attributes:
      filters: of the block.
      se_ratio: of the filters, see `excitation_squeezed`.
      conv: as a block has it.

    Reference:
      Hu et al. 2017, "Squeeze-and-Excitation Networks".
    """

    filters: int
    se_ratio: float
    conv: Callable

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`[B, H, W, C]` to the same shape."""
        channels = excitation_squeezed(self.filters, self.se_ratio)
        y = nn.relu(self.conv(channels, 1, 1, use_bias=True, name="squeeze")(_pixels_mean(x)))
        return x * nn.sigmoid(self.conv(x.shape[-1], 1, 1, use_bias=True, name="excite")(y))


def _pixels_mean(x):
    """The mean over the pixels, `[B, 1, 1, C]`: in float32, as of the representation."""
    return jnp.mean(x, axis=(1, 2), keepdims=True, dtype=jnp.float32)
