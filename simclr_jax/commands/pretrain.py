"""The pretraining run, from a config to checkpoints: reads top to bottom in the order of events."""

import contextlib
import textwrap
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from simclr_jax.runtime import devices, preemption, processes, run_folder
from simclr_jax.runtime.checkpoint import Checkpoints, latest_step
from simclr_jax.runtime.config import config_differences, epochs_extended_from
from simclr_jax.runtime.console import say
from simclr_jax.runtime.metrics import Silent, Writer
from simclr_jax.training import collapse, optimizers, state
from simclr_jax.training import step as steps
from simclr_jax.training.trainer import Parts, initial_state, map_train_step, prepare, state_shapes


class NonFinite(ArithmeticError):
    """The loss, its gradient or a parameter is not finite any more."""


def run(config: ConfigDict, workdir: str) -> None:
    """Pretrains in a workdir, or goes on pretraining there from its newest whole checkpoint.

    Args:
      config: as configs/default.py.
      workdir: RUN; receives config, checkpoints and metrics.

    Raises:
      ValueError: the config, the data or the workdir does not fit, nothing has been compiled or written then; or a
        checkpoint cannot be written.
      NonFinite: the loss, its gradient or a parameter stopped being finite.
      preemption.Stopped: the process was told to stop, and everything is saved.
    """
    parts = prepare(config)
    writes = processes.is_first()
    with preemption.Watch() as watch, run_folder.hold(workdir) if writes else contextlib.nullcontext():
        more_epochs_than = _check_config(workdir, config) if writes else None
        checkpoints = Checkpoints(workdir, keep=config.checkpoint.keep, owner=writes)
        shapes = devices.replicated_shapes(state_shapes(parts))
        agree = processes.agree if processes.process()[1] > 1 else None
        first_step, train_state = checkpoints.restore(shapes, on_damage=say, agree=agree)
        train_state = devices.replicate(initial_state(parts)) if train_state is None else devices.to_local(train_state)
        if more_epochs_than:
            _extend(workdir, parts, more_epochs_than, first_step)
        if writes:
            run_folder.write_config(workdir, config.to_dict())
            run_folder.note_start(workdir, first_step, devices.describe())
        processes.agree(first_step)  # process 0 has written
        if not writes:
            _check_shared(workdir, config)
        _describe(parts, train_state, first_step)

        plan = parts.plan
        lengths = {"total_steps": plan.total_steps, "views_per_step": 2 * plan.batch_size}
        writer = Writer(workdir, first_step=first_step, **lengths) if writes else Silent()
        try:
            last_step = _train(parts, train_state, first_step, checkpoints, writer, watch)
        finally:
            writer.close()
            checkpoints.close()
    if last_step < plan.total_steps:
        raise preemption.Stopped(f"stopped at step {last_step:,} with its checkpoint; the same command goes on")
    say(f"\n{plan.total_steps:,} steps done. Checkpoints, metrics and TensorBoard files are in {workdir}")
    say(f"next: python eval_linear.py --workdir={workdir}    or    tensorboard --logdir={workdir}/tensorboard")


def _train(
    parts: Parts,
    train_state: state.TrainState,
    first_step: int,
    checkpoints: Checkpoints,
    writer: Writer | Silent,
    watch: preemption.Watch,
) -> int:
    """The loop: one step, its bookkeeping, and at its end what the epoch and the checkpoint interval ask for.

    Returns the last step, which is not the run's where the process was told to stop.
    """
    plan, feed = parts.plan, parts.feed
    train_step = map_train_step(parts)
    validate = _validation(parts)
    resident = devices.replicate(feed.resident)
    book = _Book(parts, checkpoints, writer)
    step = first_step
    for step, batch in enumerate(feed.training(first_step, plan.total_steps), first_step + 1):
        train_state, metrics = train_step(train_state, devices.shard(batch), resident, watch.requested)
        watch.steps_run()
        stop = book.enter(step, metrics)
        if plan.ends_epoch(step):
            book.close_epoch(step, validate(train_state))
        if stop or plan.saves(step):
            book.settle()  # a state whose loss is not finite must not be saved
            writer.flush()  # the rows of a step are on disk before its checkpoint
            checkpoints.save(step, train_state)
        if stop:
            break
        checkpoints.check()
    book.close()
    return step


class _Book:
    """Reads the steps' metrics, one step behind so that the device never waits, and writes what is due."""

    def __init__(self, parts: Parts, checkpoints: Checkpoints, writer: Writer | Silent):
        self._parts, self._checkpoints, self._writer = parts, checkpoints, writer
        self._pending: tuple[int, Any] | None = None
        self._epoch: list[dict[str, float]] = []
        self._dropped = 0
        config = parts.config
        self._alarm = collapse.Alarm(
            temperature=config.loss.temperature,
            warmup_epochs=config.optimizer.warmup_epochs,
            epochs=config.train.epochs,
        )
        for row in writer.rows():  # of before a resume: what was said is not said again
            self._alarm.see(row.get("epoch", 0), row)

    def enter(self, step: int, metrics: dict[str, jax.Array]) -> bool:
        """Takes in the metrics of a step that was just started, and settles the step before it.

        Waiting for the step before keeps at most two in flight; forced CPU devices abort on long queues.

        Returns:
          Whether any process was told to stop before the step before; all processes learn it at the same step.
        """
        stop = self.settle()
        self._pending = (step, metrics)
        return stop

    def settle(self) -> bool:
        """Waits for the newest step and writes it down; returns as `enter`, raises NonFinite."""
        if self._pending is None:
            return False
        (step, metrics), self._pending = self._pending, None
        values = devices.first(metrics)
        stop = values.pop("stop") > 0
        if values.pop("finite"):
            self._epoch.append(values)
        else:
            self._drop(step, values)
        self._writer.advance(step, values["loss"])
        plan = self._parts.plan
        if step % self._parts.config.log.every_steps == 0 or step == plan.total_steps:
            rate = float(self._parts.learning_rate(step - 1))
            self._writer.write(step, step / plan.steps_per_epoch, values | {"learning_rate": rate})
        return stop

    def _drop(self, step: int, values: dict[str, float]) -> None:
        """Counts an update that was dropped; raises NonFinite where it was not, or where it is one too many."""
        numbers = f"loss {values['loss']:g}, gradient norm {values['gradient_norm']:g}"
        found = f"step {step:,} is not finite ({numbers}, or a parameter that it changes)"
        in_a_row, allowed = values.get("skipped"), self._parts.config.train.max_skipped
        if in_a_row is None or in_a_row > allowed:
            self._checkpoints.wait()
            last_good = f"last good checkpoint: {self._checkpoints.last_good()}"
            if in_a_row is None:
                mend = "a lower learning rate or --config.train.on_nonfinite=skip may help"
                raise NonFinite(f"{found}; {last_good}; {mend}")
            raise NonFinite(f"{found}; {in_a_row:.0f} in a row, more than train.max_skipped={allowed}; {last_good}")
        self._dropped += 1
        say(f"{found}: its update is dropped")

    def close_epoch(self, step: int, held_out: dict[str, float]) -> None:
        """Writes an epoch's validation and prints its line."""
        self.settle()
        epoch = step // self._parts.plan.steps_per_epoch
        if held_out:
            self._writer.write(step, epoch, held_out)
        names = self._epoch[0] if self._epoch else ()  # all of a short epoch's updates may have been dropped
        means = {name: float(np.mean([values[name] for values in self._epoch])) for name in names}
        say(_epoch_line(epoch, self._parts.config.train.epochs, means | held_out))
        if warning := self._alarm.see(epoch, held_out):
            say(warning)
        self._epoch = []

    def close(self) -> None:
        """Settles the last step, and says what the run went without."""
        self.settle()
        if self._dropped:
            say(f"{self._dropped:,} updates were dropped: they were not finite")
        unreadable, images = len(self._parts.feed.unreadable), len(self._parts.train)
        if unreadable:
            say(f"{unreadable:,} of {images:,} training images could not be read; others stood in")


def _validation(parts: Parts) -> Callable[[state.TrainState], dict[str, float]]:
    """Returns what measures a state on the held-out images; nothing is measured where there are too few."""
    feed = parts.feed
    validation_step = devices.map_step(
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
        rows, sums = [], []
        for batch in feed.validation():
            metrics, lie = validation_step(train_state, devices.shard(batch), None)
            rows.append(devices.first(metrics))
            sums.append(devices.first_arrays(lie))
        means = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
        found = means | collapse.of_batches(sums, parts.plan.validation_batch_size)
        return {f"validation_{name}": value for name, value in found.items()}

    return validate


def _check_config(workdir: str, config: ConfigDict) -> int | None:
    """Refuses a run of another config; returns its epochs where this one only asks for more of them."""
    if latest_step(workdir) is None:
        return None
    if run_folder.imported(workdir).exists():
        raise ValueError(f"{workdir} was imported and has no optimiser to go on with; give another --workdir")
    old, new = run_folder.read_config(workdir), config.to_dict()
    differences, more_epochs_than = config_differences(old, new), epochs_extended_from(old, new)
    if differences and not more_epochs_than:
        raise ValueError(
            f"{workdir} holds a run with another config ({'; '.join(differences)}); "
            "use its config to go on with it, or another --workdir"
        )
    return more_epochs_than


def _check_shared(workdir: str, config: ConfigDict) -> None:
    """Refuses a process that sees another workdir than process 0, which has written its config, or that has another."""
    try:
        differences = config_differences(run_folder.read_config(workdir), config.to_dict())
    except ValueError as error:
        raise ValueError(f"{error}; --workdir must lie on a disk that all processes share") from error
    if differences:
        raise ValueError(f"process 0 has another config ({'; '.join(differences)}); start all with one command")


def _extend(workdir: str, parts: Parts, epochs: int, step: int) -> None:
    """Says what more epochs do to a finished run; refuses them for another, whose schedule they would bend midway."""
    plan, wanted = parts.plan, parts.config.train.epochs
    finished = epochs * plan.steps_per_epoch
    if step != finished:
        raise ValueError(
            f"{workdir} is at step {step:,} of {finished:,}: finish its {epochs} epochs before you make them {wanted}"
        )
    rate = float(parts.learning_rate(step))
    say(
        f"{epochs} epochs are done and become {wanted}: the learning rate, at 0 now, goes up to {rate:.4g} and falls "
        f"along the cosine of {wanted} epochs. A run of {wanted} epochs from the start would have had it all along."
    )


def _describe(parts: Parts, train_state: state.TrainState, first_step: int) -> None:
    """Prints what is about to happen, with the numbers that were derived from the config."""
    config, plan = parts.config, parts.plan
    count = {name: sum(x.size for x in jax.tree.leaves(tree)) for name, tree in train_state.params.items()}
    scaled = f"{config.optimizer.learning_rate:g} by {config.optimizer.scaling} scaling"
    validation = parts.splits.split_of("validation") or "held out of train"
    lines = {
        "data": f"{config.data.source}: {len(parts.train):,} training images, "
        f"{len(parts.validation):,} validation images ({validation})",
        "devices": devices.describe(),
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
    excluded = optimizers.excluded_from_decay(train_state.params)
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
    shown = [f"epoch {epoch:>{len(str(epochs))}}/{epochs}"]
    if "loss" in values:
        shown.append(f"loss {values['loss']:.4f}  contrastive top-1 {100 * values['contrastive_accuracy']:5.1f} %")
    if "online_top1" in values:
        shown.append(f"online top-1 {100 * values['online_top1']:5.1f} %")
    if "validation_loss" in values:
        shown.append(f"validation: loss {values['validation_loss']:.4f}")
        shown.append(f"contrastive {100 * values['validation_contrastive_accuracy']:5.1f} %")
    if "validation_online_top1" in values:
        shown.append(f"online {100 * values['validation_online_top1']:5.1f} %")
    if "validation_rank_z" in values:
        shown.append(f"rank of h {values['validation_rank_h']:.1f}, of z {values['validation_rank_z']:.1f}")
    return "  ".join(shown)


def main() -> None:
    """Runs train.py from its flags."""
    from absl import flags

    from configs import default
    from simclr_jax.commands import launch, plan

    flags.DEFINE_string("workdir", None, "RUN, the folder for the config, checkpoints and metrics.")
    only = "Only compile the step: say what the run takes and whether it fits. Writes nothing."
    flags.DEFINE_bool("plan", False, only)
    flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0, where there are several processes.")
    flags.DEFINE_integer("num_processes", None, "How many processes there are.")
    flags.DEFINE_integer("process_id", None, "Which of them this is, from 0.")
    launch.launch(
        run,
        known=default.get_config(),
        arguments=["workdir"],
        what="What to train: configs/NAME.py. Any key: --config.section.key=value",
        several=["coordinator", "num_processes", "process_id"],
        instead={"plan": plan.run},
    )
