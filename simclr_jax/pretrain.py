"""The pretraining run, from a config to checkpoints: reads top to bottom in the order of events."""

import math
import textwrap
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from simclr_jax import optim, parallel, schedule, state, steps
from simclr_jax.checkpoint import Checkpoints, latest_step, note_start, read_config, write_config
from simclr_jax.parts import Parts, initial_state, map_train_step, prepare
from simclr_jax.writer import Writer, say


class NonFinite(ArithmeticError):
    """The loss or its gradient is not a number any more."""


def run(config: ConfigDict, workdir: str) -> None:
    """Pretrains in a workdir, or goes on pretraining there from its newest checkpoint.

    Args:
      config: as configs/default.py.
      workdir: RUN; receives config, checkpoints and metrics.

    Raises:
      ValueError: the config, the data or the workdir does not fit; nothing has been compiled or written then.
      NonFinite: the loss or its gradient stopped being finite.
    """
    parts = prepare(config)
    first_step = _claim(workdir, config)
    checkpoints = Checkpoints(workdir, keep=config.checkpoint.keep)
    train_state = parallel.replicate(initial_state(parts))
    if first_step:
        train_state = checkpoints.restore(train_state)
    note_start(workdir, first_step, parallel.describe())
    _describe(parts, train_state, first_step)

    plan = parts.plan
    writer = Writer(workdir, first_step=first_step, total_steps=plan.total_steps, views_per_step=2 * plan.batch_size)
    try:
        _train(parts, train_state, first_step, checkpoints, writer)
    finally:
        writer.close()
        checkpoints.close()
    say(f"\n{plan.total_steps:,} steps done. Checkpoints, metrics and TensorBoard files are in {workdir}")
    say(f"next: python eval_linear.py --workdir={workdir}    or    tensorboard --logdir={workdir}/tensorboard")


def _train(parts: Parts, train_state: state.TrainState, first_step: int, checkpoints: Checkpoints, writer: Writer):
    """The loop: one step, its bookkeeping, and at its end what the epoch and the checkpoint interval ask for."""
    plan, feed = parts.plan, parts.feed
    train_step = map_train_step(parts)
    validate = _validation(parts)
    resident = parallel.replicate(feed.resident)
    book = _Book(parts, checkpoints, writer)
    for step, batch in enumerate(feed.training(first_step, plan.total_steps), first_step + 1):
        train_state, metrics = train_step(train_state, parallel.shard(batch), resident)
        book.enter(step, metrics)
        if plan.ends_epoch(step):
            book.close_epoch(step, validate(train_state))
        if plan.saves(step):
            book.settle()  # a state whose loss is not finite must not be saved
            checkpoints.save(step, train_state)
    if feed.unreadable:
        say(f"{len(feed.unreadable)} of {len(parts.train):,} training images could not be read; others stood in")


class _Book:
    """Reads the steps' metrics, one step behind so that the device never waits, and writes what is due."""

    def __init__(self, parts: Parts, checkpoints: Checkpoints, writer: Writer):
        self._parts, self._checkpoints, self._writer = parts, checkpoints, writer
        self._pending: tuple[int, Any] | None = None
        self._epoch: list[dict[str, float]] = []

    def enter(self, step: int, metrics: dict[str, jax.Array]) -> None:
        """Takes in the metrics of a step that was just started, and settles the step before it.

        Waiting for the step before keeps at most two in flight; forced CPU devices abort on long queues.
        """
        self.settle()
        self._pending = (step, metrics)

    def settle(self) -> None:
        """Waits for the newest step and writes it down; raises NonFinite."""
        if self._pending is None:
            return
        (step, metrics), self._pending = self._pending, None
        values = parallel.first(metrics)
        if not (math.isfinite(values["loss"]) and math.isfinite(values["gradient_norm"])):
            found = f"loss {values['loss']}, gradient norm {values['gradient_norm']}"
            last_good = self._checkpoints.last_good() or "none yet"
            raise NonFinite(f"{found} at step {step}; last good checkpoint: {last_good}")
        self._epoch.append(values)
        self._writer.advance(step, values["loss"])
        plan = self._parts.plan
        if step % self._parts.config.log.every_steps == 0 or step == plan.total_steps:
            rate = float(self._parts.learning_rate(step - 1))
            self._writer.write(step, step / plan.steps_per_epoch, values | {"learning_rate": rate})

    def close_epoch(self, step: int, held_out: dict[str, float]) -> None:
        """Writes an epoch's validation and prints its line."""
        self.settle()
        epoch = step // self._parts.plan.steps_per_epoch
        if held_out:
            self._writer.write(step, epoch, held_out)
        means = {name: float(np.mean([values[name] for values in self._epoch])) for name in self._epoch[0]}
        say(_epoch_line(epoch, self._parts.config.train.epochs, means | held_out))
        self._epoch = []


def _validation(parts: Parts) -> Callable[[state.TrainState], dict[str, float]]:
    """Returns what measures a state on the held-out images; nothing is measured where there are too few."""
    feed = parts.feed
    validation_step = parallel.map_step(
        steps.validation_step,
        views_of=feed.views_of,
        model=parts.model,
        probe=parts.probe,
        microbatches=parts.plan.validation_microbatches,
        **parts.loss,
    )

    def validate(train_state: state.TrainState) -> dict[str, float]:
        if not parts.plan.validation_batch_size:
            return {}
        rows = [
            parallel.first(validation_step(train_state, parallel.shard(batch), None)) for batch in feed.validation()
        ]
        return {f"validation_{name}": float(np.mean([row[name] for row in rows])) for name in rows[0]}

    return validate


def _claim(workdir: str, config: ConfigDict) -> int:
    """Returns the step to go on from; refuses a run of another config, and notes the config in a new run."""
    step = latest_step(workdir)
    if step is None:
        write_config(workdir, config.to_dict())
        return 0
    differences = schedule.differences(read_config(workdir), config.to_dict())
    if differences:
        raise ValueError(
            f"{workdir} holds a run with another config ({'; '.join(differences)}); "
            "use its config to go on with it, or another --workdir"
        )
    return step


def _describe(parts: Parts, train_state: state.TrainState, first_step: int) -> None:
    """Prints what is about to happen, with the numbers that were derived from the config."""
    config, plan = parts.config, parts.plan
    count = {name: sum(x.size for x in jax.tree.leaves(tree)) for name, tree in train_state.params.items()}
    scaled = f"{config.optimizer.learning_rate:g} by {config.optimizer.scaling} scaling"
    validation = parts.splits.split_of("validation") or "held out of train"
    lines = {
        "data": f"{config.data.source}: {len(parts.train):,} training images, "
        f"{len(parts.validation):,} validation images ({validation})",
        "devices": parallel.describe(),
        "model": f"{config.model.encoder}, {count['encoder']:,} parameters; "
        f"{config.head.kind} head, {count.get('head', 0):,}; computes in {config.model.dtype}",
        "batch": f"{plan.batch_size} images, {2 * plan.batch_size - 2} negatives an anchor, "
        f"temperature {config.loss.temperature:g}",
        **_describe_passes(parts),
        "steps": f"{plan.total_steps:,}: {config.train.epochs} epochs of {plan.steps_per_epoch:,}, "
        f"{plan.warmup_steps:,} of warm-up",
        "optimizer": f"{config.optimizer.name}, peak learning rate {plan.peak_learning_rate:g} "
        f"({scaled} for batch {plan.batch_size}), weight decay {config.optimizer.weight_decay:g}",
        "online probe": "on, behind a stop_gradient" if parts.probe else "off: no labels, or its learning rate is 0",
    }
    for name, text in lines.items():
        say(f"{name + ':':14}{text}")
    excluded = optim.excluded_from_decay(train_state.params)
    what = "decay and adaptation" if config.optimizer.name == "lars" else "weight decay"
    say(f"{config.optimizer.name} leaves {len(excluded)} tensors out of {what}:")
    say(textwrap.fill(", ".join(excluded), 118, initial_indent="  ", subsequent_indent="  "))
    if first_step:
        what_now = "going on" if first_step < plan.total_steps else "nothing is left to do"
        say(f"step {first_step:,} of {plan.total_steps:,} is in the workdir: {what_now}")


def _describe_passes(parts: Parts) -> dict[str, str]:
    """What micro-batches change, where there are any."""
    if parts.plan.microbatches == 1:
        return {}
    what = {
        "batch": "BatchNorm's statistics are those of each alone: with model.norm=group it would be exact",
        "group": "their gradient is that of one pass",
    }
    size = parts.config.train.microbatch_size
    return {"passes": f"{parts.plan.microbatches} micro-batches of {size} images; {what[parts.config.model.norm]}"}


def _epoch_line(epoch: int, epochs: int, values: dict[str, float]) -> str:
    shown = [f"epoch {epoch:>{len(str(epochs))}}/{epochs}", f"loss {values['loss']:.4f}"]
    shown.append(f"contrastive top-1 {100 * values['contrastive_accuracy']:5.1f} %")
    if "online_top1" in values:
        shown.append(f"online top-1 {100 * values['online_top1']:5.1f} %")
    if "validation_loss" in values:
        shown.append(f"validation: loss {values['validation_loss']:.4f}")
        shown.append(f"contrastive {100 * values['validation_contrastive_accuracy']:5.1f} %")
    if "validation_online_top1" in values:
        shown.append(f"online {100 * values['validation_online_top1']:5.1f} %")
    return "  ".join(shown)
