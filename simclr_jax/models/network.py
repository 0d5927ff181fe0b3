"""A network as the user describes it: every key of the config's sections `model` and `head`, declared here alone.

What reads a network, writes one or finds one in a file of others takes a :class:`Network`. Building it is left to
`encoders` and `heads`.
"""

import dataclasses
import difflib
import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from simclr_jax.models.architectures import Architecture, ResNetArchitecture, architecture_of
from simclr_jax.models.channel_attention import kernel_squeezed
from simclr_jax.models.norms import GROUP_SIZE, NORMS

POOLS = {"same": "SAME", "symmetric": ((1, 1), (1, 1))}  # padding of the stem's max-pool: Google's and PyTorch's
NORMALIZATIONS = {  # mean and deviation of red, green and blue; "data" is those of the training images
    "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
}
NORMALIZED_BY = (*NORMALIZATIONS, "data")
MOST_CHANNELS = 32  # of an image
DTYPES = ("float32", "bfloat16")
POSITIONS = ("learned", "sincos")
GLOBAL_POOLS = ("mean", "token")
HEAD_KINDS = ("nonlinear", "linear", "none")
WIDEST = 16


class Bound(NamedTuple):
    """What a value must be: a test, and the same in words that follow "must be"."""

    holds: Callable[[Any], bool]
    words: str


def one_of(choices: Iterable[str]) -> Bound:
    """Returns the bound of a switch."""
    return Bound(lambda value: value in choices, " or ".join(choices))


def at_most(limit: float, why: str) -> Bound:
    """Returns the bound of a number beyond which nobody means it, and memory would be gone before anybody says so."""
    return Bound(lambda value: value <= limit, f"at most {limit:,}: {why}")


def _key(default: Any, *bounds: Bound, **more: Any) -> Any:
    """A field with what its value may be.

    Args:
      default: as in configs/default.py.
      bounds: hold here, and in the words of the command line in `runtime.config`.
      more: known: names that the value is one of; an unknown one is told the nearest.
        called: what messages call it, where that is not the name of the field.
        same_result: whether a run may go on with another value.
        families: of architectures whose encoders read the key; all, where it is not said.
        before: for a key that came later than the first runs, what networks were that had no such key.
    """
    return dataclasses.field(default=default, metadata={"bounds": bounds, **more})


def _check(section: Any) -> None:
    """Raises ValueError for a field that is not what its declaration says."""
    for field in dataclasses.fields(section):
        value, called = getattr(section, field.name), field.metadata.get("called", field.name)
        if "known" in field.metadata:
            check_known(called, value, field.metadata["known"])
        for bound in field.metadata.get("bounds", ()):
            if not bound.holds(value):
                raise ValueError(f"{called} {value} must be {bound.words}")


def check_known(what: str, name: str, known: Iterable[str]) -> None:
    """Raises a ValueError that lists `known`, and the nearest of them, if `name` is not among them."""
    if name not in known:
        near = difflib.get_close_matches(str(name), known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"unknown {what} {name!r}; choose one of: {', '.join(known)}{hint}")


CHANNELS = Bound(lambda value: 1 <= value <= MOST_CHANNELS, f"from 1 to {MOST_CHANNELS}")
_NUMBERS = Bound(
    lambda values: all(isinstance(value, int | float) and math.isfinite(value) for value in values), "finite numbers"
)
_RATIO = Bound(lambda value: 0 <= value <= 1, "0 (off) to 1; 0.0625 is usual")
_SIZE = Bound(lambda value: value >= 1, "at least 1; to train without a head use kind 'none'")
_WIDTH = Bound(lambda value: value >= 1, "at least 1; 1 is the standard network, 2 doubles its filters")
_PATCH = Bound(lambda value: value >= 0, "0 (16 of a ViT, 4 of a ConvNeXt) or a number of pixels")
_FREEZE = Bound(lambda value: value >= 0, "0 (train all) or how many of the encoder's first parts stay as they were")
_RESNET, _VIT, _PATCHES, _OURS = ("ResNet",), ("ViT",), ("ViT", "ConvNeXt"), ("ResNet", "ViT", "ConvNeXt")  # families


@dataclasses.dataclass(frozen=True)
class Head:
    """The projection head, from representation h to projection z; field `x` is the config key `head.x`.

    Attributes:
      kind: "nonlinear", "linear" (one layer; `layers` is ignored) or "none" (the loss is computed on h itself).
      layers: number of dense layers of a nonlinear head: 2 in the first paper, 3 in the second.
      dim: dimension of z.
      hidden_dim: width of the middle layers of a nonlinear head; 0 = that of h.
      norm: whether each layer ends in a norm, as in Google's code. False = dense layers alone, which then have a bias.

    Raises:
      ValueError: a value is out of its range, or has no effect on this kind of head.
    """

    kind: str = _key("nonlinear", known=HEAD_KINDS, called="head kind")
    layers: int = _key(2, _SIZE, at_most(16, "the papers use 2 and 3"), called="head layers")
    dim: int = _key(128, _SIZE, at_most(65_536, "the papers use 128"), called="head dim")
    hidden_dim: int = _key(
        0,
        Bound(lambda value: value >= 0, "0 (the width of representation h) or more"),
        at_most(65_536, "2,048 is usual"),
        called="head hidden_dim",
        before=0,
    )
    norm: bool = _key(True, before=True)

    def __post_init__(self) -> None:
        _check(self)
        if self.hidden_dim and (self.kind != "nonlinear" or self.layers == 1):
            of = f"layers {self.layers}" if self.kind == "nonlinear" else f"kind {self.kind!r}"
            raise ValueError(
                f"head hidden_dim {self.hidden_dim} has no effect with {of}, which has no middle layer; leave it 0, "
                "or use a nonlinear head of 2 layers or more"
            )
        if self.kind == "none" and not self.norm:
            raise ValueError("head norm False has no effect with kind 'none'; leave it True")

    @property
    def depth(self) -> int:
        """Number of layers after h; 0 for kind "none"."""
        return {"nonlinear": self.layers, "linear": 1, "none": 0}[self.kind]


@dataclasses.dataclass(frozen=True)
class Network:
    """An encoder and its projection head; field `x` is the config key `model.x`. By default the paper's for ImageNet.

    Attributes:
      encoder: a key of `ENCODERS`, or a name of `register_encoder`.
      width: of a ResNet: multiplies the number of filters of every layer; "R50 (2x)" in the paper is width 2.
      cifar_stem: of a ResNet: True = first layer 3×3 without stride or max-pool, for images of up to 32 pixels.
      sk_ratio: of a ResNet: above 0 turns on selective kernels, with a stem of three 3×3 convolutions and
        average-pooled shortcuts; "SK" in the second paper is 0.0625. Blocks of two convolutions get only stem and
        shortcuts, as in Google's code.
      se_ratio: of a ResNet: above 0 turns on squeeze and excitation, with this share of a block's filters inside.
      pool: of a ResNet: padding of the first max-pool: "same" as in TensorFlow and Google's code, "symmetric" as in
        PyTorch.
      patch_size: side of the patches that a ViT's or a ConvNeXt's first layer makes of an image, pixels; 0 = 16 and 4.
      positions: of a ViT: "learned", or "sincos", sines and cosines of a patch's row and column, as in MoCo v3.
      global_pool: of a ViT: h is the "mean" of the patches' tokens, or the class "token".
      freeze_patch_projection: of a ViT: True = its first layer stays random in pretraining, as in MoCo v3, which makes
        training stable.
      freeze: how many of the encoder's first parts stay as they were in pretraining, BatchNorm's running statistics
        among them: of a ResNet or ConvNeXt the stem and stages, of a ViT the patches' embedding and blocks; 0 = none.
      normalize: a key of `NORMALIZATIONS`, by which images are normalised; imported weights may need it. Or "data": by
        `mean` and `deviation`.
      mean: with normalize "data" what is subtracted from each channel; () = not known yet: nothing can be computed.
      deviation: with normalize "data" what each channel is divided by.
      norm: "batch" or "group", for a ResNet and for the head, see `norms`; ViTs and ConvNeXts have LayerNorm.
        Parameters have the same names, but only "batch" has running statistics.
      dtype: of the computation: "float32" or "bfloat16". Parameters, BatchNorm statistics, h and z are always float32.
      global_batch_norm: whether BatchNorm uses statistics over all devices, which needs the mapped axis `axis_name`.
      view_batch_norm: True = pretraining passes the first views of a batch and then the second, each with BatchNorm
        statistics of its own, by which the running statistics move one after the other, as in most PyTorch code.
        False = both pass together, as in Google's code.
      remat: True = keep only the inputs of the encoder's blocks for the backward pass and recompute the rest.
      head: see `Head`.
      channels: of the images; the config key `data.channels`.

    Raises:
      ValueError: a name is unknown, a number is out of range, a value has no effect with another, or channels are not
        divisible into a norm's groups.

    Reference:
      He et al. 2015, "Deep Residual Learning"; Chen et al. 2020, appendix B.9 for the CIFAR stem;
      Chen et al. 2020b (arXiv 2006.10029), section 3.2 for selective kernels. Others: `vit`, `convnext`.
    """

    encoder: str = "resnet50"
    width: int = _key(1, _WIDTH, at_most(WIDEST, "the widest in the papers has 4"), families=_RESNET)
    cifar_stem: bool = _key(False, families=_RESNET)
    sk_ratio: float = _key(0.0, _RATIO, before=0.0, families=_RESNET)
    se_ratio: float = _key(0.0, _RATIO, before=0.0, families=_RESNET)
    pool: str = _key("same", one_of(POOLS), known=POOLS, before="same", families=_RESNET)
    patch_size: int = _key(0, _PATCH, at_most(256, "usual are 4 to 32"), before=0, families=_PATCHES)
    positions: str = _key("learned", one_of(POSITIONS), known=POSITIONS, before="learned", families=_VIT)
    global_pool: str = _key("mean", one_of(GLOBAL_POOLS), known=GLOBAL_POOLS, before="mean", families=_VIT)
    freeze_patch_projection: bool = _key(False, before=False, families=_VIT)
    freeze: int = _key(0, _FREEZE, before=0)
    normalize: str = _key("none", one_of(NORMALIZED_BY), known=NORMALIZED_BY, called="normalization", before="none")
    mean: tuple[float, ...] = _key((), _NUMBERS, before=())
    deviation: tuple[float, ...] = _key((), _NUMBERS, before=())
    norm: str = _key("batch", one_of(NORMS), known=NORMS)
    dtype: str = _key("float32", known=DTYPES)
    global_batch_norm: bool = True
    view_batch_norm: bool = _key(False, before=False)
    remat: bool = _key(False, same_result=True, families=_OURS)
    head: Head = Head()
    channels: int = _key(3, CHANNELS)

    def __post_init__(self) -> None:
        for name in ("mean", "deviation"):
            object.__setattr__(self, name, tuple(getattr(self, name)))  # lists in a config.json
        _check(self)
        self._check_family()
        self._check_normalization()
        if self.view_batch_norm and self.architecture.family in _PATCHES and not (self.head.depth and self.head.norm):
            raise ValueError(
                f"view_batch_norm True has no effect: {self.encoder} with this head has no BatchNorm; leave it False"
            )
        if self.freeze and self.freeze_patch_projection:
            raise ValueError(
                f"model.freeze_patch_projection=True has no effect with model.freeze={self.freeze}, which freezes that "
                "layer too; use --config.model.freeze_patch_projection=False"
            )
        if self.norm == "group":
            self._check_groups()

    @property
    def architecture(self) -> Architecture:
        """What `encoder` names."""
        return architecture_of(self.encoder)

    @property
    def patch(self) -> int:
        """Side of a ViT's or a ConvNeXt's patches, pixels; 1 of others."""
        return self.patch_size or self.architecture.patch_size

    @property
    def title(self) -> str:
        """The encoder in words: "resnet50, width 2", "vit_tiny, patches of 4 × 4 pixels"."""
        if self.architecture.family == "ResNet":
            return f"{self.encoder}, width {self.width}" + ", CIFAR stem" * self.cifar_stem
        if self.architecture.family == "own":
            return f"{self.encoder}, a registered encoder"
        return f"{self.encoder}, patches of {self.patch} × {self.patch} pixels"

    def check_image_size(self, size: int) -> None:
        """Raises ValueError where square images of a size, pixels, do not suit the encoder."""
        least = self.architecture.least_patches * self.patch
        if size < least:
            patches = size // self.patch
            smaller = next((side for side in range(size // 8, 1, -1) if size % side == 0), 1)
            raise ValueError(
                f"augment.image_size={size} gives {self.encoder} {patches} × {patches} patches of {self.patch} pixels, "
                f"which are too few; use --config.model.patch_size={smaller}, or images of at least {least} pixels"
            )
        if size % self.patch:
            below = size // self.patch * self.patch
            raise ValueError(
                f"augment.image_size={size} is not divisible by model.patch_size={self.patch}; use "
                f"--config.augment.image_size={below} or {below + self.patch}"
            )

    def mean_and_deviation(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Returns what is subtracted from each channel and what it is divided by; raises ValueError if not known."""
        if self.normalize != "data":
            return NORMALIZATIONS[self.normalize]
        if not self.mean:
            raise ValueError("normalize 'data' needs mean and deviation, one number for each channel")
        return self.mean, self.deviation

    def _check_normalization(self) -> None:
        """Raises ValueError for colours' numbers where there are no colours, and for numbers that do not fit."""
        given = {"mean": self.mean, "deviation": self.deviation}
        if self.normalize != "data":
            if name := next((name for name, values in given.items() if values), ""):
                raise ValueError(f"model.{name} has no effect with normalize {self.normalize!r}; use normalize 'data'")
            if self.normalize != "none" and self.channels != 3:
                raise ValueError(
                    f"model.normalize={self.normalize} is of red, green and blue, and data.channels is "
                    f"{self.channels}; use --config.model.normalize=data, or none"
                )
        elif len(self.mean) != len(self.deviation) or len(self.mean) not in (0, self.channels):
            counts = f"{len(self.mean)} and {len(self.deviation)} numbers"
            raise ValueError(
                f"model.mean and model.deviation have {counts}; give one for each of the {self.channels} channels of "
                "data.channels, or neither to find them in the training images"
            )
        elif not all(value > 0 for value in self.deviation):
            raise ValueError(f"model.deviation is {self.deviation}; images are divided by it, so each must be above 0")

    def _check_family(self) -> None:
        """Raises ValueError for a key that this encoder does not read and that has another value than its default."""
        family = self.architecture.family
        for field in dataclasses.fields(self):
            value, families = getattr(self, field.name), field.metadata.get("families", (family,))
            if family not in families and value != field.default:
                smaller = field.name == "cifar_stem" and family in _PATCHES
                small = "; for small images give --config.model.patch_size=4" * smaller
                raise ValueError(
                    f"model.{field.name}={value} does not apply to {self.encoder}, only to a "
                    f"{' or a '.join(families)}; use --config.model.{field.name}={field.default}{small}"
                )

    def _check_groups(self) -> None:
        """Raises ValueError where there is nothing that BatchNorm does, or channels are not divisible into groups."""
        if self.view_batch_norm:
            raise ValueError(
                "view_batch_norm True has no effect with norm 'group', which normalises each image by itself; leave it "
                "False, or use norm 'batch'"
            )
        # Most layers have multiples of a group's 16 channels, but what selective kernels add, and z, may have others.
        architecture = self.architecture
        if self.sk_ratio and isinstance(architecture, ResNetArchitecture):
            width = architecture.base_width * self.width
            filters = [width * 2**stage for stage in range(len(architecture.stage_sizes))]
            # Of the stem's first convolutions, and of what decides on the streams of each selective kernel.
            channels = [width // 2, *(kernel_squeezed(f, self.sk_ratio) for f in filters)]
            wrong = [count for count in channels if count % GROUP_SIZE]
            if wrong:
                raise ValueError(
                    f"sk_ratio {self.sk_ratio} makes layers of {wrong[0]} channels, which are not divisible by the "
                    f"{GROUP_SIZE} channels of a norm's group; use another ratio, another width, or norm 'batch'"
                )
        sizes = {"dim": self.head.dim, "hidden_dim": self.head.hidden_dim} if self.head.depth and self.head.norm else {}
        for name, size in sizes.items():
            below = size // GROUP_SIZE * GROUP_SIZE
            if size != below:
                near = f"{below} or {below + GROUP_SIZE}" if below else f"{GROUP_SIZE}"
                raise ValueError(
                    f"head {name} {size} is not divisible by the {GROUP_SIZE} channels of a norm's group; use {near}"
                )


# Every key of the two sections: {"model.width": its field}. Channels are a key of the data.
KEYS = {f"model.{field.name}": field for field in dataclasses.fields(Network) if field.name not in ("head", "channels")}
KEYS |= {f"head.{field.name}": field for field in dataclasses.fields(Head)}
