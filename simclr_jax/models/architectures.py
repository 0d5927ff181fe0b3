"""The encoders there are: what tells one ResNet, one vision transformer or one ConvNeXt from another."""

import dataclasses
from collections.abc import Callable
from typing import Any

from simclr_jax.runtime.registry import Registry


@dataclasses.dataclass(frozen=True)
class ResNetArchitecture:
    """What tells one ResNet from another.

    Attributes:
      bottleneck: whether its blocks have three convolutions, the middle one 3×3; else two, both 3×3.
      stage_sizes: blocks of each stage.
      base_width: filters of the stem and of the first stage, at width 1.
    """

    bottleneck: bool
    stage_sizes: tuple[int, ...]
    base_width: int = 64

    family = "ResNet"
    patch_size = 1  # it reads pixels
    least_patches = 1  # a side


@dataclasses.dataclass(frozen=True)
class ViTArchitecture:
    """What tells one vision transformer from another; a block's MLP is four times as wide as its tokens.

    Attributes:
      width: numbers of a token.
      blocks: how many there are.
      heads: of the attention.
      patch_size: side of a patch, pixels, unless the config gives another.
    """

    width: int
    blocks: int
    heads: int
    patch_size: int = 16

    family = "ViT"
    least_patches = 3  # a side; fewer leave attention nothing to compare


@dataclasses.dataclass(frozen=True)
class ConvNeXtArchitecture:
    """What tells one ConvNeXt from another.

    Attributes:
      stage_sizes: blocks of each stage.
      widths: channels of each stage.
      patch_size: side of the patches that the stem makes pixels of, unless the config gives another.
    """

    stage_sizes: tuple[int, ...]
    widths: tuple[int, ...]
    patch_size: int = 4

    family = "ConvNeXt"

    @property
    def least_patches(self) -> int:
        """How many there must be a side, for the stages to halve."""
        return 2 ** (len(self.stage_sizes) - 1)


@dataclasses.dataclass(frozen=True)
class OwnArchitecture:
    """An encoder that a user has registered.

    Attributes:
      factory: makes its Flax module, see `register_encoder`.
    """

    factory: Callable[..., Any]

    family = "own"
    patch_size = 1
    least_patches = 1


Architecture = ResNetArchitecture | ViTArchitecture | ConvNeXtArchitecture | OwnArchitecture


def resnets() -> dict[str, ResNetArchitecture]:
    """Returns the ResNets of `ENCODERS`."""
    return {name: found for name, found in ENCODERS.items() if isinstance(found, ResNetArchitecture)}


def _convnext(stage_sizes: tuple[int, ...], width: int) -> ConvNeXtArchitecture:
    return ConvNeXtArchitecture(stage_sizes, tuple(width * 2**stage for stage in range(len(stage_sizes))))


ENCODERS: dict[str, Architecture] = {
    "resnet_tiny": ResNetArchitecture(False, (1, 1, 1), base_width=16),  # for tests and first runs
    "resnet18": ResNetArchitecture(False, (2, 2, 2, 2)),
    "resnet34": ResNetArchitecture(False, (3, 4, 6, 3)),
    "resnet50": ResNetArchitecture(True, (3, 4, 6, 3)),
    "resnet101": ResNetArchitecture(True, (3, 4, 23, 3)),
    "resnet152": ResNetArchitecture(True, (3, 8, 36, 3)),
    "resnet200": ResNetArchitecture(True, (3, 24, 36, 3)),
    # Touvron et al. 2021 (DeiT), table 1; large: Dosovitskiy et al. 2021 (ViT), table 1.
    "vit_tiny": ViTArchitecture(192, 12, 3),
    "vit_small": ViTArchitecture(384, 12, 6),
    "vit_base": ViTArchitecture(768, 12, 12),
    "vit_large": ViTArchitecture(1024, 24, 16),
    # Liu et al. 2022, "A ConvNet for the 2020s", section 3; those below tiny: timm's.
    "convnext_atto": _convnext((2, 2, 6, 2), 40),
    "convnext_femto": _convnext((2, 2, 6, 2), 48),
    "convnext_pico": _convnext((2, 2, 6, 2), 64),
    "convnext_nano": _convnext((2, 2, 8, 2), 80),
    "convnext_tiny": _convnext((3, 3, 9, 3), 96),
    "convnext_small": _convnext((3, 3, 27, 3), 96),
    "convnext_base": _convnext((3, 3, 27, 3), 128),
    "convnext_large": _convnext((3, 3, 27, 3), 192),
    "convnext_xlarge": _convnext((3, 3, 27, 3), 256),
}

REGISTERED: Registry[Callable[..., Any]] = Registry(
    "encoder", key="model.encoder", taken=ENCODERS, argument="factory", signature="(*, dtype, axis_name)"
)


def architecture_of(name: str) -> Architecture:
    """Returns what an encoder's name means: of `ENCODERS`, or registered.

    Raises:
      ValueError: it is neither.
    """
    REGISTERED.check(name)
    return ENCODERS[name] if name in ENCODERS else OwnArchitecture(REGISTERED.own[name])
