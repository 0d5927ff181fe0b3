"""What a run would take, before it runs: its step is compiled, and tried where it fits; nothing is written.

Where the step does not fit the devices, settings that take less memory are compiled until one fits.
"""

import dataclasses
import statistics
import time
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from simclr_jax import losses
from simclr_jax.runtime import devices, processes
from simclr_jax.runtime.console import duration, say
from simclr_jax.training.trainer import Trainer

TRIED_STEPS = 3  # after one more, in which the devices warm up
LONGEST_STEP = 20.0  # seconds, by its FLOPs, of a step that is tried
_SIDE = 2048  # of the matrices whose product tells a device's FLOPs a second


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes of one device while it takes a step.

    Attributes:
      state: parameters, their optimiser's and the online probe's.
      activations: all that comes and goes, but for the loss's.
      loss: what the loss and its gradient take by themselves.
      input: a batch and the images that the device holds.
    """

    state: int
    activations: int
    loss: int
    input: int

    @property
    def peak(self) -> int:
        """Their sum."""
        return self.state + self.activations + self.loss + self.input


def run(config: ConfigDict) -> dict[str, Any]:
    """Prints what a run of this config takes, whether it fits, and if not, what to change.

    Args:
      config: as configs/default.py.

    Returns:
      The numbers; "overrides", {key: value} that make the run fit: {} where it does, None where nothing does; and
      "seconds_per_step", where the step was tried, else None.

    Raises:
      ValueError: the config or the data do not fit; nothing has been compiled then.
    """
    trainer = Trainer.from_config(config)
    limit, state, schedule = devices.memory_bytes(), trainer.state_shapes(), trainer.schedule
    say(f"plan of {config.data.source} on {devices.describe()}; the step is compiled, and tried where it fits\n")
    numbers = {
        **{f"{name}_parameters": sum(x.size for x in jax.tree.leaves(tree)) for name, tree in state.params.items()},
        "flops_per_step": flops(trainer),
        "steps": schedule.total_steps,
        "images_seen": schedule.total_steps * schedule.batch_size,
        "checkpoint_bytes": _bytes(state),
    }
    memory, step = measure(trainer)
    say(_table(trainer, numbers, memory, limit))
    if advice := devices.quicker_type(config.model.dtype):
        say(f"\n{advice}")
    if memory is not None and memory.peak <= limit:
        overrides, seconds = {}, _try(trainer, step, numbers["flops_per_step"])
    else:
        overrides, seconds = _find(trainer, memory, limit), None
    found = {"memory": memory and dataclasses.asdict(memory), "limit": limit, "overrides": overrides}
    return numbers | found | {"seconds_per_step": seconds}


def measure(trainer: Trainer) -> tuple[Memory, jax.stages.Compiled] | tuple[None, None]:
    """Compiles the step, returns what it takes and the step; None where the compiler itself runs out of memory."""
    z = jax.ShapeDtypeStruct((2, trainer.schedule.batch_size // trainer.devices, _dim(trainer)), jnp.float32)

    def loss_step(_, z, resident, *, axis_name, loss):
        return jax.value_and_grad(lambda z: loss(z[0], z[1], axis_name=axis_name), has_aux=True)(z)

    try:
        step = trainer.lower_train_step().compile()
        analysis = step.memory_analysis()
        lowered = devices.lower_step(loss_step, None, z, None, loss=trainer.loss)
        loss = lowered.compile().memory_analysis().temp_size_in_bytes
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return None, None
    moving = analysis.temp_size_in_bytes + analysis.output_size_in_bytes - analysis.alias_size_in_bytes
    held = _bytes(trainer.state_shapes())
    loss = min(loss, moving)
    return Memory(held, moving - loss, loss, max(0, analysis.argument_size_in_bytes - held)), step


def _try(trainer: Trainer, step: jax.stages.Compiled, flops_per_step: int) -> float | None:
    """Says how long the run will take, from some steps; where one would be long, how long at least, and takes none."""
    steps = trainer.schedule.total_steps
    if processes.process()[1] > 1:  # all would have to agree to try it
        say("\ntime: not tried, as there are several processes; a run tells it after ten steps")
        return None
    least = flops_per_step / (trainer.devices * _flops_per_second(trainer.config.model.dtype))
    if least > LONGEST_STEP:
        say(
            f"\ntime: {duration(steps * least)} or more, {duration(least)} a step, if all of it ran at the speed of a "
            "product of matrices; too long a step to try here"
        )
        return None
    try:
        seconds = seconds_per_step(trainer, step)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        say("\ntime: not known, as the device has no memory to try the step: does another program use it?")
        return None
    say(
        f"\ntime: about {duration(steps * seconds)}, {seconds:.3g} s a step, from {TRIED_STEPS} steps on blank images; "
        "reading images, making views on the host, validation and checkpoints are not counted"
    )
    return seconds


def seconds_per_step(trainer: Trainer, step: jax.stages.Compiled) -> float:
    """Takes some steps on blank images and returns the median of their seconds."""
    shapes, _ = trainer.batch_shapes()
    batch = jax.tree.map(lambda x: np.zeros((trainer.devices * x.shape[0], *x.shape[1:]), x.dtype), shapes)
    batch, resident = devices.shard(batch), devices.replicate(trainer.feed.resident)
    state, times = devices.replicate(trainer.initial_state()), []
    for _ in range(1 + TRIED_STEPS):
        start = time.perf_counter()
        state, metrics = devices.take_step(step, state, batch, resident)
        devices.first(metrics)  # waits
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def _flops_per_second(dtype: str) -> float:
    """Returns the speed of a device in a product of two matrices, at its second try."""
    square = jnp.ones((_SIDE, _SIDE), dtype)
    multiply = jax.jit(jnp.matmul)
    for _ in range(2):
        start = time.perf_counter()
        jax.block_until_ready(multiply(square, square))
        seconds = time.perf_counter() - start
    return 2 * _SIDE**3 / seconds


def flops(trainer: Trainer) -> int:
    """Returns what a step over the batch of all devices needs: three forward passes, as a gradient takes two more.

    XLA would count a loop's body once, and the loss and the convolutions' gradients are in loops.
    """
    size, views = trainer.config.augment.image_size, 2 * trainer.schedule.batch_size
    state = trainer.state_shapes()
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    images = jax.ShapeDtypeStruct((views, size, size, 3), jnp.float32)
    forward = jax.jit(lambda variables, images: trainer.model.apply(variables, images, train=False)[-1])
    similarities = 2 * views**2 * _dim(trainer)
    return 3 * (int(forward.lower(variables, images).cost_analysis()["flops"]) + similarities)


def _dim(trainer: Trainer) -> int:
    return trainer.model.head.network.head.dim if trainer.model.head.depth else trainer.model.encoder.feature_dim


def _find(trainer: Trainer, memory: Memory | None, limit: int) -> dict[str, Any] | None:
    """Compiles settings that take less and less, and says which is the first that fits."""
    say(f"\n{'settings tried':64}{'peak':>12}")
    for changes in _candidates(trainer):
        found, _ = measure(trainer.with_changes(changes))
        fits = found is not None and found.peak <= limit
        overrides = " ".join(f"--config.{key}={value}" for key, value in changes.items())
        say(f"{overrides:64}{_size(found.peak) if found else 'no memory':>12}  {'fits' if fits else 'does not fit'}")
        if fits:
            say(f"\nadd to the command: {overrides}")
            if changes.get("train.microbatch_size") and trainer.config.model.norm == "batch":
                say(
                    "BatchNorm's statistics are then those of a micro-batch; with --config.model.norm=group it is exact"
                )
            return changes
    say("\nnothing that was tried fits: take a smaller train.batch_size, encoder or augment.image_size")
    return None


def _candidates(trainer: Trainer) -> Iterator[dict[str, Any]]:
    """Settings in the order of what they cost: first those that change no result, then smaller and smaller trainer."""
    config, devices = trainer.config, trainer.devices
    exact = {}
    if config.loss.chunk_size:
        exact |= {"loss.chunk_size": 0}
        yield dict(exact)
    if devices > 1 and config.loss.gather == "all" and not losses.is_dense(config.train.batch_size // devices, devices):
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


def _table(trainer: Trainer, numbers: dict[str, Any], memory: Memory | None, limit: int) -> str:
    config, schedule, kept = trainer.config, trainer.schedule, trainer.config.checkpoint.keep
    head = numbers.get("head_parameters", 0)
    on_disk = numbers["checkpoint_bytes"]
    lines = {
        "model": f"{config.model.encoder}, {numbers['encoder_parameters']:,} parameters; head {head:,}",
        "batch": f"{schedule.batch_size:,} images, {schedule.microbatches} pass{'es' * (schedule.microbatches > 1)}"
        f"; remat {'on' if config.model.remat else 'off'}",
        "FLOPs a step": f"{numbers['flops_per_step']:.3g}, in one pass over all images",
        "steps": f"{schedule.total_steps:,}: {config.train.epochs} epochs of {schedule.steps_per_epoch:,}",
        "images seen": f"{numbers['images_seen']:,}, two views of each",
        "checkpoints": f"{_size(on_disk)} each; with {kept} kept, {_size(kept * on_disk)} on disk",
    }
    rows = [f"{name:16}{text}" for name, text in lines.items()]
    if memory is None:
        return "\n".join([*rows, "memory          the step cannot even be compiled: does not fit"])
    split = {name: getattr(memory, name) for name in ("state", "activations", "loss", "input")}
    verdict = "fits" if memory.peak <= limit else "does not fit"
    rows += ["", f"{'memory of a device':22}{'':10}"]
    rows += [f"  {name:16}{_size(size):>14}{100 * size / memory.peak:7.1f} %" for name, size in split.items()]
    return "\n".join([*rows, f"  {'peak':16}{_size(memory.peak):>14}   of {_size(limit)}: {verdict}"])


def _bytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _size(count: float) -> str:
    return f"{count / 2**30:,.2f} GiB" if count >= 2**30 else f"{count / 2**20:,.1f} MiB"
