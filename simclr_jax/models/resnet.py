"""ResNet encoders: images to representations h, as in Google's SimCLR code.

Blocks receive their `conv` and `norm` as partials, so that what holds for every convolution or every BatchNorm
(dtype, initialiser, padding, devices) is said once, in `ResNet`. What comes after h belongs to `heads`.
"""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from simclr_jax.models.architectures import ResNetArchitecture
from simclr_jax.models.channel_attention import SelectiveKernel, SqueezeExcitation
from simclr_jax.models.cpu_convolution import conv_general_dilated
from simclr_jax.models.images import normalized
from simclr_jax.models.max_pool import max_pool
from simclr_jax.models.network import POOLS, Network
from simclr_jax.models.norms import norm_layer
from simclr_jax.models.parts import stopped

_CONV_INIT = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")  # as in SimCLR's code


class BasicBlock(nn.Module):
    """Two 3×3 convolutions; the first carries the stride. Of selective kernels it has the shortcut alone."""

    filters: int
    stride: int
    project: bool  # true for the first block of a group, whether its shapes differ or not
    conv: Callable
    norm: Callable
    sk_ratio: float = 0.0
    se_ratio: float = 0.0

    expansion = 1

    @nn.compact
    def __call__(self, x):
        """`[B, H, W, C]` to `[B, H / stride, W / stride, filters]`."""
        y = self.conv(self.filters, 3, self.stride, name="conv1")(x)
        y = nn.relu(self.norm(name="norm1")(y))
        y = self.conv(self.filters, 3, 1, name="conv2")(y)
        y = self.norm(name="norm2", scale_init=nn.initializers.zeros)(y)
        return relu_of_sum(_excited(self, y) + _shortcut(self, x))


class BottleneckBlock(nn.Module):
    """1×1, 3×3, 1×1 convolutions; the 3×3 carries the stride, the last one has four times the filters."""

    filters: int
    stride: int
    project: bool
    conv: Callable
    norm: Callable
    sk_ratio: float = 0.0
    se_ratio: float = 0.0

    expansion = 4

    @nn.compact
    def __call__(self, x):
        """`[B, H, W, C]` to `[B, H / stride, W / stride, 4 * filters]`."""
        y = self.conv(self.filters, 1, 1, name="conv1")(x)
        y = nn.relu(self.norm(name="norm1")(y))
        if self.sk_ratio:
            y = SelectiveKernel(self.filters, self.stride, self.sk_ratio, self.conv, self.norm, name="selective")(y)
        else:
            y = self.conv(self.filters, 3, self.stride, name="conv2")(y)
            y = nn.relu(self.norm(name="norm2")(y))
        y = self.conv(self.filters * self.expansion, 1, 1, name="conv3")(y)
        y = self.norm(name="norm3", scale_init=nn.initializers.zeros)(y)
        return relu_of_sum(_excited(self, y) + _shortcut(self, x))


@jax.custom_vjp
def relu_of_sum(x: jax.Array) -> jax.Array:
    """ReLU whose gradient looks at the result, which is stored, and not at the sum, whose two parts it would read."""
    return jnp.maximum(x, 0)


def _relu_of_sum_backward(y, gradient):
    # The barrier: XLA knows that where the result is above 0 the sum is, and would compute that again.
    return (jnp.where(jax.lax.optimization_barrier(y) > 0, gradient, 0),)


relu_of_sum.defvjp(lambda x: 2 * (relu_of_sum(x),), _relu_of_sum_backward)


def _excited(block, y):
    if not block.se_ratio:
        return y
    return SqueezeExcitation(block.filters, block.se_ratio, block.conv, name="excitation")(y)


def _shortcut(block, x):
    if not block.project:
        return x
    stride = block.stride
    if block.sk_ratio:
        # As in SimCLR's code: a window over the edge averages the pixels there are, or with a stride zeros with them.
        x = nn.avg_pool(x, (2, 2), (stride, stride), ((0, 1), (0, 1)), count_include_pad=stride > 1)
        stride = 1
    x = block.conv(block.filters * block.expansion, 1, stride, name="shortcut_conv")(x)
    return block.norm(name="shortcut_norm")(x)


class ResNet(nn.Module):
    """A ResNet without its classifier.

    Attributes:
      architecture: of `ENCODERS`, or another one.
      network: how it is built; see there for each setting. Its head is not part of this module.
      axis_name: mapped axis over whose devices BatchNorm computes statistics; None = each device on its own.
      frozen: the first of `parts`: they get no gradient, and their BatchNorm uses its running statistics in training
        too.
    """

    architecture: ResNetArchitecture
    network: Network
    axis_name: str | None = None
    frozen: tuple[str, ...] = ()

    @property
    def parts(self) -> tuple[str, ...]:
        """What images pass one after another: "stem", "stage1_block1", …"""
        blocks = (
            f"stage{stage}_block{index}"
            for stage, count in enumerate(self.architecture.stage_sizes, start=1)
            for index in range(1, count + 1)
        )
        return ("stem", *blocks)

    @property
    def feature_dim(self) -> int:
        """Length of a representation h."""
        return self._width * 2 ** (len(self.architecture.stage_sizes) - 1) * self._block.expansion

    @property
    def _block(self) -> type[nn.Module]:
        return BottleneckBlock if self.architecture.bottleneck else BasicBlock

    @property
    def _width(self) -> int:
        """Filters of the stem and of the first stage."""
        return self.architecture.base_width * self.network.width

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        """Representations of a batch.

        Args:
          images: `[B, H, W, C]`, float in [0, 1].
          train: True normalises by the batch and moves the running statistics, False uses the running ones.

        Returns:
          h, float32 `[B, feature_dim]`.

        Raises:
          ValueError: if the images are not float `[B, H, W, C]`.
        """
        network, dtype = self.network, jnp.dtype(self.network.dtype)
        block = nn.remat(self._block) if network.remat else self._block

        def conv(filters, kernel_side, stride, *, name, use_bias=False):
            # Explicit padding, to be symmetric: with a stride, SAME would pad even sides more at the bottom right.
            return nn.Conv(
                filters,
                (kernel_side, kernel_side),
                strides=stride,
                padding=(kernel_side - 1) // 2,
                use_bias=use_bias,
                kernel_init=_CONV_INIT,
                dtype=dtype,
                conv_general_dilated=conv_general_dilated,
                name=name,
            )

        def norm(part):
            trained = train and part not in self.frozen
            return functools.partial(norm_layer(network.norm, train=trained, axis_name=self.axis_name), dtype=dtype)

        x = normalized(images, network).astype(dtype)
        # Of each layer of the stem: its number in the names, by what the width is divided, side of the kernel, stride.
        if network.cifar_stem:
            layers = [("", 1, 3, 1)]
        elif network.sk_ratio:  # of ResNet-D; He et al. 2018, "Bag of Tricks"
            layers = [(1, 2, 3, 2), (2, 2, 3, 1), (3, 1, 3, 1)]
        else:
            layers = [("", 1, 7, 2)]
        for index, narrower, side, stride in layers:
            x = conv(self._width // narrower, side, stride, name=f"stem_conv{index}")(x)
            x = nn.relu(norm("stem")(name=f"stem_norm{index}")(x))
        if not network.cifar_stem:
            x = max_pool(x, POOLS[network.pool])
        x = stopped(x, "stem", self.frozen)
        for stage, blocks in enumerate(self.architecture.stage_sizes, start=1):
            filters = self._width * 2 ** (stage - 1)
            for index in range(1, blocks + 1):
                stride = 2 if stage > 1 and index == 1 else 1
                name = f"stage{stage}_block{index}"
                ratios = network.sk_ratio, network.se_ratio
                x = block(filters, stride, index == 1, conv, norm(name), *ratios, name=name)(x)
                x = stopped(x, name, self.frozen)
        # In float32: a bfloat16 sum over the pixels would lose the low bits that the average is made of.
        return jnp.mean(x.astype(jnp.float32), axis=(1, 2))
