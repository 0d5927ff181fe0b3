"""The whole pretraining step beside PyTorch's, and what the loop around it costs.

    make bench-step BENCH_FLAGS="--out=benchmarks/results/step_2_cores"

Programs are processes that take turns; a ratio is that of two turns of one round, to the layout of PyTorch that is
quicker. All see random images and, through make, have their memory in huge pages. "step" is the step of a run: views
made on the device, both passes, NT-Xent, the online probe, LARS. "step, ready views" is given its views, as PyTorch's
step is, which takes SGD in the place of LARS. FLOPs are those of the model, three forward passes; the peak is that of a
large matrix product. The last line is one JSON object, which --out writes to OUT.json.
"""

import argparse
import dataclasses
import datetime
import functools
import importlib.util
import json
import os
import pathlib
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib import metadata
from typing import Any

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))
from turns import Program, Turn, show, spread, take_turns  # noqa: E402

ENCODERS = ("resnet_tiny", "resnet18", "resnet50")
LOOP_BLOCK = 20  # steps in one turn of the loop
PEAK_SIDE = {"cpu": 3072}  # of the matrices; elsewhere 8192


def config_of(images: str, encoder: str, batch: int, size: int, dtype: str) -> Any:
    """Returns CIFAR's recipe at this size on one device, from an archive that the device holds."""
    from simclr_jax.configs import cifar10

    config = cifar10.get_config()
    config.data.source, config.data.holdout_fraction = f"npz:{images}", 0.0
    config.augment.image_size = size
    config.model.encoder, config.model.dtype, config.model.cifar_stem = encoder, dtype, size <= 32
    config.train.batch_size = batch
    return config


def write_images(path: str, size: int, batch: int) -> None:
    """Writes noise: the time of a step does not depend on what is seen."""
    rng = np.random.default_rng(0)
    count = 4 * batch + 64
    images = rng.integers(0, 256, (count, size, size, 3), np.uint8)
    np.savez(path, x_train=images, y_train=np.arange(count) % 10)


# The programs


def ours(images: str, encoder: str, batch: int, size: int, dtype: str, *, ready: bool) -> Iterator[None]:
    """The step as a run takes it, or with views that are there."""
    from simclr_jax.runtime import devices
    from simclr_jax.training.trainer import Trainer

    trainer = Trainer.from_config(config_of(images, encoder, batch, size, dtype))
    train_step, state = trainer.map_train_step(), devices.replicate(trainer.initial_state())
    resident = devices.replicate(trainer.feed.resident)
    batches = map(devices.shard, trainer.feed.training(0, 10**9))
    if ready:
        views = np.random.default_rng(0).random((batch, 2, size, size, 3), np.float32)
        there = devices.shard({"views": views, "labels": np.arange(batch) % 10})
        there = devices.map_step(lambda state, batch, resident, axis_name: batch)(None, there, None)
        batches, resident = iter(lambda: there, None), None
    before = None
    for batch_now in batches:
        state, metrics = train_step(state, batch_now, resident, False)
        if before:
            devices.first(before)  # one step behind, as the loop
        before = metrics
        yield


def torchs(
    encoder: str, batch: int, size: int, dtype: str, channels_last: bool, *, compiled: bool = True
) -> Iterator[None]:
    """PyTorch's step; its module is imported in the process that runs it."""
    import torch_step

    return torch_step.train(encoder, batch, size, dtype, 0.5, channels_last, compiled=compiled)


def programs(images: str, given: argparse.Namespace) -> dict[str, Program]:
    """Returns what can run here, by name."""
    what = (given.encoder, given.batch, given.size, given.dtype)
    found = {
        "step": functools.partial(ours, images, *what, ready=False),
        "step, ready views": functools.partial(ours, images, *what, ready=True),
    }
    if has_torch():
        found |= {"PyTorch": functools.partial(torchs, *what, False)}
        found |= {"PyTorch, channels_last": functools.partial(torchs, *what, True)}
    return found


def has_torch() -> bool:
    """Tells whether PyTorch is installed, without importing it."""
    return importlib.util.find_spec("torch") is not None


def compare(found: dict[str, Program], given: argparse.Namespace) -> dict[str, Any]:
    """Lets programs take turns; returns their rows by name."""
    return rows_of(take_turns(found, rounds=given.rounds, seconds=given.seconds), given.batch)


def rows_of(turns: dict[str, list[Turn]], batch: int) -> dict[str, Any]:
    """Returns what turns tell of each program, and the ratios of ours to the quickest of PyTorch's."""
    rates = {name: [2 * batch * turn.rate for turn in values] for name, values in turns.items()}
    rivals = [name for name in rates if name.startswith("PyTorch")]
    best = max(rivals, key=lambda name: statistics.median(rates[name]), default=None)
    rows = {}
    for name, values in turns.items():
        row = {"views/s": spread(rates[name]), "ms": spread(1000 / turn.rate for turn in values)}
        row["processor ms"] = spread(1000 * turn.cost for turn in values)
        if best and name not in rivals:
            row["ratio"] = spread(a / b for a, b in zip(rates[name], rates[best], strict=True))
            costs = zip(values, turns[best], strict=True)
            row["ratio of processor time"] = spread(theirs.cost / mine.cost for mine, theirs in costs)
        rows[name] = row
    return rows


def print_rows(rows: dict[str, Any]) -> None:
    """Prints a table; spreads are min – median – max."""
    print(f"{'':26}{'views/s':>28}{'ms':>34}{'ratio to PyTorch':>24}{'of processor time':>24}")
    for name, row in rows.items():
        line = f"  {name:24}{show(row['views/s'], ',.1f'):>28}{show(row['ms'], ',.1f'):>34}"
        for ratio in ("ratio", "ratio of processor time"):
            line += f"{show(row[ratio], '.2f'):>24}" if ratio in row else ""
        print(line, flush=True)


# What a device can do, and what a step asks of it


def peak_flops(dtype: str, side: int = 0) -> float:
    """Returns FLOP/s of the quickest of some matrix products on one device, large ones where no side is given."""
    import jax

    side = side or PEAK_SIDE.get(jax.default_backend(), 8192)
    matrix = jax.random.normal(jax.random.key(0), (side, side), dtype)  # some chips are quicker on equal numbers
    multiply = jax.jit(lambda a, b: a @ b)
    jax.block_until_ready(multiply(matrix, matrix))
    times = []
    for _ in range(10):
        start = time.perf_counter()
        jax.block_until_ready(multiply(matrix, matrix))
        times.append(time.perf_counter() - start)
    return 2 * side**3 / min(times)


def demands(images: str, given: argparse.Namespace) -> dict[str, Any]:
    """Returns FLOPs, parameters and memory of a step, compiled and not run."""
    import jax

    from simclr_jax.training import cost
    from simclr_jax.training.trainer import Trainer

    trainer = Trainer.from_config(config_of(images, given.encoder, given.batch, given.size, given.dtype))
    trained = sum(leaf.size for leaf in jax.tree.leaves(trainer.state_shapes().params))
    memory, _ = cost.measure(trainer)
    return {
        "flops": cost.flops(trainer),
        "parameters": trained,
        "MiB of a device": memory and memory.peak / 2**20,
        "devices": trainer.devices,
    }


# The loop around the step


def loop_overhead(rounds: int) -> dict[str, Any]:
    """Compares the loop of a run, its feed and books included, to the same compiled step on a batch that is there.

    With the tiny encoder: the smaller the step, the more of it a loop would be.
    """
    from simclr_jax.runtime import devices
    from simclr_jax.runtime.checkpoint import Checkpoints
    from simclr_jax.runtime.loggers import open_loggers
    from simclr_jax.runtime.metrics import MetricsWriter
    from simclr_jax.training import loop
    from simclr_jax.training.trainer import Trainer

    with tempfile.TemporaryDirectory() as scratch:
        write_images(f"{scratch}/images.npz", 32, 512)
        trainer = Trainer.from_config(config_of(f"{scratch}/images.npz", "resnet_tiny", 64, 32, "float32"))
        schedule = dataclasses.replace(trainer.schedule, total_steps=LOOP_BLOCK)
        trainer = dataclasses.replace(trainer, schedule=schedule)
        train_step, starts = trainer.map_train_step(), []
        state = devices.replicate(trainer.initial_state())

        def timed(*arguments):
            nonlocal state
            starts.append(time.perf_counter())
            state, metrics = train_step(*arguments)
            return state, metrics

        loop.say = lambda text: None
        resident = devices.replicate(trainer.feed.resident)
        there = devices.shard(next(iter(trainer.feed.training(0, 1))))
        there = devices.map_step(lambda state, batch, resident, axis_name: batch)(None, there, None)

        def alone(_):
            before = None
            for _ in range(LOOP_BLOCK):
                _, metrics = timed(state, there, resident, False)
                before, _ = metrics, before and devices.first(before)
            devices.first(before)

        def looped(number):
            lengths = {"first_step": 0, "total_steps": LOOP_BLOCK, "views_per_step": 128}
            workdir = f"{scratch}/{number}"
            checkpoints = Checkpoints(workdir, keep=1)
            opened = open_loggers("tensorboard", [], workdir=workdir, first_step=0, config={})
            writer = MetricsWriter(workdir, loggers=opened, **lengths)
            log = loop.MetricsLog(trainer, writer, checkpoints)
            due = {"on_step": log.on_step, "on_epoch": log.on_epoch, "saves": schedule.saves, "save": log.save}
            steps_per_epoch, batches = schedule.steps_per_epoch, trainer.feed.training(0, LOOP_BLOCK)
            loop.train(timed, state, batches, steps_per_epoch=steps_per_epoch, resident=resident, **due)
            writer.close()
            checkpoints.close()

        times = {"step alone": [], "loop": []}
        for number in range(rounds + 1):
            for name, run in (("step alone", alone), ("loop", looped)):
                starts.clear()
                run(number)
                times[name].append(1000 * statistics.median(np.diff(starts)))
    times = {name: values[1:] for name, values in times.items()}  # the first turn compiles
    overhead = spread(100 * (b / a - 1) for a, b in zip(*times.values(), strict=True))
    return {"ms": {name: spread(values) for name, values in times.items()}, "percent": overhead}


def arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default="resnet18", choices=ENCODERS)
    parser.add_argument("--batch", type=int, default=64, help="images; two views of each")
    parser.add_argument("--size", type=int, default=32, help="pixels; up to 32 the stem is CIFAR's")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=6.0, help="of a turn")
    parser.add_argument("--loop-rounds", type=int, default=7, help="turns of the loop; 0 = do not measure it")
    parser.add_argument("--out", default="", help="OUT.json is written")
    return parser.parse_args()


def main() -> None:
    """Measures, prints tables and a JSON object."""
    given = arguments()
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # several programs share the accelerator
    if not has_torch():
        print("PyTorch is not installed: rates without ratios")
    settings = {name: getattr(given, name) for name in ("encoder", "batch", "size", "dtype")}
    result: dict[str, Any] = {"date": str(datetime.date.today()), "cores": os.cpu_count(), **settings}
    names = ("jax", "jaxlib", "flax", "numpy", "torch")
    installed = {package.metadata["Name"] for package in metadata.distributions()}
    result["versions"] = {name: metadata.version(name) for name in names if name in installed}
    result["versions"]["python"] = platform.python_version()
    result["GLIBC_TUNABLES"] = os.environ.get("GLIBC_TUNABLES", "")
    with tempfile.TemporaryDirectory() as scratch:
        images = f"{scratch}/images.npz"
        write_images(images, given.size, given.batch)
        print(f"{given.encoder}, {given.batch} images of {given.size} pixels, {given.dtype}: min – median – max")
        result["programs"] = compare(programs(images, given), given)
        result |= demands(images, given)
    print_rows(result["programs"])
    result["peak FLOP/s"] = peak_flops(given.dtype)
    seconds = result["programs"]["step"]["ms"][1] / 1000
    result["share of peak"] = result["flops"] / result["devices"] / seconds / result["peak FLOP/s"]
    if has_torch():
        import torch_step

        result["parameters of PyTorch's"] = torch_step.parameters(given.encoder, given.size <= 32)
    print(f"{result['flops']:.3g} FLOPs, {100 * result['share of peak']:.1f} % of a peak of", end=" ")
    print(f"{result['peak FLOP/s']:.3g} FLOP/s; {result['MiB of a device'] or float('nan'):,.0f} MiB of a device")
    if given.loop_rounds:
        result["loop"] = loop_overhead(given.loop_rounds)
        print(f"loop beside its step (resnet_tiny, 64 images): {show(result['loop']['percent'], '.2f')} % more time")
    import jax

    result["device"] = jax.devices()[0].device_kind
    line = json.dumps(result)
    if given.out:
        pathlib.Path(f"{given.out}.json").write_text(line + "\n")
    print(line)


if __name__ == "__main__":
    main()
