"""How Google's SimCLR code names its variables, in its TensorFlow 1 and its TensorFlow 2 version.

TensorFlow 1 counts convolutions and BatchNorms in the order in which they are made, a block's shortcut first;
TensorFlow 2 has paths of attributes from the model to a variable.
"""

import dataclasses
import itertools
from collections.abc import Iterator

from simclr_jax.models.architectures import resnets

# The end of a variable's name in both versions, and where its value is in ours.
_LEAVES = {
    "kernel": ("params", "kernel"),
    "bias": ("params", "bias"),
    "gamma": ("params", "scale"),
    "beta": ("params", "bias"),
    "moving_mean": ("batch_stats", "mean"),
    "moving_variance": ("batch_stats", "var"),
}
_NORM = ("gamma", "beta", "moving_mean", "moving_variance")
_LAST_NORM = ("gamma", "moving_mean", "moving_variance")  # of the projection head
_CLASSIFIER = {1: "head_supervised/linear_layer/dense", 2: "supervised_head/linear_layer/dense"}
_MOST_LAYERS = 16  # of the projection head; the papers have 2 and 3
_HEAD = {1: "head_contrastive", 2: "_projection_head/linear_layers"}


@dataclasses.dataclass(frozen=True)
class Layout:
    """What decides which variables there are.

    Attributes:
      encoder: a key of `ENCODERS`, a ResNet.
      resnet_d: whether there are selective kernels, and average pools in the shortcuts, which have no variables.
      deep_stem: whether the stem has three convolutions.
      excitation: whether there is squeeze and excitation.
    """

    encoder: str
    resnet_d: bool
    deep_stem: bool
    excitation: bool

    @property
    def bottleneck(self) -> bool:
        """Whether blocks have three convolutions."""
        return resnets()[self.encoder].bottleneck


def layouts(version: int) -> Iterator[Layout]:
    """Yields every layout there is in one version of the code."""
    for encoder in resnets():
        for resnet_d, deep_stem in ((False, False), (True, True), (True, False)):
            for excitation in (False, True):
                layout = Layout(encoder, resnet_d, deep_stem, excitation)
                # TensorFlow 1's blocks of two convolutions pool the residual branch too, and then do not fit together.
                if version == 2 or layout.bottleneck or not resnet_d:
                    yield layout


def encoder_names(layout: Layout, version: int) -> dict[str, str]:
    """Returns {path of a leaf in our variables: name in theirs} of the encoder."""
    # (name in ours, path in TensorFlow 2, its leaves) of all layers, in the order in which theirs are made.
    layers: list[tuple[str, str, tuple[str, ...]]] = []
    stem = ((1, 0, 1), (2, 2, 3), (3, 4, 6)) if layout.deep_stem else (("", 0, 2),)  # place 5 names a tensor
    for index, conv, norm in stem:
        layers += _conv_norm(f"stem_{{}}{index}", "initial_conv_relu_max_pool", conv, norm)
    for stage, blocks in enumerate(resnets()[layout.encoder].stage_sizes):
        for index in range(blocks):
            ours, theirs = f"stage{stage + 1}_block{index + 1}/", f"block_groups/{stage}/layers/{index}"
            if index == 0:
                before = (1 if stage == 0 else 2) if layout.resnet_d else 0  # pooling, and padding where it strides
                shortcut = "projection_layers" if layout.bottleneck else "shortcut_layers"
                layers += _conv_norm(f"{ours}shortcut_{{}}", f"{theirs}/{shortcut}", before, before + 1)
            if layout.bottleneck:
                theirs = f"{theirs}/conv_relu_dropblock_layers"  # DropBlock is at the places that are left out
                layers += _conv_norm(f"{ours}{{}}1", theirs, 0, 1)
                if layout.resnet_d:
                    selective, kernel = f"{theirs}/3", ("kernel",)
                    layers.append((f"{ours}selective/conv", f"{selective}/conv2d_fixed_padding/conv2d", kernel))
                    layers.append((f"{ours}selective/norm", f"{selective}/batch_norm_relu/bn", _NORM))
                    layers.append((f"{ours}selective/squeeze", f"{selective}/conv2d_0", kernel))
                    layers.append((f"{ours}selective/squeeze_norm", f"{selective}/batch_norm_relu_1/bn", _NORM))
                    layers.append((f"{ours}selective/mixing", f"{selective}/conv2d_1", kernel))
                else:
                    layers += _conv_norm(f"{ours}{{}}2", theirs, 3, 4)
                last = 5 if layout.resnet_d else 6
                layers += _conv_norm(f"{ours}{{}}3", theirs, last, last + 1)
                excitation = f"{theirs}/{last + 3}"
            else:
                layers += _conv_norm(f"{ours}{{}}1", f"{theirs}/conv2d_bn_layers", 0, 1)
                layers += _conv_norm(f"{ours}{{}}2", f"{theirs}/conv2d_bn_layers", 2, 3)
                excitation = f"{theirs}/se_layer"
            if layout.excitation:
                layers.append((f"{ours}excitation/squeeze", f"{excitation}/se_reduce", ("kernel", "bias")))
                layers.append((f"{ours}excitation/excite", f"{excitation}/se_expand", ("kernel", "bias")))
    names, counts = {}, {"conv2d": 0, "batch_normalization": 0}
    for ours, theirs, leaves in layers:
        if version == 1:
            kind = "batch_normalization" if leaves is _NORM else "conv2d"
            theirs = f"base_model/{kind}" + (f"_{counts[kind]}" if counts[kind] else "")
            counts[kind] += 1
        else:
            theirs = f"resnet_model/{theirs}"
        names |= _of_layer(f"encoder/{ours}", theirs, leaves)
    return names


def head_names(layer_names: list[str], version: int) -> dict[str, str]:
    """Returns the same of the projection head, of the layers that :func:`head_layers` found."""
    names, norm = {}, {1: "batch_normalization", 2: "bn_relu/bn"}[version]
    for index, layer in enumerate(layer_names, start=1):
        leaves = _LAST_NORM if index == len(layer_names) else _NORM
        names |= _of_layer(f"head/dense{index}", f"{_HEAD[version]}/{layer}/dense", ("kernel",))
        names |= _of_layer(f"head/norm{index}", f"{_HEAD[version]}/{layer}/{norm}", leaves)
    return names


def head_layers(found, version: int) -> list[str]:
    """Returns what the dense layers of the projection head are called in a file, from the first on; [] without one."""
    head, numbered = _HEAD[version], "nl_{}" if version == 1 else "{}"
    if version == 1 and f"{head}/l_0/dense/kernel" in found:
        return ["l_0"]
    layers = [numbered.format(index) for index in range(_MOST_LAYERS)]
    return list(itertools.takewhile(lambda layer: f"{head}/{layer}/dense/kernel" in found, layers))


def classifier_names(version: int) -> tuple[str, str]:
    """Returns the names of the supervised head's kernel and bias."""
    return f"{_CLASSIFIER[version]}/kernel", f"{_CLASSIFIER[version]}/bias"


def all_names(version: int) -> set[str]:
    """Returns every name that a variable of any layout may have."""
    layers = [str(index) for index in range(_MOST_LAYERS + 1)]  # the last has a norm without offset
    heads = {*head_names(layers, version).values(), *classifier_names(version)}
    return heads.union(*(encoder_names(layout, version).values() for layout in layouts(version)))


def _of_layer(ours: str, theirs: str, leaves: tuple[str, ...]) -> dict[str, str]:
    return {f"{_LEAVES[leaf][0]}/{ours}/{_LEAVES[leaf][1]}": f"{theirs}/{leaf}" for leaf in leaves}


def _conv_norm(ours: str, theirs: str, conv: int, norm: int) -> list[tuple[str, str, tuple[str, ...]]]:
    """A convolution and its norm, at two places of a list of layers; ``ours`` has braces for "conv" and "norm"."""
    return [
        (ours.format("conv"), f"{theirs}/{conv}/conv2d", ("kernel",)),
        (ours.format("norm"), f"{theirs}/{norm}/bn", _NORM),
    ]
