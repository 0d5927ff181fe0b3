"""What a training step costs on the devices it is compiled for: memory, work, and how fast it could be at best."""

import dataclasses
import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from simclr_jax.runtime import devices
from simclr_jax.runtime.compiled import Message, Work
from simclr_jax.runtime.targets import Target
from simclr_jax.training.trainer import Trainer

TRIED_STEPS = 3  # after one more, in which the devices warm up


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


@dataclasses.dataclass(frozen=True)
class Bound:
    """The least seconds that a step can take on a target, by its data sheet: no step is faster, and most are slower.

    Attributes:
      compute: of its FLOPs.
      memory: of the bytes that its kernels read and write.
      network: of the messages between the devices.
    """

    compute: float
    memory: float
    network: float

    @property
    def seconds(self) -> float:
        """The longest of them: at best they happen at the same time."""
        return max(self.compute, self.memory, self.network)


def measure(trainer: Trainer) -> tuple[Memory, jax.stages.Compiled] | tuple[None, None]:
    """Compiles the step, returns what it takes and the step; None where the compiler itself runs out of memory."""
    try:
        step = trainer.lower_train_step().compile()
        analysis = step.memory_analysis()
        loss = trainer.lower_loss().compile().memory_analysis().temp_size_in_bytes
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return None, None
    moving = analysis.temp_size_in_bytes + analysis.output_size_in_bytes - analysis.alias_size_in_bytes
    held = bytes_of(trainer.state_shapes())
    loss = min(loss, moving)
    return Memory(held, moving - loss, loss, max(0, analysis.argument_size_in_bytes - held)), step


def flops(trainer: Trainer) -> int:
    """Returns what a step over the batch of all devices needs: three forward passes, as a gradient takes two more.

    XLA would count a loop's body once, and the loss and the convolutions' gradients are in loops.
    """
    size, views = trainer.config.augment.image_size, 2 * trainer.schedule.batch_size
    state = trainer.state_shapes()
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    images = jax.ShapeDtypeStruct((views, size, size, trainer.config.data.channels), jnp.float32)
    forward = jax.jit(lambda variables, images: trainer.model.apply(variables, images, train=False)[-1])
    similarities = 2 * views**2 * trainer.dim
    return 3 * (int(forward.lower(variables, images).cost_analysis()["flops"]) + similarities)


def bound(trainer: Trainer, work: Work, step_flops: int) -> Bound:
    """Returns the bound of a step on the trainer's target.

    Args:
      trainer: of a run on a target.
      work: what a device does in the step.
      step_flops: of :func:`flops`; what is computed again for memory is added here.
    """
    target = trainer.target
    # Both compute a forward pass again: remat block by block, micro-batches part by part.
    again = trainer.config.model.remat + (trainer.schedule.microbatches > 1)
    rate = target.chip.flops[trainer.config.model.dtype]
    return Bound(
        compute=step_flops * (3 + again) / 3 / (target.count * rate),
        memory=work.bytes / target.chip.bandwidth,
        network=sum(_seconds(kind, message, target) for kind, message in work.messages.items()),
    )


def _seconds(kind: str, message: Message, target: Target) -> float:
    """The least time of the collectives of a kind; among hosts every device sends its part of its host's."""
    if target.count == 1:
        return 0.0
    within = message.bytes / target.chip.link
    if target.hosts == 1 or target.platform == "tpu":  # a slice of TPUs is one network
        return within
    if kind == "collective-permute":  # the device at the end of a host sends all of it to the next host
        return message.bytes / target.chip.network
    # In a ring of n, each sends (n - 1) / n of what there is: here of all devices, there of the hosts.
    whole = message.bytes * target.count / (target.count - 1)
    between = whole * (target.hosts - 1) / target.hosts / target.per_host / target.chip.network
    return max(within if target.per_host > 1 else 0.0, between)


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


def bytes_of(tree: Any) -> int:
    """Returns the bytes of a tree of arrays or of their shapes."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
