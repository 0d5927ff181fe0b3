"""Reads the checkpoints of Google's SimCLR code: TensorFlow 1 and 2 checkpoints, SavedModels and hub modules.

What network it is follows from the variables alone. Every variable is taken, or named as left out, or refused.
"""

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from simclr_jax.interop import google_files, google_names, tensors
from simclr_jax.interop.google_files import File
from simclr_jax.interop.google_names import Layout
from simclr_jax.models import Head, Network, create_model
from simclr_jax.models.architectures import resnets
from simclr_jax.models.channel_attention import excitation_squeezed, kernel_squeezed
from simclr_jax.models.network import WIDEST

_EMA = "ema_model/"
_USUAL_RATIO = 0.0625  # the only one that Google published
_MOST_STEPS = 2**31 - 1

# What is no part of the network, by name; of the two versions together.
_LEFT_OUT = {
    "optimiser": r"/(Momentum|Adam|Adam_1)$|^beta[12]_power$|/\.OPTIMIZER_SLOT/|^optimizer/",
    "counters": r"^global_step(/|$)|^save_counter/",
    "queue of negatives": r"(^|/)memory",
    "settings of Keras": r"/OBJECT_CONFIG_JSON$|(^|/)keras_api/",
}


@dataclasses.dataclass(frozen=True)
class Weights:
    """What a checkpoint holds.

    Attributes:
      variables: {"params", "batch_stats"} of the network, float32.
      classifier: {"kernel" [n, classes], "bias" [classes]} of the supervised head, or {}.
      network: what network it is.
      image_size: side of the images that its stem is for, pixels.
      step: training steps; 0 where the checkpoint does not tell.
      version: of TensorFlow.
      left_out: names of variables that are no part of the network, by what they are.
    """

    variables: dict[str, Any]
    classifier: dict[str, np.ndarray]
    network: Network
    image_size: int
    step: int
    version: int
    left_out: dict[str, list[str]]


def load(path: str, *, ema: bool = False) -> Weights:
    """Reads a checkpoint of Google's SimCLR code, version 1 or 2 of the paper.

    Args:
      path: a checkpoint's prefix such as DIR/model.ckpt-250228, a folder that holds one, or a SavedModel's folder.
      ema: take the moving average of the weights, which the second paper's TensorFlow 1 checkpoints hold beside them.

    Raises:
      ValueError: there is no checkpoint, it is damaged, or not one of SimCLR: then with what is missing, surplus and
        misshapen.
    """
    everything = google_files.open_checkpoint(path)
    file, left_out = _sorted_out(everything, ema)
    layers = google_names.head_layers(file.keys, file.version)
    # The layout whose variables are most like the file's, and {path in ours: name in the file}.
    head = google_names.head_names(layers, file.version)
    found = {name for name in file.keys if name not in head.values()}
    layouts = [(each, google_names.encoder_names(each, file.version)) for each in google_names.layouts(file.version)]
    layout, names = min(layouts, key=lambda pair: len(found.symmetric_difference(pair[1].values())))
    if 2 * len(found & set(names.values())) < len(names):
        some = ", ".join(sorted(file.entries)[:10])
        raise ValueError(f"{file.what} is a TensorFlow checkpoint, but not one of SimCLR: it holds {some}")
    names |= head
    network = _network(layout, names, file, layers)
    model = create_model(network)
    ours = tensors.shapes(model)
    # The supervised head, of as many classes as its bias tells of. It reads h or z.
    kernel, bias = google_names.classifier_names(file.version)
    classifier = {}
    if kernel in file.keys or bias in file.keys:
        classes = file.shapes.get(bias, file.shapes.get(kernel))[-1:]
        reads_z = file.shapes.get(kernel, ())[:1] == (network.head.dim,)  # h has the length of the layers before z
        classifier = {kernel: (network.head.dim if reads_z else model.encoder.feature_dim, *classes), bias: classes}
    wanted = {names[path]: shape for path, shape in ours.items()} | classifier
    taken = {file.keys[name] for name in wanted if name in file.keys}
    surplus = sorted(called for key, called in file.entries.items() if key not in taken)
    tensors.check(wanted, file.shapes, surplus=surplus, what=f"{file.what} is most similar to {describe(network)}")
    # Training steps; 0 where it tells of none.
    key = next((key for key in everything.entries if re.match(r"global_step(/|$)", key)), None)
    step = int(everything.read(key).reshape(-1)[0]) if key and everything.sizes[key] == () else 0
    if not 0 <= step <= _MOST_STEPS:
        raise ValueError(f"{file.what} is of step {step:,}, which is not a valid number of steps")
    return Weights(
        variables=tensors.nested({path: _read(file, names[path]) for path in ours}),
        classifier={name.rsplit("/", 1)[-1]: _read(file, name) for name in classifier},
        network=network,
        image_size=32 if network.cifar_stem else 224,
        step=step,
        version=file.version,
        left_out=left_out,
    )


def describe(network: Network) -> str:
    """Returns a network as text."""
    extras = [f"{name} {getattr(network, name):g}" for name in ("sk_ratio", "se_ratio") if getattr(network, name)]
    extras += ["CIFAR stem"] * network.cifar_stem
    layers = network.head.depth
    head = f"a projection head of {layers} layers to {network.head.dim} dimensions" if layers else "no projection head"
    return ", ".join([network.encoder, f"width {network.width}", *extras, head])


def _sorted_out(file: File, ema: bool) -> tuple[File, dict[str, list[str]]]:
    """Sorts out what is no part of the network, and of weights and moving average the one that is not asked for."""
    left_out = {what: [key for key in file.entries if re.search(rule, key)] for what, rule in _LEFT_OUT.items()}
    gone = {key for keys in left_out.values() for key in keys}
    averages = {
        name.removeprefix(_EMA): key for name, key in file.keys.items() if name.startswith(_EMA) and key not in gone
    }
    plain = {name: key for name, key in file.keys.items() if not name.startswith(_EMA) and key not in gone}
    if ema and not averages:
        raise ValueError(f"{file.what} has no moving average of its weights; leave out --ema")
    taken = plain | averages if ema else plain
    others = sorted({*plain.values(), *averages.values()} - set(taken.values()))
    left_out["weights without moving average" if ema else "moving average of the weights"] = others
    entries = {key: called for key, called in file.entries.items() if key not in gone.union(others)}
    return dataclasses.replace(file, keys=taken, entries=entries), {k: v for k, v in left_out.items() if v}


def _network(layout: Layout, names: dict[str, str], file: File, layers: list[str]) -> Network:
    """Returns what network it is, from the shapes of a few variables."""

    def shape(ours: str) -> tuple[int, ...]:
        return file.shapes.get(names.get(ours, ""), ())

    base = resnets()[layout.encoder].base_width
    channels = (shape(f"params/encoder/stem_norm{3 if layout.deep_stem else ''}/scale") or (base,))[-1]
    if channels % base or not 1 <= channels // base <= WIDEST:
        raise ValueError(
            f"{file.what} is most similar to {layout.encoder}, but its stem has {channels} channels, "
            f"not {base} times 1 to {WIDEST}"
        )
    stages = len(resnets()[layout.encoder].stage_sizes)
    filters, last = channels * 2 ** (stages - 1), f"params/encoder/stage{stages}_block1"
    mixing = shape(f"{last}/selective/squeeze/kernel")
    narrowed = shape(f"{last}/excitation/squeeze/kernel")
    head = shape(f"params/head/dense{len(layers)}/kernel")
    return Network(
        encoder=layout.encoder,
        width=channels // base,
        cifar_stem=not layout.deep_stem and shape("params/encoder/stem_conv/kernel")[:1] == (3,),
        sk_ratio=_ratio(mixing, filters, kernel_squeezed) if layout.resnet_d else 0.0,
        se_ratio=_ratio(narrowed, filters, excitation_squeezed) if layout.excitation else 0.0,
        pool="same",
        normalize="none",
        norm="batch",
        dtype="float32",
        head=Head(
            kind=("none", "linear", "nonlinear")[min(len(layers), 2)],
            layers=max(1, len(layers)),
            dim=max(1, head[-1]) if head else 128,
        ),
    )


def _ratio(shape: tuple[int, ...], filters: int, channels: Callable[[int, float], int]) -> float:
    """Returns a ratio that gives a kernel so many channels. Several do; the one that was published is preferred."""
    wanted = shape[-1] if shape else channels(filters, _USUAL_RATIO)
    ratios = [_USUAL_RATIO, wanted / filters, (wanted + 0.5) / filters]  # the last, for a quotient that is rounded down
    return next((ratio for ratio in ratios if ratio <= 1 and channels(filters, ratio) == wanted), _USUAL_RATIO)


def _read(file: File, name: str) -> np.ndarray:
    array = file.read(file.keys[name])
    if array.dtype != np.float32:
        raise ValueError(f"{file.what}: {name} is {array.dtype} instead of float32")
    return array
