"""What a row is given, the sizes that it takes, and how it tells a figure."""

import argparse
import dataclasses
import json
import pathlib
import time
from collections.abc import Sequence
from typing import Any

START = time.monotonic()


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How large everything is; a toy's sizes take the same way through the code.

    Attributes:
      encoder, batch, pixels: the network of CIFAR-10.
      dtype: of the runs' computation. A toy's is float32: jax 0.11.2 computes bfloat16 wrongly on some CPUs.
      large: encoder, batch and pixels of the larger step.
      smoke_batch, smoke_images: of the textures, in two epochs: 100 steps of all 6,000.
      rounds, turn: of turns, and seconds of one.
      stored: images whose views are made alone.
      loss_images: of the loss's batches.
      epochs, longest: of row 5, and of row 7.
      probe_epochs: of the linear probe.
      part_steps, part_runs: after which a part of row 7 and row 8 end, if their time is not over before; 0 = never.
      compile_seconds, probe_seconds: kept for compiling a step again, and for the probes.
      ablation_epochs: of a run of row 8.
    """

    encoder: str = "resnet18"
    batch: int = 512
    pixels: int = 32
    dtype: str = "bfloat16"
    large: tuple[str, int, int] = ("resnet50", 256, 224)
    smoke_batch: int = 120
    smoke_images: int = 0
    rounds: int = 3
    turn: float = 3.0
    stored: int = 1024
    loss_images: tuple[int, ...] = (4096, 16384, 32768, 131072)
    epochs: int = 200
    longest: int = 1000
    probe_epochs: int = 100
    part_steps: int = 0
    part_runs: int = 0
    compile_seconds: float = 30.0
    probe_seconds: float = 60.0
    ablation_epochs: int = 20


TOY = Sizes(
    encoder="resnet_tiny",
    batch=16,
    pixels=16,
    dtype="float32",
    large=("resnet_tiny", 16, 16),
    smoke_batch=32,
    smoke_images=320,
    rounds=1,
    turn=0.5,
    stored=16,
    loss_images=(64, 128),
    epochs=1,
    longest=40,
    probe_epochs=2,
    part_steps=50,
    part_runs=1,
    compile_seconds=0.0,
    probe_seconds=0.0,
    ablation_epochs=1,
)


def tell(name: str, value: float | str | None, unit: str, *, spread: Sequence[float] = (), note: str = "") -> None:
    """Tells a figure: a number, its median where there is a spread [min, median, max], None for one not to be had."""
    figure: dict[str, Any] = {"name": name, "value": value, "unit": unit}
    figure |= {"spread": list(spread)} if spread else {}
    print("FIGURE " + json.dumps(figure | ({"note": note} if note else {})), flush=True)


def tell_spread(name: str, spread: Sequence[float], unit: str, *, note: str = "") -> None:
    """Tells min, median and max of turns."""
    tell(name, spread[1], unit, spread=spread, note=note)


def seconds_left(given: argparse.Namespace) -> float:
    """Returns how much of a row's time is left."""
    return given.seconds - (time.monotonic() - START)


def keep(given: argparse.Namespace, *paths: pathlib.Path, of: str) -> None:
    """Copies small files of a run to where they come back from, as OF/…."""
    for path in paths:
        if path.is_file():
            place = pathlib.Path(given.scratch) / "kept" / of / path.name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(path.read_bytes())
