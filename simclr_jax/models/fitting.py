"""Weights of one encoder in the shapes of another that differs in the size or the channels of its images alone."""

import math

import jax.numpy as jnp
import numpy as np

from simclr_jax.models.vit import resized_positions

_POSITIONS = "params/encoder/stem_positions"
_FIRST_KERNELS = ("params/encoder/stem_conv/kernel", "params/encoder/stem_conv1/kernel")  # the second is of a SK stem


def adapted(path: str, array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Returns an array of an encoder in another shape, or itself where it has that shape or cannot have it.

    A ViT's learned positions are resized to another grid of patches, and the first layer's kernel is made for another
    number of channels; nothing else has another shape and the same meaning.

    Args:
      path: "params/encoder/stem_conv/kernel".
      array: of the source.
      shape: that the network needs.
    """
    if array.shape == shape or array.ndim != len(shape):
        return array
    if path == _POSITIONS and array.shape[2] == shape[2]:  # [1, 1 + patches, width]
        old, new = (math.isqrt(max(0, tokens - 1)) for tokens in (array.shape[1], shape[1]))
        if old > 0 < new and (1 + old**2, 1 + new**2) == (array.shape[1], shape[1]):
            return np.asarray(resized_positions(jnp.asarray(array), new, new))
    if path in _FIRST_KERNELS and (*array.shape[:2], array.shape[3]) == (*shape[:2], shape[3]):
        return with_channels(array, shape[2])
    return array


def with_channels(kernel: np.ndarray, channels: int) -> np.ndarray:
    """Returns the kernel of a first layer for images of another number of channels, by timm's rule.

    One channel gets the sum over all of them, as a grey image gives in a colour one. Of several, each gets one after
    the other, again from the first, times old / new number: a layer's outputs then stay about as large.

    Args:
      kernel: `[rows, columns, channels, outputs]`.
      channels: of the new images.

    Reference:
      `adapt_input_conv` in timm.
    """
    old = kernel.shape[2]
    if channels == old:
        return kernel
    if channels == 1:
        return kernel.sum(axis=2, keepdims=True)
    return kernel[:, :, np.arange(channels) % old] * np.float32(old / channels)
