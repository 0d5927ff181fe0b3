"""Encoders as PyTorch state dicts with torchvision's or timm's names, in safetensors files: data, and no pickle.

A state dict tells names and shapes alone. What else makes the network is said by who imports, and written by who
exports: padding of a ResNet's max-pool, and what the images are normalised by.
"""

import dataclasses
import json
import math
import os
import pathlib
import shlex
from typing import Any

import numpy as np
import safetensors.numpy

from simclr_jax.interop import tensors, torch_names
from simclr_jax.models import NORMALIZATIONS, Network, encoder_of
from simclr_jax.models.architectures import ResNetArchitecture
from simclr_jax.models.vit import fixed_positions

_LARGEST_SIDE = 4096  # pixels, as of augment.image_size
_EPSILON = 1e-5  # of BatchNorm, in PyTorch and here
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
      normalize: what the file itself says of the normalisation; None where it does not tell.
      left_out_numbers: how many numbers are in the tensors that are left out.
    """

    variables: dict[str, Any]
    network: Network
    prefix: str
    left_out: list[str]
    image_size: int | None = None
    normalize: str | None = None
    left_out_numbers: int = 0


def load(
    path: str,
    *,
    pool: str | None = None,
    normalize: str | None = None,
    otherwise: str | None = None,
    prefix: str | None = None,
) -> Weights:
    """Reads an encoder from a state dict with torchvision's or timm's names, behind any prefix.

    Args:
      path: a .safetensors file.
      pool, normalize: what the weights were trained with, see `Network`. None takes what `save` wrote into the
        file, and of others' files the pool of PyTorch's networks, "symmetric"; normalize must be said of them.
      otherwise: what normalize is where neither it is given nor the file tells.
      prefix: of the encoder's names; None where there is one encoder, which is found.

    Raises:
      ValueError: the file is no safetensors, damaged, or holds no such encoder: then with what is missing, surplus and
        misshapen.
    """
    shapes, arrays, stated = _open(path)
    kept = normalize in (None, "data") and stated.get("normalize") == "data"
    normalize = normalize or stated.get("normalize") or otherwise
    if normalize is None:
        known = ", ".join(NORMALIZATIONS)  # data's numbers are those of a file that this library has written
        raise ValueError(
            f"{path} does not say how its training images were normalised; give --normalize, one of {known}"
        )
    image_size = stated.get("image_size")
    if image_size is not None and not (type(image_size) is int and 1 <= image_size <= _LARGEST_SIDE):
        raise ValueError(f"{path} states images of {image_size!r:.40} pixels; a side is 1 to {_LARGEST_SIDE:,}")
    places = torch_names.places(shapes, prefix)
    if len(places) != 1:
        some = ", ".join(sorted(shapes)[:10]) if not places else ", ".join(map(repr, sorted(places)[:10]))
        several = f"{len(places)} encoders; choose one with --prefix"
        what = several if places else "no encoder with torchvision's or timm's names; it has"
        raise ValueError(f"{path} holds {what}: {some}")
    ((prefix, (naming, found)),) = places.items()
    sizes = {
        name: torch_names.dense(name, shapes[key])
        for name, key in found.items()
        if not name.endswith(".num_batches_tracked")
    }
    network = naming.network(path, sizes, stated.get("encoder"))
    more: dict[str, Any] = {"normalize": normalize}
    if kept:
        more |= {name: _numbers(path, name, stated.get(name)) for name in ("mean", "deviation")}
    elif normalize == "data":
        raise ValueError(f"--normalize=data: {path} does not state mean and deviation of its images; choose another")
    if network.architecture.family == "ResNet":
        more["pool"] = pool or stated.get("pool", "symmetric")
    elif pool:
        raise ValueError(f"--pool={pool} is of a ResNet's max-pool, and {path} holds a {network.encoder}; leave it out")
    if network.architecture.family == "ViT":
        side = torch_names.side_of_positions(sizes)
        if not side:
            raise ValueError(
                f"{path}: pos_embed is {list(sizes.get('pos_embed', ()))}, not that of a square and a class token"
            )
        image_size, fixed = side * network.patch, fixed_positions(side, side, network.architecture.width)
        if stated.get("positions") == "sincos" and np.array_equal(arrays(found["pos_embed"]), fixed):
            more["positions"] = "sincos"
            sizes.pop("pos_embed")
    network = dataclasses.replace(network, **more)
    ours = tensors.shapes(encoder_of(network), image_size or 32)
    names = {leaf: torch_names.name_of(leaf, network) for leaf in ours}
    identity = {} if any("layer1.0.downsample" in name for name in sizes) else _identity(ours)
    wanted = {names[leaf]: torch_names.shape_of_theirs(shape) for leaf, shape in ours.items() if leaf not in identity}
    tensors.check(
        wanted, sizes, surplus=sorted(sizes.keys() - wanted.keys()), what=f"{path} is most similar to {network.encoder}"
    )
    values = {
        leaf: torch_names.of_theirs(arrays(found[names[leaf]]), shape)
        for leaf, shape in ours.items()
        if leaf not in identity
    }
    variables = tensors.nested({leaf: np.ascontiguousarray(x) for leaf, x in values.items()} | identity)
    taken = {found[name] for name in wanted} | ({found["pos_embed"]} if network.positions == "sincos" else set())
    left_out = sorted(shapes.keys() - taken)
    numbers = sum(math.prod(shapes[name]) for name in left_out)
    told = stated.get("normalize") if isinstance(stated.get("normalize"), str) else None
    return Weights(variables, network, prefix, left_out, image_size, told, numbers)


def save(path: str, variables: dict[str, Any], network: Network, *, image_size: int | None = None) -> None:
    """Writes an encoder as a state dict, with what makes the network in the file's metadata.

    Args:
      path: the .safetensors file.
      variables: {"params", "batch_stats"} of the encoder.
      network: that it is the encoder of.
      image_size: side of the images that it was trained on, pixels; a ViT's positions may depend on it.

    Raises:
      ValueError: PyTorch's networks of these names have no such part.
    """
    if network.architecture.family == "ResNet":
        for name, plain in (("sk_ratio", 0.0), ("se_ratio", 0.0), ("norm", "batch")):
            value = getattr(network, name)
            if value != plain:
                raise ValueError(f"model.{name}={value} is not supported by torchvision's ResNets; only {plain} is")
    leaves = tensors.flat(variables)
    identity = _identity({leaf: x.shape for leaf, x in leaves.items()})
    if identity and all(np.array_equal(leaves[leaf], x) for leaf, x in identity.items()):
        leaves = {leaf: x for leaf, x in leaves.items() if leaf not in identity}
    state = {}
    for leaf, x in leaves.items():
        name = torch_names.name_of(leaf, network)
        state[name] = np.ascontiguousarray(torch_names.of_ours(np.asarray(x), name, network))
    if network.architecture.family == "ViT" and network.positions == "sincos":
        if image_size is None:
            raise ValueError("fixed positions depend on the image's size; give image_size")
        side = image_size // network.patch
        state["pos_embed"] = fixed_positions(side, side, network.architecture.width)
    norms = [name.removesuffix("running_mean") for name in state if name.endswith("running_mean")]
    state |= {f"{name}num_batches_tracked": np.zeros((), np.int64) for name in norms}
    metadata = {"format": "pt", "simclr_jax": json.dumps(_described(network, image_size))}
    # safetensors' own writing makes a file that its owner alone may read, and an error of its own of a full disk.
    pathlib.Path(path).write_bytes(safetensors.numpy.save(state, metadata))


def _described(network: Network, image_size: int | None) -> dict[str, Any]:
    """What else makes the network, for who reads the file."""
    architecture, size = network.architecture, {} if image_size is None else {"image_size": image_size}
    more: dict[str, Any] = {"channels": network.channels} if network.channels != 3 else {}
    if network.normalize == "data":
        more |= {"mean": network.mean, "deviation": network.deviation}
    if isinstance(architecture, ResNetArchitecture):
        return {
            "stage_sizes": architecture.stage_sizes,
            "bottleneck": architecture.bottleneck,
            "filters": architecture.base_width * network.width,
            **{name: getattr(network, name) for name in ("encoder", "cifar_stem", "pool", "normalize")},
            **size,
            **more,
        }
    of_vit = ("positions", "global_pool") if architecture.family == "ViT" else ()
    keys = {name: getattr(network, name) for name in ("encoder", *of_vit, "normalize")}
    return keys | {"patch_size": network.patch} | size | more


def _numbers(path: str, name: str, values: Any) -> tuple[float, ...]:
    """Returns what a file states of each channel; raises ValueError where it is no list of numbers."""
    if not (isinstance(values, list) and values and all(type(value) in (int, float) for value in values)):
        raise ValueError(f"{path} states {values!r:.40} as the {name} of each channel, which are no numbers")
    return tuple(map(float, values))


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


def _identity(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Returns the first shortcut that does nothing: torchvision has none in blocks of two convolutions."""
    kernel = shapes.get("params/stage1_block1/shortcut_conv/kernel")
    if kernel is None or kernel[2] != kernel[3]:
        return {}
    ones = np.ones(kernel[3], np.float32)
    norm = {"params/{}/scale": ones * np.sqrt(1 + _EPSILON), "params/{}/bias": 0 * ones}
    norm |= {"batch_stats/{}/mean": 0 * ones, "batch_stats/{}/var": ones}
    eye = {"params/stage1_block1/shortcut_conv/kernel": np.eye(len(ones), dtype=np.float32)[None, None]}
    return eye | {path.format("stage1_block1/shortcut_norm"): x.astype(np.float32) for path, x in norm.items()}
