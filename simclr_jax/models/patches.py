"""The convolution whose stride is its kernel's side: patches that do not overlap, each multiplied by one matrix.

As a matrix product its gradients are products too, and quick everywhere; a convolution's gradient by a strided kernel
is one that XLA has no fast form of on a CPU.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


class PatchProjection(nn.Module):
    """Multiplies every patch of an image by a kernel; parameters have the names and shapes of flax's Conv.

    Attributes:
      features: what each patch becomes, numbers.
      side: of a patch, pixels.
      kernel_init: of the kernel `[side, side, C, features]`.
      dtype: of the computation.
    """

    features: int
    side: int
    kernel_init: nn.initializers.Initializer
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`[B, H, W, C]` to `[B, H // side, W // side, features]`; pixels that fill no whole patch are cut off."""
        channels, side = x.shape[-1], self.side
        kernel = self.param("kernel", self.kernel_init, (side, side, channels, self.features), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        rows, columns = (size // side for size in x.shape[1:3])
        x = x[:, : rows * side, : columns * side].astype(self.dtype)
        x = (
            x.reshape(-1, rows, side, columns, side, channels)
            .swapaxes(2, 3)
            .reshape(-1, rows, columns, side**2 * channels)
        )
        return x @ kernel.reshape(-1, self.features).astype(self.dtype) + bias.astype(self.dtype)
