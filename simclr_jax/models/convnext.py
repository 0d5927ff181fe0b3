"""ConvNeXt: images to representations h, with timm's layers."""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from simclr_jax.models.architectures import ConvNeXtArchitecture
from simclr_jax.models.cpu_depthwise import conv_general_dilated
from simclr_jax.models.images import normalized
from simclr_jax.models.network import Network
from simclr_jax.models.parts import NORM, stopped
from simclr_jax.models.patches import PatchProjection

LAYER_NORM_EPSILON = 1e-6  # timm's
LAYER_SCALE = 1e-6  # that a branch begins with; Liu et al. 2022, table 5
_INIT = nn.initializers.truncated_normal(0.02)  # timm's
_WINDOW = 7  # side of the depthwise kernels


class ConvNeXtBlock(nn.Module):
    """A depthwise convolution, a norm and an MLP of one hidden layer, scaled by channel and beside a shortcut."""

    dense: Callable
    norm: Callable

    @nn.compact
    def __call__(self, x):
        """`[B, H, W, C]` to the same."""
        channels = x.shape[-1]
        y = nn.Conv(
            channels,
            (_WINDOW, _WINDOW),
            feature_group_count=channels,
            kernel_init=_INIT,
            dtype=x.dtype,
            conv_general_dilated=conv_general_dilated,
            name="depthwise",
        )(x)
        y = self.dense(4 * channels, name="fc1")(self.norm(name="norm")(y))
        y = self.dense(channels, name="fc2")(nn.gelu(y, approximate=False))
        scale = self.param("gamma", nn.initializers.constant(LAYER_SCALE), (channels,))
        return x + scale.astype(y.dtype) * y


class ConvNeXt(nn.Module):
    """A ConvNeXt without its classifier.

    Attributes:
      architecture: of `ENCODERS`, or another one.
      network: how it is built; see there for each setting. Its head is not part of this module.
      axis_name: is not used: LayerNorm normalises each pixel by itself.
      frozen: the first of `parts`: they get no gradient.

    Reference:
      Liu et al. 2022, "A ConvNet for the 2020s"; without stochastic depth.
    """

    architecture: ConvNeXtArchitecture
    network: Network
    axis_name: str | None = None
    frozen: tuple[str, ...] = ()

    @property
    def parts(self) -> tuple[str, ...]:
        """What images pass one after another: "stem", "stage1_block1", …, "stage2_down", "stage2_block1", …, "norm"."""
        parts = ["stem"]
        for stage, blocks in enumerate(self.architecture.stage_sizes, start=1):
            parts += [f"stage{stage}_down"] * (stage > 1)
            parts += [f"stage{stage}_block{index}" for index in range(1, blocks + 1)]
        return (*parts, "norm")

    @property
    def feature_dim(self) -> int:
        """Length of a representation h."""
        return self.architecture.widths[-1]

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        """Representations of a batch.

        Args:
          images: `[B, H, W, C]`, float in [0, 1]; pixels that fill no whole patch are not seen.
          train: changes nothing: there is neither BatchNorm nor dropout.

        Returns:
          h, float32 `[B, feature_dim]`.

        Raises:
          ValueError: the images are not float `[B, H, W, C]`, or too small.
        """
        network, dtype = self.network, jnp.dtype(self.network.dtype)
        least = network.patch * self.architecture.least_patches
        if images.ndim == 4 and min(images.shape[1:3]) < least:
            sides = " × ".join(map(str, images.shape[1:3]))
            raise ValueError(f"images of {sides} pixels are too small: stem and stages need at least {least}")
        dense = functools.partial(nn.Dense, kernel_init=_INIT, dtype=dtype)
        norm = functools.partial(nn.LayerNorm, epsilon=LAYER_NORM_EPSILON, use_fast_variance=False)
        norm_here = functools.partial(norm, dtype=dtype)

        def patches(width, side, name):
            return PatchProjection(width, side, _INIT, dtype, name=name)

        block = nn.remat(ConvNeXtBlock) if network.remat else ConvNeXtBlock
        x = normalized(images, network).astype(dtype)
        for stage, (blocks, width) in enumerate(
            zip(self.architecture.stage_sizes, self.architecture.widths, strict=True), start=1
        ):
            if stage == 1:
                x = patches(width, network.patch, "stem_conv")(x)
                x = stopped(norm_here(name="stem_norm")(x), "stem", self.frozen)
            else:
                x = norm_here(name=f"stage{stage}_down_norm")(x)
                x = stopped(patches(width, 2, f"stage{stage}_down_conv")(x), f"stage{stage}_down", self.frozen)
            for index in range(1, blocks + 1):
                name = f"stage{stage}_block{index}"
                x = stopped(block(dense, norm_here, name=name)(x), name, self.frozen)
        # In float32: a bfloat16 sum over the pixels would lose the low bits that the average is made of.
        h = jnp.mean(x.astype(jnp.float32), axis=(1, 2))
        return stopped(norm(dtype=jnp.float32, name=NORM)(h), NORM, self.frozen)
