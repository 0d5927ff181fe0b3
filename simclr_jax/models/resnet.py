"""ResNet encoders: images to representations h, as in Google's SimCLR code.

Blocks receive their `conv` and `norm` as partials, so that what holds for every convolution or every BatchNorm
(dtype, initialiser, padding, devices) is said once, in `ResNet`. What comes after h belongs to `heads`.
"""

import difflib
import functools
from collections.abc import Callable
from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp

from simclr_jax.models.channel_attention import SelectiveKernel, SqueezeExcitation, kernel_squeezed
from simclr_jax.models.cpu_convolution import conv_general_dilated
from simclr_jax.models.norms import GROUP_SIZE, NORMS, norm_layer

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}

_CONV_INIT = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")  # as in SimCLR's code

POOLS = {"same": "SAME", "symmetric": ((1, 1), (1, 1))}  # of the stem's max-pool: Google's and PyTorch's
NORMALIZATIONS = {  # mean and deviation of red, green and blue
    "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
}
_STEM_D = ((2, 2), (2, 1), (1, 1))  # by what the width is divided, and stride; He et al. 2018, "Bag of Tricks"


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
        return nn.relu(_excited(self, y) + _shortcut(self, x))


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
        return nn.relu(_excited(self, y) + _shortcut(self, x))


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
    """A ResNet without its classifier; build it with `create_encoder`, which checks the arguments."""

    block: type[nn.Module]
    stage_sizes: tuple[int, ...]
    base_width: int  # filters of the stem and of the first group, width multiplier included
    cifar_stem: bool = False
    sk_ratio: float = 0.0
    se_ratio: float = 0.0
    pool: str = "same"
    normalize: str = "none"
    norm: str = "batch"
    dtype: str = "float32"
    remat: bool = False
    axis_name: str | None = None
    frozen: tuple[str, ...] = ()  # of `parts`: those whose BatchNorm uses its running statistics in training too

    @property
    def parts(self) -> tuple[str, ...]:
        """What images pass one after another: "stem", "stage1_block1", …"""
        blocks = (
            f"stage{stage}_block{index}"
            for stage, count in enumerate(self.stage_sizes, start=1)
            for index in range(1, count + 1)
        )
        return ("stem", *blocks)

    @property
    def feature_dim(self) -> int:
        """Length of a representation h."""
        return self.base_width * 2 ** (len(self.stage_sizes) - 1) * self.block.expansion

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        """Representations of a batch.

        Args:
          images: `[B, H, W, 3]`, float in [0, 1].
          train: True normalises by the batch and moves the running statistics, False uses the running ones.

        Returns:
          h, float32 `[B, feature_dim]`.

        Raises:
          ValueError: if the images are not float `[B, H, W, 3]`.
        """
        _check_images(images)
        dtype = DTYPES[self.dtype]
        conv = functools.partial(_conv, dtype=dtype)
        block = nn.remat(self.block) if self.remat else self.block

        def norm(part):
            trained = train and part not in self.frozen
            return functools.partial(norm_layer(self.norm, train=trained, axis_name=self.axis_name), dtype=dtype)

        x = self._stem(_normalized(images, self.normalize).astype(dtype), conv, norm("stem"))
        for stage, blocks in enumerate(self.stage_sizes, start=1):
            filters = self.base_width * 2 ** (stage - 1)
            for index in range(1, blocks + 1):
                stride = 2 if stage > 1 and index == 1 else 1
                name = f"stage{stage}_block{index}"
                x = block(filters, stride, index == 1, conv, norm(name), self.sk_ratio, self.se_ratio, name=name)(x)
        # In float32: a bfloat16 sum over the pixels would lose the low bits that the average is made of.
        return jnp.mean(x.astype(jnp.float32), axis=(1, 2))

    def _stem(self, x, conv, norm):
        if self.cifar_stem:
            return self._stem_layer(x, conv, norm, 3, 1)
        if self.sk_ratio:
            for index, (narrower, stride) in enumerate(_STEM_D, start=1):
                x = self._stem_layer(x, conv, norm, 3, stride, narrower, str(index))
        else:
            x = self._stem_layer(x, conv, norm, 7, 2)
        return nn.max_pool(x, (3, 3), strides=(2, 2), padding=POOLS[self.pool])

    def _stem_layer(self, x, conv, norm, kernel_side, stride, narrower=1, index=""):
        x = conv(self.base_width // narrower, kernel_side, stride, name=f"stem_conv{index}")(x)
        return nn.relu(norm(name=f"stem_norm{index}")(x))


def _normalized(images, how):
    if how == "none":
        return images
    mean, deviation = (jnp.asarray(x, images.dtype) for x in NORMALIZATIONS[how])
    return (images - mean) / deviation


def _conv(filters, kernel_side, stride, *, dtype, name, use_bias=False):
    # Explicit, to be symmetric: with a stride, SAME would pad even sides more at the bottom right.
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


@dataclass(frozen=True)
class Architecture:
    """What tells one ResNet from another."""

    block: type[nn.Module]
    stage_sizes: tuple[int, ...]
    base_width: int = 64


ENCODERS = {
    "resnet_tiny": Architecture(BasicBlock, (1, 1, 1), base_width=16),  # for tests and first runs
    "resnet18": Architecture(BasicBlock, (2, 2, 2, 2)),
    "resnet34": Architecture(BasicBlock, (3, 4, 6, 3)),
    "resnet50": Architecture(BottleneckBlock, (3, 4, 6, 3)),
    "resnet101": Architecture(BottleneckBlock, (3, 4, 23, 3)),
    "resnet152": Architecture(BottleneckBlock, (3, 8, 36, 3)),
    "resnet200": Architecture(BottleneckBlock, (3, 24, 36, 3)),
}


def create_encoder(
    name: str,
    *,
    width: int = 1,
    cifar_stem: bool = False,
    sk_ratio: float = 0.0,
    se_ratio: float = 0.0,
    pool: str = "same",
    normalize: str = "none",
    norm: str = "batch",
    dtype: str = "float32",
    remat: bool = False,
    axis_name: str | None = None,
) -> ResNet:
    """Builds an encoder by name.

    Args:
      name: a key of `ENCODERS`.
      width: multiplies the filters of every layer; the paper's "R50 (2x)" is width 2.
      cifar_stem: True for images of up to 32 pixels: a 3×3 stem without stride or max-pool.
      sk_ratio: above 0 turns on selective kernels, with a stem of three 3×3 convolutions and average-pooled shortcuts;
        the second paper's "SK" is 0.0625. Blocks of two convolutions get stem and shortcuts alone, as in SimCLR's code.
      se_ratio: above 0 turns on squeeze and excitation, narrowed to this part of a block's filters.
      pool: "same" pads the stem's max-pool as TensorFlow does and SimCLR's code, "symmetric" as PyTorch's networks.
      normalize: a key of `NORMALIZATIONS`, by which weights of others may want their images; SimCLR's code does not.
      norm: "batch" or "group", see `norms`. The parameters have the same names, but only "batch" has statistics.
      dtype: "float32" or "bfloat16", of the computation. Parameters, BatchNorm statistics and h stay float32.
      remat: True keeps only what enters each residual block for the backward pass, which computes the rest again.
      axis_name: mapped axis over whose devices BatchNorm takes its statistics; None for each device alone.

    Returns:
      A flax module: `variables = m.init(key, images, train=False)` and `m.apply(variables, images, train=False)`
      gives h, float32 `[B, m.feature_dim]`, for images `[B, H, W, 3]`, float in [0, 1].

    Raises:
      ValueError: if a name is unknown, `width` below 1, a ratio not from 0 to 1, or if a group norm's channels do not
        divide.

    Example:
      >>> encoder = create_encoder("resnet18", cifar_stem=True)

    Reference:
      He et al. 2015, "Deep Residual Learning"; Chen et al. 2020, appendix B.9 for the CIFAR stem;
      Chen et al. 2020b (arXiv 2006.10029), section 3.2 for selective kernels.
    """
    check_known("encoder", name, ENCODERS)
    check_known("pool", pool, POOLS)
    check_known("normalization", normalize, NORMALIZATIONS)
    check_known("norm", norm, NORMS)
    check_known("dtype", dtype, DTYPES)
    if width < 1:
        raise ValueError(f"width {width} must be at least 1; 1 is the plain {name}, 2 doubles its filters")
    for what, ratio in (("sk_ratio", sk_ratio), ("se_ratio", se_ratio)):
        if not 0 <= ratio <= 1:
            raise ValueError(f"{what} {ratio} must be from 0 (off) to 1; 0.0625 is usual")
    architecture = ENCODERS[name]
    base_width = architecture.base_width * width
    if norm == "group" and sk_ratio:
        _check_groups(architecture, base_width, sk_ratio)
    return ResNet(
        block=architecture.block,
        stage_sizes=architecture.stage_sizes,
        base_width=base_width,
        cifar_stem=cifar_stem,
        sk_ratio=sk_ratio,
        se_ratio=se_ratio,
        pool=pool,
        normalize=normalize,
        norm=norm,
        dtype=dtype,
        remat=remat,
        axis_name=axis_name,
    )


def check_known(what: str, name: str, known) -> None:
    """Raises a ValueError that lists `known`, and the nearest of them, if `name` is not among them."""
    if name not in known:
        near = difflib.get_close_matches(str(name), known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"unknown {what} {name!r}, known: {', '.join(known)}{hint}")


def _check_groups(architecture, base_width, sk_ratio):
    """What selective kernels add has other numbers of channels than the rest, which are multiples of 16."""
    filters = [base_width * 2**stage for stage in range(len(architecture.stage_sizes))]
    channels = [base_width // 2, *(kernel_squeezed(f, sk_ratio) for f in filters)]
    wrong = [count for count in channels if count % GROUP_SIZE]
    if wrong:
        raise ValueError(
            f"sk_ratio {sk_ratio} makes layers of {wrong[0]} channels, which are not divisible by the {GROUP_SIZE} "
            "channels of a norm's group; use another ratio, another width, or norm 'batch'"
        )


def _check_images(images):
    if images.ndim != 4 or images.shape[-1] != 3 or not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(
            f"images {images.dtype} {list(images.shape)} must be float [batch, height, width, 3] in [0, 1]; "
            "divide uint8 images by 255"
        )
