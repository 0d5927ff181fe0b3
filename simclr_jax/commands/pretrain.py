"""The pretraining run, from a config to checkpoints: reads top to bottom in the order of events."""

import contextlib
import json
import shlex
import sys
import textwrap
import zlib
from collections.abc import Sequence
from typing import Any

import jax
from ml_collections import ConfigDict

from simclr_jax.commands import next_step, start_weights
from simclr_jax.data import contents
from simclr_jax.models import parts
from simclr_jax.runtime import array_files, checkpoint, console, devices, metrics, preemption, processes, run_folder
from simclr_jax.runtime import profile as profiling
from simclr_jax.runtime.config import flatten, normalization_is_to_be_found, with_values
from simclr_jax.runtime.console import detail, say
from simclr_jax.runtime.differences import config_differences, epochs_extended_from
from simclr_jax.runtime.loggers import AnyLogger, check_loggers, names, open_loggers
from simclr_jax.runtime.trackers import import_tensorboardx_without_torch
from simclr_jax.training import decay, loop, optimizers
from simclr_jax.training.trainer import Trainer


def run(
    config: ConfigDict,
    workdir: str,
    *,
    profile: int = 0,
    loggers: Sequence[AnyLogger] = (),
    stop: preemption.StopRequest | preemption.Interrupt | None = None,
) -> Trainer:
    """Pretrains a run, or resumes it from its newest intact checkpoint.

    Args:
      config: as configs/default.py.
      workdir: RUN, the folder for config, checkpoints and metrics.
      profile: how many steps to trace into RUN/profile.
      loggers: take the rows of metrics.jsonl, beside those that config.log.to names; each is a
        `simclr_jax.runtime.loggers.Logger`, or a function of (step, values). Of several processes, in the first alone.
      stop: what asks the run to stop; None = signals, as of a process of its own.

    Returns:
      What the run was wired from.

    Raises:
      ValueError: the config, the data, the workdir, its checkpoints and the loggers do not fit together, and nothing
        was compiled or written; or a checkpoint cannot be saved.
      OSError: the run's checkpoints, or the weights to start from, cannot be read from disk; nothing was written.
      loop.NonFinite: the loss, its gradient or a parameter became NaN or infinite.
      preemption.Stopped: the process was told to stop and has saved a checkpoint.
    """
    check_loggers(config.log.to, loggers, writes=processes.is_first())
    trainer = Trainer.from_config(with_kept_normalization(config, workdir), bits=run_folder.read_bits(workdir))
    config = trainer.config  # with what was found in the images
    schedule, feed, writes = trainer.schedule, trainer.feed, processes.is_first()
    data = trainer.splits.contents()
    _check_same_data(data)
    if profile:
        profiling.check(profile, first_step=checkpoint.latest_step(workdir) or 0, total_steps=schedule.total_steps)
    start = start_weights.read(trainer, workdir)
    with stop or preemption.StopRequest() as request, run_folder.hold(workdir) if writes else contextlib.nullcontext():
        more_epochs_than = _check_config(workdir, config, data) if writes else None
        checkpoints = checkpoint.Checkpoints(workdir, keep=config.checkpoint.keep, owner=writes)
        shapes = devices.replicated_shapes(trainer.state_shapes())
        agree = processes.agree if processes.process()[1] > 1 else None
        first_step, train_state = checkpoints.restore(shapes, on_damage=say, agree=agree)
        if train_state is None:
            train_state = devices.replicate(trainer.initial_state(start.variables if start else None))
        else:
            train_state = devices.to_local(train_state)
        trace = profiling.Profile(workdir, profile, first_step=first_step, total_steps=schedule.total_steps)
        if more_epochs_than:
            _extend(workdir, trainer, more_epochs_than, first_step)
        if writes:
            run_folder.write_bits(workdir, trainer.splits.bits_of_white)
            run_folder.write_config(workdir, config.to_dict())
            run_folder.write_data(workdir, data)
            run_folder.note_start(workdir, first_step, devices.describe())
        processes.agree(first_step)  # process 0 has written
        if not writes:  # what process 0 has written must be seen here, and be what this process has
            try:
                written = run_folder.read_config(workdir)
                differences = config_differences(written, config.to_dict(), same_data=True)
            except ValueError as error:
                raise ValueError(f"{error}; --workdir must be on a disk that all processes share") from error
            if differences:
                raise ValueError(
                    f"process 0 has another config ({'; '.join(differences)}); start all processes with the "
                    "same command"
                )
        _describe(trainer, train_state.params, first_step)
        if start:
            start.describe()

        lengths = {"total_steps": schedule.total_steps, "views_per_step": 2 * schedule.batch_size}
        writer = metrics.NoWriter()
        if writes:
            opened = open_loggers(
                config.log.to, loggers, workdir=workdir, first_step=first_step, config=flatten(config.to_dict())
            )
            writer = metrics.MetricsWriter(workdir, first_step=first_step, loggers=opened, **lengths)
        hook, sys.unraisablehook = sys.unraisablehook, array_files.without_closed_loops(sys.unraisablehook)
        try:
            log = loop.MetricsLog(trainer, writer, checkpoints)
            batches = feed.training(first_step, schedule.total_steps)
            if first_step < schedule.total_steps:
                say("compiling the training step …")
            last_step, _ = loop.train(
                trainer.map_train_step(),
                train_state,
                trace.over(batches) if writes else batches,  # the other processes run the same program
                steps_per_epoch=schedule.steps_per_epoch,
                on_step=log.on_step,
                on_epoch=jax.profiler.annotate_function(log.on_epoch, name="validation"),
                saves=schedule.saves,
                save=jax.profiler.annotate_function(log.save, name="checkpoint"),
                first_step=first_step,
                resident=devices.replicate(feed.resident),
                request=request,
            )
            log.say_what_was_missed()
            if last_step < schedule.total_steps:
                raise preemption.Stopped(
                    f"stopped at step {last_step:,} with a checkpoint; the same command resumes it"
                )
        finally:
            with contextlib.ExitStack() as closing:  # from the last to the first
                closing.callback(writer.close)  # a server may take its time, when the checkpoint is safe
                closing.callback(checkpoints.close)
                trace.close()
            if not checkpoints.failed:  # else callbacks of Orbax's other writes may come yet
                sys.unraisablehook = hook
    say(f"\n{schedule.total_steps:,} steps done. Checkpoints and metrics are in {workdir}")
    return trainer


def with_kept_normalization(config: ConfigDict, workdir: str) -> ConfigDict:
    """Returns a config with the mean and deviation that its run, or the one it starts from, has found before."""
    started = checkpoint.latest_step(workdir) is not None
    place = workdir if started else config.model.init_from
    if not (normalization_is_to_be_found(config) and place):
        return config
    try:
        kept = flatten(run_folder.read_config(checkpoint.split(place)[0]))
    except ValueError:  # a file, or no run: what is wrong is told where its weights are read
        if started:
            raise
        return config
    same = kept.get("model.normalize") == "data" and kept.get("data.channels") == config.data.channels
    if not (same and kept.get("model.mean")):
        return config
    return with_values(config, {key: kept.get(key) for key in ("model.mean", "model.deviation")})


def _check_same_data(data: dict[str, Any]) -> None:
    """Refuses processes that read different images: their batches would differ, or one wait for ever for the others."""
    mine = sum(split["images"] for split in data.values()), zlib.crc32(json.dumps(data).encode()) >> 1
    of_first = tuple(map(processes.agree, mine))
    if mine != of_first:
        raise ValueError(
            f"process {processes.process()[0]} reads different images than process 0 ({mine[0]:,} here, "
            f"{of_first[0]:,} there); give all processes the same files"
        )


def _check_config(workdir: str, config: ConfigDict, data: dict[str, Any]) -> int | None:
    """Refuses a run of another config or other data; returns its epochs where this one only asks for more of them."""
    if checkpoint.latest_step(workdir) is None:
        return None
    if run_folder.imported(workdir).exists():
        raise ValueError(
            f"{workdir} was imported and has no optimiser state, so its training cannot be resumed; to train it "
            f"further, give another --workdir with --config.model.init_from={shlex.quote(workdir)}"
        )
    old, new, before = run_folder.read_config(workdir), config.to_dict(), run_folder.read_data(workdir)
    kinds = {str(flatten(stored).get("data.source")).partition(":")[0] for stored in (old, new)}
    same_data = before == data and len(kinds) == 1
    differences = config_differences(old, new, same_data=same_data)
    more_epochs_than = epochs_extended_from(old, new, same_data=same_data)
    if differences and not more_epochs_than:
        raise ValueError(
            f"{workdir} holds a run with a different config ({'; '.join(differences)}); "
            "use its config to resume it, or give another --workdir"
        )
    if before is not None and (changed := contents.changes(before, data)):
        raise ValueError(
            f"{workdir} was trained on different data ({'; '.join(changed)}), so it cannot be resumed exactly; "
            "restore its data to resume it, or give another --workdir with "
            f"--config.model.init_from={shlex.quote(workdir)} to start from its weights"
        )
    return more_epochs_than


def _extend(workdir: str, trainer: Trainer, epochs: int, step: int) -> None:
    """Says what more epochs do to a finished run; refuses them for another, whose schedule they would bend midway."""
    wanted = trainer.config.train.epochs
    finished = epochs * trainer.schedule.steps_per_epoch
    if step != finished:
        raise ValueError(
            f"{workdir} is at step {step:,} of {finished:,}: finish its {epochs} epochs before extending it to {wanted}"
        )
    rate = float(trainer.learning_rate(step))
    say(
        f"extending a finished run of {epochs} epochs to {wanted}: the learning rate rises from 0 to {rate:.4g} and "
        f"follows the cosine of {wanted} epochs from there; a run of {wanted} epochs from the start differs from this"
    )


def _describe(trainer: Trainer, params: dict[str, Any], first_step: int) -> None:
    """Prints what is about to happen, with the numbers that were derived from the config."""
    config, schedule = trainer.config, trainer.schedule
    count = {name: sum(x.size for x in jax.tree.leaves(tree)) for name, tree in params.items()}
    scaled = {"linear": "linear scaling", "sqrt": "square-root scaling", "none": "no scaling"}[config.optimizer.scaling]
    validation = trainer.splits.split_of("validation") or "held out of the training split"
    exact = {
        "batch": "BatchNorm uses the statistics of each micro-batch; model.norm=group avoids this",
        "group": "the gradient equals that of one pass",
    }
    micro_batches = f"{schedule.microbatches} micro-batches of {config.train.microbatch_size} images"
    of_source = trainer.splits.source.describe()
    encoder, as_it_was = trainer.model.encoder, "as it was" if config.model.init_from else "random"
    frozen = f", the first layer stays {as_it_was}" * config.model.freeze_patch_projection
    if config.model.freeze:
        stay = "as they were" if config.model.init_from else "random"
        first = parts.order(encoder)[: config.model.freeze]
        frozen = f", the first {len(first)} parts stay {stay} ({', '.join(first)})"
    layer_decay = ""
    if config.optimizer.layer_decay != 1:
        rates = optimizers.layer_rates(encoder, config.optimizer.layer_decay)
        (lowest, rate), (highest, most) = list(rates.items())[0], list(rates.items())[-1]
        layer_decay = f", times {rate:.3g} ({lowest}) to {most:.3g} ({highest}) and 1 (head)"
    without_labels = config.loss.name in ("nt_xent", "dcl")
    negatives = f", {2 * schedule.batch_size - 2} negatives per view" if without_labels else ""
    lines = {
        "data": f"{config.data.source}: {len(trainer.train):,} training images, "
        f"{len(trainer.validation):,} validation images ({validation})",
        "found": of_source.understood,
        **({"left out": of_source.left_out} if of_source.left_out else {}),
        **({"16-bit files": str(trainer.splits.white)} if trainer.splits.bits_of_white else {}),
        **({"channels": _channels(config)} if config.data.channels != 3 or config.model.normalize == "data" else {}),
        "devices": devices.describe(),
        "model": f"{trainer.model.encoder.network.title}, {count['encoder']:,} parameters{frozen}; "
        f"{config.head.kind} head, {count.get('head', 0):,}; computed in {config.model.dtype}",
        "batch": f"{schedule.batch_size} images{negatives}",
        "loss": f"{config.loss.name}, temperature {config.loss.temperature:g}",
        **({"passes": f"{micro_batches}; {exact[config.model.norm]}"} if schedule.microbatches > 1 else {}),
        "steps": f"{schedule.total_steps:,}: {config.train.epochs} epochs of {schedule.steps_per_epoch:,} steps, "
        f"{schedule.warmup_steps:,} of warm-up",
        "optimizer": f"{config.optimizer.name}, learning rate {config.optimizer.learning_rate:g} ({scaled}), "
        f"peak {schedule.peak_learning_rate:g} for batch {schedule.batch_size}{layer_decay}, "
        f"weight decay {config.optimizer.weight_decay:g}",
        "online probe": "on (does not affect training)"
        if trainer.probe
        else "off: no labels, or online_probe.learning_rate is 0",
    }
    for name, text in lines.items():
        say(f"{name + ':':14}{text}")
    excluded = decay.excluded_from_decay(params, config.optimizer.exclude)
    what = "weight decay or learning-rate adaptation" if config.optimizer.name == "lars" else "weight decay"
    if excluded:
        say(f"{config.optimizer.name} applies no {what} to {len(excluded)} tensors; --verbose lists them")
        detail(textwrap.fill(", ".join(excluded), 118, initial_indent="  ", subsequent_indent="  "))
    if not first_step and (advice := devices.quicker_type(config.model.dtype)):  # a run that goes on keeps its type
        say(advice)
    if first_step:
        what_now = "resuming" if first_step < schedule.total_steps else "already finished, nothing to do"
        say(f"found a checkpoint of step {first_step:,} of {schedule.total_steps:,}: {what_now}")


def _channels(config: ConfigDict) -> str:
    """Returns how many channels images have, and by what they are normalised."""
    numbers = zip(config.model.mean, config.model.deviation, strict=True)
    by = ", ".join(f"({mean:.4g}, {deviation:.4g})" for mean, deviation in numbers)
    return str(config.data.channels) + (f"; normalised by (mean, deviation) {by}" if by else "")


def start_quickly(config: ConfigDict) -> None:
    """Imports what `run` needs without PyTorch, for commands alone: see `import_tensorboardx_without_torch`."""
    if "tensorboard" in names(config.log.to) and processes.is_first():
        import_tensorboardx_without_torch()


def main() -> None:
    """Runs the command, or train.py, from its flags."""
    from absl import flags

    from simclr_jax.commands import launch, plan
    from simclr_jax.configs import default
    from simclr_jax.runtime.targets import EXAMPLES

    flags.DEFINE_string("workdir", None, "RUN: the folder for the config, checkpoints and metrics")
    only = "only compile and time a step: show the memory and time a run needs and whether it fits; writes nothing"
    flags.DEFINE_bool("plan", False, only)
    targets = (
        "NAME: with --plan, plan for other machines, which need not be here, separated by commas; such as "
        f"{', '.join(EXAMPLES)}"
    )
    flags.DEFINE_list("target", [], targets)
    flags.DEFINE_float(
        "price", None, "PRICE: with --target, the price of one device for one hour, to show the lowest cost of the run"
    )
    steps = "N: save a trace of N steps in RUN/profile, for TensorBoard and Perfetto; see docs/profile.md"
    flags.DEFINE_integer("profile", None, steps, lower_bound=1)
    flags.DEFINE_string("coordinator", None, "HOST:PORT: the address of process 0, if there are several processes")
    flags.DEFINE_integer("num_processes", None, "N: the number of processes")
    flags.DEFINE_integer("process_id", None, "N: the number of this process, counted from 0")

    def train(config: ConfigDict, workdir: str) -> None:
        launch.keep_compiled()
        start_quickly(config)
        trainer = run(config, workdir, profile=flags.FLAGS.profile or 0)
        say("next: " + "\n  or: ".join(next_step.after_training(trainer, workdir)))

    def look_ahead(config: ConfigDict, target: list[str], price: float | None) -> None:
        if flags.FLAGS.profile:
            raise ValueError("--profile traces training steps, and --plan does not train; use only one of them")
        if flags.FLAGS["target"].present and not target:
            raise ValueError(f"--target= names no machine; examples are {', '.join(EXAMPLES)}")
        if target:
            devices.compile_only()
        else:
            launch.keep_compiled()
        console.result("plan", plan.run(config, target, price))

    launch.launch(
        train,
        known=default.get_config(),
        arguments=["workdir"],
        several=["coordinator", "num_processes", "process_id"],
        instead={"plan": (look_ahead, ["target", "price"])},
    )
