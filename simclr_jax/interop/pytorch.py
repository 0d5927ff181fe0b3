"""Encoders as PyTorch state dicts with torchvision's names, in safetensors files: data, and no pickle.

A state dict tells names and shapes alone. What else makes the network is said by who imports, and written by who
exports: padding of the stem's max-pool, and what the images are normalised by.
"""

import dataclasses
import json
import os
import pathlib
import re
import shlex
from typing import Any

import numpy as np
import safetensors.numpy

from simclr_jax.interop import tensors
from simclr_jax.models import ENCODERS, NORMALIZATIONS, Head, Network, ResNet

_LARGEST_SIDE = 4096  # pixels, as of augment.image_size
_EPSILON = 1e-5  # of BatchNorm, in PyTorch and here
_LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
# The children of torchvision's ResNet, by what a Sequential that was made of them calls them, as lightly does.
_CHILDREN = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}
_CONVERT = (
    'if you trust it, convert it: python -c "import sys, torch, safetensors.torch as s; d = torch.load(sys.argv[1], '
    "weights_only=True); s.save_file({k: v.clone() for k, v in d.get('state_dict', d).items()}, sys.argv[2])\" "
)


@dataclasses.dataclass(frozen=True)
class Weights:
    """What a state dict holds.

    Attributes:
      variables: {"params", "batch_stats"} of the encoder, float32.
      network: what network it is; it has no head.
      prefix: of the encoder's names in the file.
      left_out: names of tensors that are no part of the encoder.
      image_size: side of the images that it was trained on, pixels; None where the file does not tell.
    """

    variables: dict[str, Any]
    network: Network
    prefix: str
    left_out: list[str]
    image_size: int | None = None


def load(path: str, *, pool: str | None = None, normalize: str | None = None, prefix: str | None = None) -> Weights:
    """Reads an encoder from a state dict with torchvision's names, behind any prefix.

    Args:
      path: a .safetensors file.
      pool, normalize: what the weights were trained with, see `Network`. None takes what `save` wrote into the
        file, and of others' files the pool of PyTorch's networks, "symmetric"; normalize must be said of them.
      prefix: of the encoder's names; None where there is one encoder, which is found.

    Raises:
      ValueError: the file is no safetensors, damaged, or holds no such encoder: then with what is missing, surplus and
        misshapen.
    """
    shapes, arrays, stated = _open(path)
    pool, normalize = pool or stated.get("pool", "symmetric"), normalize or stated.get("normalize")
    if normalize is None:
        known = ", ".join(NORMALIZATIONS)
        raise ValueError(
            f"{path} does not say how its training images were normalised; give --normalize, one of {known}"
        )
    image_size = stated.get("image_size")
    if image_size is not None and not (type(image_size) is int and 1 <= image_size <= _LARGEST_SIDE):
        raise ValueError(f"{path} states images of {image_size!r:.40} pixels; a side is 1 to {_LARGEST_SIDE:,}")
    # What the encoder's names begin with, and whether a Sequential numbers its children.
    places = [
        (name.removesuffix(end), numbered)
        for end, numbered in (("layer1.0.conv1.weight", False), ("4.0.conv1.weight", True))
        for name in shapes
        if name == end or name.endswith(f".{end}")
    ]
    places = {beginning: numbered for beginning, numbered in places if prefix in (None, beginning)}
    if len(places) != 1:
        some = ", ".join(sorted(shapes)[:10]) if not places else ", ".join(map(repr, sorted(places)[:10]))
        several = f"{len(places)} encoders; choose one with --prefix"
        what = several if places else "no ResNet with torchvision's names; it has"
        raise ValueError(f"{path} holds {what}: {some}")
    ((prefix, numbered),) = places.items()
    # {torchvision's name: name in the file} of the encoder's tensors.
    found = {}
    for name in shapes:
        if name.startswith(prefix):
            child, dot, rest = name.removeprefix(prefix).partition(".")
            found[f"{_CHILDREN.get(child, '?') if numbered else child}{dot}{rest}"] = name
    found = {name: key for name, key in found.items() if re.match(r"(conv1|bn1|layer\d+)\.", name)}
    sizes = {name: shapes[key] for name, key in found.items() if not name.endswith(".num_batches_tracked")}
    network = dataclasses.replace(_network(path, sizes, stated.get("encoder")), pool=pool, normalize=normalize)
    ours = tensors.shapes(ResNet(network.architecture, network))
    names = {leaf: _name(leaf) for leaf in ours}
    identity = {} if any("layer1.0.downsample" in name for name in sizes) else _identity(ours)
    # PyTorch's kernels are [outputs, inputs, height, width], ours [height, width, inputs, outputs].
    wanted = {
        names[leaf]: (shape[3], shape[2], *shape[:2]) if len(shape) == 4 else shape
        for leaf, shape in ours.items()
        if leaf not in identity
    }
    tensors.check(
        wanted, sizes, surplus=sorted(sizes.keys() - wanted.keys()), what=f"{path} is most similar to {network.encoder}"
    )
    values = {leaf: arrays(found[names[leaf]]) for leaf in ours if leaf not in identity}
    values = {leaf: x.transpose(2, 3, 1, 0) if x.ndim == 4 else x for leaf, x in values.items()}
    variables = tensors.nested({leaf: np.ascontiguousarray(x) for leaf, x in values.items()} | identity)
    taken = {found[name] for name in wanted}
    return Weights(variables, network, prefix, sorted(shapes.keys() - taken), image_size)


def save(path: str, variables: dict[str, Any], network: Network, *, image_size: int | None = None) -> None:
    """Writes an encoder as a state dict, with what makes the network in the file's metadata.

    Args:
      path: the .safetensors file.
      variables: {"params", "batch_stats"} of the encoder.
      network: that it is the encoder of.
      image_size: side of the images that it was trained on, pixels.

    Raises:
      ValueError: PyTorch's networks of these names have no such part.
    """
    for name, plain in (("sk_ratio", 0.0), ("se_ratio", 0.0), ("norm", "batch")):
        value = getattr(network, name)
        if value != plain:
            raise ValueError(f"model.{name}={value} is not supported by torchvision's ResNets; only {plain} is")
    leaves = tensors.flat(variables)
    shapes = {leaf: x.shape for leaf, x in leaves.items()}
    identity = _identity(shapes)
    if identity and all(np.array_equal(leaves[leaf], x) for leaf, x in identity.items()):
        leaves = {leaf: x for leaf, x in leaves.items() if leaf not in identity}
    state = {_name(leaf): np.transpose(x, (3, 2, 0, 1)) if x.ndim == 4 else x for leaf, x in leaves.items()}
    state = {name: np.ascontiguousarray(x) for name, x in state.items()}
    norms = [name.removesuffix("running_mean") for name in state if name.endswith("running_mean")]
    state |= {f"{name}num_batches_tracked": np.zeros((), np.int64) for name in norms}
    described = {
        "stage_sizes": network.architecture.stage_sizes,
        "bottleneck": network.architecture.bottleneck,
        "filters": network.architecture.base_width * network.width,
        **{name: getattr(network, name) for name in ("encoder", "cifar_stem", "pool", "normalize")},
        **({} if image_size is None else {"image_size": image_size}),
    }
    metadata = {"format": "pt", "simclr_jax": json.dumps(described)}
    # safetensors' own writing makes a file that its owner alone may read, and an error of its own of a full disk.
    pathlib.Path(path).write_bytes(safetensors.numpy.save(state, metadata))


def _open(path: str):
    """Returns {name: shape} of a file, what reads an array by name, and what `save` stated."""
    if not os.path.isfile(path):
        raise ValueError(f"{path} is not a file; give a .safetensors file")
    try:
        file = safetensors.safe_open(path, framework="numpy")
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        kinds = {name: file.get_slice(name).get_dtype() for name in shapes}
        stated = json.loads((file.metadata() or {}).get("simclr_jax", "{}"))
    except Exception as error:  # SafetensorError, OSError and others
        with open(path, "rb") as pickled:
            if pickled.read(2).startswith((b"PK", b"\x80")):  # asked only now: a safetensors file may begin so, too
                how = _CONVERT + shlex.join([path, f"{path}.safetensors"])
                raise ValueError(f"{path} is a pickle, which may run code and is not read; {how}") from error
        told = str(error).splitlines()[0][:200]
        raise ValueError(f"{path} is not a safetensors file, or is damaged: {told}") from error

    def read(name: str) -> np.ndarray:
        if kinds[name] != "F32":
            raise ValueError(f"{path}: {name} is {kinds[name]} instead of F32; save it in float32")
        return file.get_tensor(name)

    return shapes, read, stated if isinstance(stated, dict) else {}


def _network(path: str, sizes: dict[str, tuple[int, ...]], stated: Any) -> Network:
    """Returns what shapes tell of the network; of encoders that have the same shapes, the stated one."""
    places = {tuple(map(int, match.groups())) for name in sizes if (match := re.match(r"layer(\d+)\.(\d+)\.", name))}
    stages = sorted({stage for stage, _ in places})
    blocks = tuple(sum(place[0] == stage for place in places) for stage in stages)
    bottleneck = "layer1.0.conv3.weight" in sizes
    for encoder, known in sorted(ENCODERS.items(), key=lambda item: item[0] != stated):
        stem = sizes.get("conv1.weight", ())
        if known.stage_sizes != blocks or known.bottleneck != bottleneck or len(stem) != 4:
            continue
        if stem[0] % known.base_width == 0 and stem[0]:
            width, headless = stem[0] // known.base_width, Head(kind="none", layers=1)
            return Network(encoder=encoder, width=width, cifar_stem=stem[2] == 3, head=headless)
    kind = "three" if bottleneck else "two"
    raise ValueError(f"{path} has {list(blocks)} blocks of {kind} convolutions; known: {', '.join(ENCODERS)}")


def _name(leaf: str) -> str:
    """Returns torchvision's name of a leaf of ours."""
    *folders, kind = leaf.split("/")[1:]
    place = ".".join(folders)
    place = re.sub(r"^stem_(conv|norm)$", r"\g<1>1", place)
    place = re.sub(r"^stage(\d+)_block(\d+)", lambda m: f"layer{m[1]}.{int(m[2]) - 1}", place)
    place = place.replace("shortcut_conv", "downsample.0").replace("shortcut_norm", "downsample.1")
    return f"{place.replace('norm', 'bn')}.{_LEAVES[kind]}"


def _identity(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Returns the first shortcut that does nothing: torchvision has none in blocks of two convolutions."""
    kernel = shapes["params/stage1_block1/shortcut_conv/kernel"]
    if kernel[2] != kernel[3]:
        return {}
    ones = np.ones(kernel[3], np.float32)
    norm = {"params/{}/scale": ones * np.sqrt(1 + _EPSILON), "params/{}/bias": 0 * ones}
    norm |= {"batch_stats/{}/mean": 0 * ones, "batch_stats/{}/var": ones}
    eye = {"params/stage1_block1/shortcut_conv/kernel": np.eye(len(ones), dtype=np.float32)[None, None]}
    return eye | {path.format("stage1_block1/shortcut_norm"): x.astype(np.float32) for path, x in norm.items()}
