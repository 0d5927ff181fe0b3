"""What PyTorch's libraries call the tensors of our encoders: torchvision's names of ResNets, timm's of the others.

Which encoder a file holds is found by one name that all of a family have; which of the family, by the shapes.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from simclr_jax.models import ENCODERS, Head, Network
from simclr_jax.models.architectures import ConvNeXtArchitecture, ViTArchitecture, resnets
from simclr_jax.models.network import MOST_CHANNELS, WIDEST

Sizes = Mapping[str, tuple[int, ...]]  # {name: shape} of an encoder's tensors

_LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
# The children of torchvision's ResNet, by what a Sequential that was made of them calls them, as lightly does.
_CHILDREN = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}
# timm writes the dense layers of these as 1×1 convolutions.
_CONVOLVED = ("convnext_atto", "convnext_femto", "convnext_pico", "convnext_nano")
_DENSE = re.compile(r"\.mlp\.fc[12]\.weight$")
_HEADLESS = Head(kind="none", layers=1)


@dataclasses.dataclass(frozen=True)
class Naming:
    """The names of a family of encoders.

    Attributes:
      anchor: the name of a tensor that each of them has, by which an encoder is found in a file.
      tensors: matches the names of the encoder's tensors, and of those that another encoder of the family would have.
      name: from a leaf of ours, "params/stem_conv/kernel", to theirs.
      network: from a file's path, shapes and stated encoder to the network, less what shapes do not tell.
    """

    anchor: str
    tensors: str
    name: Callable[[str], str]
    network: Callable[[str, Sizes, Any], Network]


def places(names: Mapping[str, Any], prefix: str | None) -> dict[str, tuple[Naming, dict[str, str]]]:
    """Returns the encoders that a file holds, {beginning of their names: (naming, {their name: name in the file})}.

    Args:
      names: of the file's tensors.
      prefix: the beginning; None for every one.
    """
    anchors = [(naming.anchor, naming, False) for naming in FAMILIES.values()]
    anchors.append(("4.0.conv1.weight", FAMILIES["ResNet"], True))  # of a Sequential, whose children are numbered
    found = {}
    for anchor, naming, numbered in anchors:
        for name in names:
            beginning = name.removesuffix(anchor)
            if name.endswith(anchor) and beginning[-1:] in ("", ".") and prefix in (None, beginning):
                found[beginning] = naming, _within(names, beginning, naming, numbered)
    return found


def _within(names, beginning, naming, numbered):
    found = {}
    for name in names:
        if name.startswith(beginning):
            child, dot, rest = name.removeprefix(beginning).partition(".")
            found[f"{_CHILDREN.get(child, '?') if numbered else child}{dot}{rest}"] = name
    return {name: key for name, key in found.items() if re.match(naming.tensors, name)}


def of_ours(x: np.ndarray, name: str, network: Network) -> np.ndarray:
    """Returns an array of ours as PyTorch lays it out: outputs, inputs, height, width."""
    if x.ndim == 4:
        return np.transpose(x, (3, 2, 0, 1))
    if x.ndim == 2:
        return x.T[..., None, None] if network.encoder in _CONVOLVED and _DENSE.search(name) else x.T
    return x


def of_theirs(x: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Returns an array of theirs as one of ours of a shape: height, width, inputs, outputs."""
    return x.transpose(2, 3, 1, 0).reshape(shape) if x.ndim == 4 else x.T if x.ndim == 2 else x


def shape_of_theirs(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Returns the shape that an array of ours has in PyTorch."""
    return (shape[3], shape[2], *shape[:2]) if len(shape) == 4 else shape[::-1] if len(shape) == 2 else shape


def dense(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Returns a shape of theirs, of a dense layer without the sides of 1 that it has as a convolution."""
    return shape[:2] if _DENSE.search(name) and shape[2:] == (1, 1) else shape


def name_of(leaf: str, network: Network) -> str:
    """Returns what PyTorch's libraries call a leaf of an encoder of ours."""
    name = FAMILIES[network.architecture.family].name(leaf)
    return name.replace("fc_norm", "norm") if network.global_pool == "token" else name


def timm_call(network: Network, image_size: int) -> str:
    """Returns the Python that makes the same network of timm; "" for a ResNet, whose padding timm's do not have."""
    family, size = network.architecture.family, network.encoder.partition("_")[2]
    channels = f", in_chans={network.channels}" if network.channels != 3 else ""
    if family == "ViT":
        pool = {"mean": "avg"}.get(network.global_pool, network.global_pool)
        more = f'img_size={image_size}, patch_size={network.patch}, global_pool="{pool}"{channels}'
        return f'timm.create_model("vit_{size}_patch16_224", {more}, num_classes=0)'
    if family == "ConvNeXt":
        return f'timm.create_model("{network.encoder}", patch_size={network.patch}{channels}, num_classes=0)'
    return ""


def _of_resnet(leaf):
    *folders, kind = leaf.split("/")[1:]
    place = re.sub(r"^stem_(conv|norm)$", r"\g<1>1", ".".join(folders))
    place = re.sub(r"^stage(\d+)_block(\d+)", lambda m: f"layer{m[1]}.{int(m[2]) - 1}", place)
    place = place.replace("shortcut_conv", "downsample.0").replace("shortcut_norm", "downsample.1")
    return f"{place.replace('norm', 'bn')}.{_LEAVES[kind]}"


def _of_vit(leaf):
    *folders, kind = leaf.split("/")[1:]
    if not folders:
        return {"stem_class_token": "cls_token", "stem_positions": "pos_embed"}[kind]
    place = re.sub(r"^block(\d+)", lambda m: f"blocks.{int(m[1]) - 1}", ".".join(folders))
    place = place.replace("attention.out", "attn.proj").replace("attention", "attn").replace(".fc", ".mlp.fc")
    place = {"stem_conv": "patch_embed.proj", "norm": "fc_norm"}.get(place, place)
    return f"{place}.{_LEAVES[kind]}"


def _of_convnext(leaf):
    *folders, kind = leaf.split("/")[1:]
    place = re.sub(
        r"^stage(\d+)_block(\d+)", lambda m: f"stages.{int(m[1]) - 1}.blocks.{int(m[2]) - 1}", ".".join(folders)
    )
    place = re.sub(
        r"^stage(\d+)_down_(norm|conv)",
        lambda m: f"stages.{int(m[1]) - 1}.downsample.{int(m[2] == 'conv')}",
        place,
    )
    place = {"stem_conv": "stem.0", "stem_norm": "stem.1", "norm": "head.norm"}.get(place, place)
    place = place.replace("depthwise", "conv_dw").replace(".fc", ".mlp.fc")
    return f"{place}.{_LEAVES.get(kind, kind)}"


def _resnet(path: str, sizes: Sizes, stated: Any) -> Network:
    """What shapes tell; of encoders that have the same shapes, the stated one."""
    blocks = _blocks(sizes, r"layer(\d+)\.(\d+)\.")
    bottleneck, stem = "layer1.0.conv3.weight" in sizes, sizes.get("conv1.weight", ())
    for encoder, known in sorted(resnets().items(), key=lambda item: item[0] != stated):
        if known.stage_sizes != blocks or known.bottleneck != bottleneck or len(stem) != 4:
            continue
        if stem[0] % known.base_width == 0 and 1 <= stem[0] // known.base_width <= WIDEST:
            width = stem[0] // known.base_width
            more = {"width": width, "cifar_stem": stem[2] == 3, "channels": _channels_of(path, stem)}
            return Network(encoder=encoder, **more, head=_HEADLESS)
    kind = "three" if bottleneck else "two"
    raise ValueError(f"{path} has {list(blocks)} blocks of {kind} convolutions; known: {', '.join(resnets())}")


def _vit(path: str, sizes: Sizes, stated: Any) -> Network:
    patches, pool = sizes.get("patch_embed.proj.weight", ()), "token" if "norm.weight" in sizes else "mean"
    blocks = len(_blocks(sizes, r"blocks\.(\d+)\.(\w+)"))
    for encoder, known in ENCODERS.items():
        if isinstance(known, ViTArchitecture) and (known.width, known.blocks) == (patches[:1] and patches[0], blocks):
            more = {"patch_size": _patch_of(path, patches), "channels": _channels_of(path, patches)}
            return Network(encoder=encoder, **more, global_pool=pool, head=_HEADLESS)
    known = {name: (of.width, of.blocks) for name, of in ENCODERS.items() if isinstance(of, ViTArchitecture)}
    raise ValueError(
        f"{path} has {blocks} blocks of tokens of {patches[:1] and patches[0]} numbers; known: "
        + ", ".join(f"{name} ({count} of {width})" for name, (width, count) in known.items())
    )


def _convnext(path: str, sizes: Sizes, stated: Any) -> Network:
    blocks, stem = _blocks(sizes, r"stages\.(\d+)\.blocks\.(\d+)\."), sizes.get("stem.0.weight", ())
    for encoder, known in ENCODERS.items():
        if isinstance(known, ConvNeXtArchitecture) and (known.stage_sizes, known.widths[0]) == (blocks, *stem[:1]):
            more = {"patch_size": _patch_of(path, stem), "channels": _channels_of(path, stem)}
            return Network(encoder=encoder, **more, head=_HEADLESS)
    names = [name for name, of in ENCODERS.items() if isinstance(of, ConvNeXtArchitecture)]
    raise ValueError(
        f"{path} has {list(blocks)} blocks and {(*stem, 0)[0]} channels in its stem; known: {', '.join(names)}"
    )


def _patch_of(path: str, kernel: tuple[int, ...]) -> int:
    if len(kernel) != 4 or kernel[2] != kernel[3]:
        raise ValueError(f"{path}: the first layer has a kernel of {list(kernel)}, not [outputs, C, side, side]")
    return kernel[2]


def _channels_of(path: str, kernel: tuple[int, ...]) -> int:
    """Returns of how many channels the images are that a first layer reads."""
    if not 1 <= kernel[1] <= MOST_CHANNELS:
        raise ValueError(f"{path}: the first layer reads {kernel[1]} channels; 1 to {MOST_CHANNELS} are supported")
    return kernel[1]


def side_of_positions(sizes: Sizes) -> int:
    """Returns how many patches a side the images of a ViT have; 0 where its positions are not those of a square."""
    tokens = (*sizes.get("pos_embed", ()), 0, 0)[1] - 1
    side = math.isqrt(max(0, tokens))
    return side if side**2 == tokens else 0


def _blocks(sizes: Sizes, pattern: str) -> tuple[int, ...]:
    """How many second numbers there are of each first one in the names."""
    found = {match.groups() for name in sizes if (match := re.match(pattern, name))}
    firsts = sorted({int(first) for first, _ in found})
    return tuple(sum(int(first) == number for first, _ in found) for number in firsts)


FAMILIES = {
    "ResNet": Naming("layer1.0.conv1.weight", r"(conv1|bn1|layer\d+)\.", _of_resnet, _resnet),
    "ViT": Naming(
        "blocks.0.attn.qkv.weight",
        r"(cls_token|pos_embed|reg_token)$|(patch_embed|blocks|norm|norm_pre|fc_norm|rope|attn_pool)\.",
        _of_vit,
        _vit,
    ),
    "ConvNeXt": Naming("stages.0.blocks.0.conv_dw.weight", r"(stem|stages|head\.norm)\.", _of_convnext, _convnext),
}
