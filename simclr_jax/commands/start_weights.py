"""What a new run's network begins with: weights of another run or of a file, fitted, counted and listed.

Which arrays may have another shape is left to `models.fitting`, what a file holds to `interop`.
"""

import dataclasses
import math
import os
import textwrap
import zlib
from typing import Any

import numpy as np

from simclr_jax.evaluate.scores import printable
from simclr_jax.evaluate.trained_network import open_run
from simclr_jax.interop import pytorch, tensors
from simclr_jax.models import Network, fitting
from simclr_jax.runtime import checkpoint, checksums, processes
from simclr_jax.runtime.config import network_of
from simclr_jax.runtime.console import detail, say
from simclr_jax.runtime.differences import encoder_differences, same_head
from simclr_jax.training.trainer import Trainer

_LONGEST = 200  # characters of a tensor's name


@dataclasses.dataclass(frozen=True)
class StartWeights:
    """Weights that a run begins with.

    Attributes:
      source: what they are, "RUN at step 7".
      variables: {"params": {"encoder": …, "head": …}, "batch_stats": …}; without "head" where the network's is new.
      summary: what of them is loaded, adapted, new and left, with counts, in a line.
      names: {the same: names of the tensors}.
    """

    source: str
    variables: dict[str, Any]
    summary: str
    names: dict[str, list[str]]

    def describe(self) -> None:
        """Says what is loaded; names every tensor to those who want to read it."""
        say(f"starting from the weights of {self.source}: {self.summary}; --verbose lists them")
        for what, names in self.names.items():
            if names:
                listed = ", ".join(printable(name, _LONGEST) for name in names)  # those of a file may be anything
                detail(textwrap.fill(f"{what}: {listed}", 118, initial_indent="  ", subsequent_indent="  "))


@dataclasses.dataclass(frozen=True)
class _Source:
    """What is read: the network it is, its arrays by path ("params/encoder/stem_conv/kernel"), what else it holds."""

    title: str
    network: Network
    arrays: dict[str, np.ndarray]
    others: tuple[str, ...] = ()
    other_numbers: int = 0


def read(trainer: Trainer, workdir: str) -> StartWeights | None:
    """Reads the weights that model.init_from names; None without one, or where the run has its own to go on.

    Args:
      trainer: of the run that is to begin.
      workdir: its RUN.

    Raises:
      ValueError: there are no such weights, or they are of another encoder: in one line, with the keys to set, and how
        many tensors do not fit and the first of them.
      OSError: the disk does not give them.
    """
    place = os.path.expanduser(trainer.config.model.init_from)
    if not place or processes.agree(checkpoint.latest_step(workdir) is not None):
        return None
    try:
        if os.path.realpath(checkpoint.split(place)[0]) == os.path.realpath(os.path.expanduser(workdir)):
            raise ValueError("this is the run's own folder, which has no weights yet; give another place")
        network, shapes = network_of(trainer.config), trainer.state_shapes()
        # Of several processes the first says what it is, and the step: the run that it is of may still be training.
        is_file = processes.agree(os.path.isfile(place) or place.endswith(".safetensors"))
        if not (is_file or os.path.isfile(os.path.join(checkpoint.split(place)[0], "config.json"))):
            raise ValueError(
                f"{place} is not a run, which has a config.json; give RUN, RUN/checkpoints/STEP or FILE.safetensors"
            )
        source = _of_file(place, network) if is_file else _of_run(place)
        start = _fitted(source, network, {"params": shapes.params, "batch_stats": shapes.batch_stats})
    except ValueError as error:
        raise ValueError(f"config.model.init_from={place}: {error}") from error
    found = zlib.crc32(repr(sorted(checksums.of_arrays(start.variables).items())).encode()) >> 1
    if processes.agree(found) != found:
        raise ValueError(f"config.model.init_from={place} has other weights here than for process 0; give all the same")
    return start


def _of_run(place: str) -> _Source:
    run = open_run(place) if processes.is_first() else None
    step = processes.agree(run.step if run else 0)
    run = run or open_run(checkpoint.split(place)[0], step)
    return _Source(f"{run.run} at step {run.step:,}", network_of(run.config), tensors.flat(run.variables))


def _of_file(place: str, mine: Network) -> _Source:
    weights = pytorch.load(place, otherwise="none")
    network = weights.network
    if weights.normalize is None:  # how images were normalised is the user's to say
        keys = ("channels", "normalize", "mean", "deviation")
        network = dataclasses.replace(network, **{key: getattr(mine, key) for key in keys})
    arrays = tensors.flat({kind: {"encoder": tree} for kind, tree in weights.variables.items()})
    return _Source(place, network, arrays, tuple(weights.left_out), weights.left_out_numbers)


def _fitted(source: _Source, network: Network, variables: dict[str, Any]) -> StartWeights:
    """Returns weights in the shapes of a network's variables; raises ValueError where its encoder is another one."""
    wanted = {path: x.shape for path, x in tensors.flat(variables).items()}
    of_encoder = {path: x for path, x in source.arrays.items() if _is_of_encoder(path)}
    loaded = {path: fitting.adapted(path, x, wanted.get(path, x.shape)) for path, x in of_encoder.items()}
    _check_encoder(source.network, network, {path: wanted[path] for path in filter(_is_of_encoder, wanted)}, loaded)
    adapted = [
        f"{path} {list(x.shape)} → {list(loaded[path].shape)}"
        for path, x in of_encoder.items()
        if loaded[path].shape != x.shape
    ]
    if same_head(source.network, network):
        loaded = source.arrays | loaded
    new = {path: shape for path, shape in wanted.items() if path not in loaded}
    left = {path: x for path, x in source.arrays.items() if path not in loaded}
    names = {"loaded": [*loaded], "adapted": adapted, "new": [*new], "left": [*left, *source.others]}
    numbers = {
        "loaded": sum(x.size for x in loaded.values()),
        "new": sum(map(math.prod, new.values())),
        "left": sum(x.size for x in left.values()) + source.other_numbers,
    }
    counts = {of: f"{len(names[of]):,} tensors ({number:,} numbers)" for of, number in numbers.items()}
    summary = [f"loaded {counts['loaded']}"]
    summary += [f"of them adapted {', '.join(adapted)}"] * bool(adapted)
    summary += [f"new in the network is the head, {counts['new']}"] * bool(new)
    summary += [f"left in the source {counts['left']}"] * bool(names["left"])
    return StartWeights(source.title, tensors.nested(loaded), "; ".join(summary), names)


def _check_encoder(
    old: Network, new: Network, wanted: dict[str, tuple[int, ...]], found: dict[str, np.ndarray]
) -> None:
    """Raises ValueError where an encoder is another one: with the keys, and with the tensors that do not fit."""
    differences = encoder_differences(old, new)
    misfits = tensors.misfits(
        wanted, {path: x.shape for path, x in found.items()}, sorted(found.keys() - wanted.keys())
    )
    faults = [f"its encoder is different ({'; '.join(differences)}); set these keys to its values"] * bool(differences)
    faults += [f"of the encoder's {len(wanted)} tensors some do not fit: {misfits}"] * bool(misfits)
    if faults:
        raise ValueError("; ".join(faults))


def _is_of_encoder(path: str) -> bool:
    return path.split("/")[1] == "encoder"
