"""What a run would take, before it runs: its step is compiled, and tried where it fits; nothing is written.

For machines that are not here it is compiled by their vendors' compilers, which tell what it takes there, and the data
sheets tell how fast it could be at best. Where the step does not fit, settings that take less memory are compiled until
one fits.
"""

import dataclasses
import math
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from simclr_jax import losses
from simclr_jax.runtime import compiled, console, devices, processes, targets
from simclr_jax.runtime.console import duration, show
from simclr_jax.training import cost
from simclr_jax.training.trainer import Trainer

LONGEST_STEP = 20.0  # seconds, by its FLOPs, of a step that is tried
_SIDE = 2048  # of the matrices whose product tells a device's FLOPs a second


def run(config: ConfigDict, target: Sequence[str] = (), price: float | None = None) -> dict[str, Any]:
    """Prints what a run of this config takes, whether it fits, and if not, what to change.

    Args:
      config: as configs/default.py.
      target: machines to plan for, by the names of :mod:`simclr_jax.runtime.targets`; none for this one.
      price: of a device of a target for an hour.

    Returns:
      The numbers; "overrides", {key: value} that make the run fit: {} where it does, None where nothing does; and
      "seconds_per_step", where the step was tried, else None. Of targets, {name: such numbers} with "kernels",
      "bytes_moved" and "messages" of a step and a device, "least_seconds" and, by the price, "least_cost" of the run.

    Raises:
      ValueError: the config, the data or a target do not fit; nothing has been compiled then.
    """
    if target:
        return _elsewhere(config, [targets.find(name) for name in dict.fromkeys(target)], price)
    if price is not None:
        raise ValueError(f"--price={price:g} only works with --target: add --target=h100x8 or another machine")
    trainer = Trainer.from_config(config, blank=True)
    limit = trainer.device_memory
    show(f"plan for {config.data.source} on {devices.describe()}; the step is compiled, and timed if it fits\n")
    numbers = _numbers(trainer)
    with console.waiting("compiling a training step"):
        memory, step = cost.measure(trainer)
    show(_table(trainer, numbers, memory, {}))
    if advice := devices.quicker_type(config.model.dtype):
        show(f"\n{advice}")
    if memory is not None and memory.peak <= limit:
        overrides, seconds = {}, _try(trainer, step, numbers["flops_per_step"])
    else:
        overrides, seconds = _find(trainer), None
    found = {"memory": memory and dataclasses.asdict(memory), "limit": limit, "overrides": overrides}
    return numbers | found | {"seconds_per_step": seconds}


def _elsewhere(config: ConfigDict, found: list[targets.Target], price: float | None) -> dict[str, Any]:
    """Plans for machines that are not here."""
    if price is not None and not 0 < price < math.inf:
        raise ValueError(f"--price={price:g} must be a number above 0: the price of one device for one hour")
    trainers = [_trainer_on(config, target) for target in found]
    for target in found:
        target.devices()  # a compiler that is missing is told before another one has worked for minutes
    show(f"plan for {config.data.source}, compiled for {', '.join(target.name for target in found)}; nothing is run\n")
    plans = {}
    for index, trainer in enumerate(trainers):
        plan = _plan_on(trainer, price, alone=len(found) == 1)
        plans[trainer.target.name] = plan
        if len(found) > 1:
            show("\n".join(_columns(trainer, plan, price)[index > 0 :]))
    if len(found) > 1:
        show("\n" + _NO_FASTER)
        if not all(plan["fits"] for plan in plans.values()):
            show("give a single --target that does not fit, and --plan looks for settings that do")
    return plans


def _trainer_on(config: ConfigDict, target: targets.Target) -> Trainer:
    try:
        return Trainer.from_config(config, blank=True, target=target)
    except ValueError as error:
        more = (
            ""
            if config.data.images
            else "; if the images are not on this machine, say how many there are: --config.data.images=N"
        )
        raise ValueError(f"--target={target.name}: {error}{more * (config.data.source in str(error))}") from error


def _plan_on(trainer: Trainer, price: float | None, *, alone: bool) -> dict[str, Any]:
    """Returns the plan of one target, and prints it where it is alone."""
    numbers = _numbers(trainer)
    with console.waiting(f"compiling for {trainer.target.name}, which may take minutes"):
        memory, step = cost.measure(trainer)
    fits = memory is not None and memory.peak <= trainer.device_memory
    plan = numbers | {"memory": memory and dataclasses.asdict(memory), "limit": trainer.device_memory, "fits": fits}
    if step is not None:
        plan |= _cost(trainer, step.as_text(), numbers["flops_per_step"], price)
    if alone:
        show(_table(trainer, numbers, memory, _cost_lines(trainer, plan, price) if step else {}))
        show("\n" + _NO_FASTER)
    return plan | {"overrides": {} if fits else _find(trainer) if alone else None, "seconds_per_step": None}


def _cost(trainer: Trainer, program: str, step_flops: int, price: float | None) -> dict[str, Any]:
    """Returns what a compiled step does: kernels, bytes, messages and least times, in seconds and in money."""
    work = compiled.work(program, devices=trainer.devices)
    bound = cost.bound(trainer, work, step_flops)
    run_seconds = trainer.schedule.total_steps * bound.seconds
    return {
        "kernels": work.kernels,
        "bytes_moved": work.bytes,
        "messages": {kind: message._asdict() for kind, message in work.messages.items()},
        "least_seconds": dataclasses.asdict(bound) | {"step": bound.seconds, "run": run_seconds},
        "least_cost": None if price is None else price * trainer.devices * run_seconds / 3600,
    }


def _numbers(trainer: Trainer) -> dict[str, Any]:
    state, schedule = trainer.state_shapes(), trainer.schedule
    return {
        **{f"{name}_parameters": sum(x.size for x in jax.tree.leaves(tree)) for name, tree in state.params.items()},
        "flops_per_step": cost.flops(trainer),
        "steps": schedule.total_steps,
        "images_seen": schedule.total_steps * schedule.batch_size,
        "checkpoint_bytes": cost.bytes_of(state),
    }


def _try(trainer: Trainer, step: jax.stages.Compiled, flops_per_step: int) -> float | None:
    """Says how long the run will take, from some steps; where one would be long, how long at least, and takes none."""
    steps = trainer.schedule.total_steps
    if processes.process()[1] > 1:  # all would have to agree to try it
        show("\ntime: not measured, because there are several processes; a run estimates it after ten steps")
        return None
    least = flops_per_step / (trainer.devices * _flops_per_second(trainer.config.model.dtype))
    if least > LONGEST_STEP:
        show(
            f"\ntime: {duration(steps * least)} or more, {duration(least)} per step even at the speed of a plain "
            "matrix product; such a step takes too long to measure here"
        )
        return None
    try:
        seconds = cost.seconds_per_step(trainer, step)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        show(
            "\ntime: not measured, because the device has too little free memory to run the step; does another "
            "program use it?"
        )
        return None
    show(
        f"\ntime: about {duration(steps * seconds)}, {seconds:.3g} s per step, measured over {cost.TRIED_STEPS} "
        "steps on blank "
        "images; not counted are reading images, views made on the host, validation and checkpoints"
    )
    return seconds


def _flops_per_second(dtype: str) -> float:
    """Returns the speed of a device in a product of two matrices, at its second try."""
    square = jnp.ones((_SIDE, _SIDE), dtype)
    multiply = jax.jit(jnp.matmul)
    for _ in range(2):
        start = time.perf_counter()
        jax.block_until_ready(multiply(square, square))
        seconds = time.perf_counter() - start
    return 2 * _SIDE**3 / seconds


def _find(trainer: Trainer) -> dict[str, Any] | None:
    """Compiles settings that take less and less, and says which is the first that fits."""
    show(f"\n{'settings':64}{'peak':>12}")
    for changes in _candidates(trainer):
        overrides = " ".join(f"--config.{key}={value}" for key, value in changes.items())
        with console.waiting(f"compiling with {overrides}"):
            found, _ = cost.measure(trainer.with_changes(changes))
        fits = found is not None and found.peak <= trainer.device_memory
        show(f"{overrides:64}{_size(found.peak) if found else 'no memory':>12}  {'fits' if fits else 'does not fit'}")
        if fits:
            show(f"\nadd to the command: {overrides}")
            if changes.get("train.microbatch_size") and trainer.config.model.norm == "batch":
                show("BatchNorm then uses the statistics of each micro-batch; --config.model.norm=group avoids this")
            return changes
    show("\nnone of these settings fits: use a smaller train.batch_size, model.encoder or augment.image_size")
    return None


def _candidates(trainer: Trainer) -> Iterator[dict[str, Any]]:
    """Settings in the order of what they cost: first those that change no result, then smaller and smaller trainer."""
    config, devices = trainer.config, trainer.devices
    exact = {}
    if config.loss.chunk_size:
        exact |= {"loss.chunk_size": 0}
        yield dict(exact)
    striped = config.loss.name in losses.NAMES and not losses.is_dense(config.train.batch_size // devices, devices)
    if devices > 1 and config.loss.gather == "all" and striped:
        exact |= {"loss.gather": "ring"}
        yield dict(exact)
    if not config.model.remat:
        yield exact | {"model.remat": True}
    size = config.train.microbatch_size or config.train.batch_size
    smaller = [part for part in range(devices, size, devices) if config.train.batch_size % part == 0]
    while smaller:
        size = next((part for part in reversed(smaller) if part <= size // 2), smaller[0])
        smaller = [part for part in smaller if part < size]
        yield exact | {"train.microbatch_size": size}
    yield exact | {"train.microbatch_size": size, "model.remat": True}


def _table(trainer: Trainer, numbers: dict[str, Any], memory: cost.Memory | None, more: dict[str, str]) -> str:
    config, schedule, kept = trainer.config, trainer.schedule, trainer.config.checkpoint.keep
    head = numbers.get("head_parameters", 0)
    on_disk = numbers["checkpoint_bytes"]
    side, source = config.augment.image_size, config.data.source
    blank = f"{config.data.images:,} blank images of {side} pixels, in place of those of {source}"
    lines = {
        **({"images": blank} if config.data.images else {}),
        "model": f"{config.model.encoder}, {numbers['encoder_parameters']:,} parameters; head {head:,}",
        "batch": f"{schedule.batch_size:,} images, {schedule.microbatches} pass{'es' * (schedule.microbatches > 1)}"
        f"; remat {'on' if config.model.remat else 'off'}",
        "FLOPs per step": f"{numbers['flops_per_step']:.3g}, without recomputation",
        "steps": f"{schedule.total_steps:,}: {config.train.epochs} epochs of {schedule.steps_per_epoch:,}",
        "images seen": f"{numbers['images_seen']:,}, with two views of each",
        "checkpoints": f"{_size(on_disk)} each; {_size(kept * on_disk)} on disk for the {kept} that are kept",
        **more,
    }
    rows = [f"{name:16}{text}" for name, text in lines.items()]
    if memory is None:
        return "\n".join([*rows, "memory          the step is too large to be compiled: does not fit"])
    limit, target = trainer.device_memory, trainer.target
    taken = (
        f", the {100 * limit / target.chip.memory:.0f} % that jax uses" if target and limit < target.chip.memory else ""
    )
    split = {name: getattr(memory, name) for name in ("state", "activations", "loss", "input")}
    verdict = "fits" if memory.peak <= limit else "does not fit"
    rows += ["", f"{'memory per device':22}{'':10}"]
    rows += [f"  {name:16}{_size(size):>14}{100 * size / memory.peak:7.1f} %" for name, size in split.items()]
    return "\n".join([*rows, f"  {'peak':16}{_size(memory.peak):>14}   of {_size(limit)}{taken}: {verdict}"])


_NO_FASTER = (
    "The shortest time is the longest of what the data sheets allow for FLOPs, memory traffic and messages:\n"
    "a lower bound. Real steps are slower, and a run also spends time on other things than steps."
)


def _cost_lines(trainer: Trainer, plan: dict[str, Any], price: float | None) -> dict[str, str]:
    """What a target adds to the table."""
    target, least = trainer.target, plan["least_seconds"]
    parts = ", ".join(f"{name} {1000 * least[name]:.3g}" for name in ("compute", "memory", "network"))
    messages = [
        f"{message['count']:,} {kind} of {_size(message['bytes'])}" for kind, message in plan["messages"].items()
    ]
    money = "" if price is None else f", {plan['least_cost']:,.2f} at {price:g} per device-hour"
    return {
        "target": f"{target}, {trainer.schedule.batch_size // trainer.devices:,} images each",
        "device runs": f"{plan['kernels']:,} kernels per step, which read and write {_size(plan['bytes_moved'])}",
        "device sends": ", ".join(messages) + " per step" if messages else "nothing",
        "at least": f"{1000 * least['step']:.3g} ms per step ({parts}); {duration(least['run'])} for the run{money}",
    }


_WIDTHS = {"target": 10, "images": 6, "memory": 19, "fits": 4, "kernels": 7, "moved": 10, "messages": 8, "sent": 10}


def _columns(trainer: Trainer, plan: dict[str, Any], price: float | None) -> list[str]:
    """Names of columns, and a target's row below them. Images are those of a device, as all else is."""
    memory, limit = plan["memory"] and sum(plan["memory"].values()), plan["limit"]
    row = {"target": f"{trainer.target.name:10}", "images": f"{trainer.schedule.batch_size // trainer.devices:,}"}
    row["memory"] = f"{memory / 2**30:.2f} of {limit / 2**30:.2f} GiB" if memory else "does not compile"
    row["fits"] = "yes" if plan["fits"] else "no"
    if "kernels" in plan:
        least, messages = plan["least_seconds"], plan["messages"].values()
        row |= {"kernels": f"{plan['kernels']:,}", "moved": _size(plan["bytes_moved"])}
        row["messages"] = f"{sum(message['count'] for message in messages):,}"
        row["sent"] = _size(sum(message["bytes"] for message in messages))
        row |= {"shortest step": f"{1000 * least['step']:.3g} ms", "shortest run": duration(least["run"])}
        row |= {} if price is None else {"lowest cost": f"{plan['least_cost']:,.2f}"}
    lines = dict(zip(row, row, strict=True)) | {"target": f"{'target':10}"}, row
    return ["  ".join(f"{text:>{_WIDTHS.get(name, 13)}}" for name, text in line.items()) for line in lines]


def _size(count: float) -> str:
    return f"{count / 2**30:,.2f} GiB" if count >= 2**30 else f"{count / 2**20:,.1f} MiB"
