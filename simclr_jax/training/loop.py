"""The training loop, of pretraining and of supervised training, and what a pretraining run writes as it goes."""

import shlex
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import numpy as np

from simclr_jax.runtime import devices
from simclr_jax.runtime.checkpoint import Checkpoints
from simclr_jax.runtime.console import say
from simclr_jax.runtime.metrics import MetricsWriter, NoWriter
from simclr_jax.runtime.preemption import Interrupt, StopRequest
from simclr_jax.training.trainer import Trainer

State = TypeVar("State")


class NonFinite(ArithmeticError):
    """The loss, its gradient or a parameter is not finite any more.

    Attributes:
      found: where and what, without the mend that its message has for the command that trained.
    """

    def __init__(self, found: str, mend: str):
        super().__init__(f"{found}; {mend}")
        self.found = found


def train(
    train_step: Callable[..., tuple[State, dict[str, Any]]],
    state: State,
    batches: Iterable[Any],
    *,
    steps_per_epoch: int,
    on_step: Callable[[int, dict[str, float]], None],
    on_epoch: Callable[[int, State], None],
    saves: Callable[[int], bool] = lambda step: False,
    save: Callable[[int, State], None] = lambda step, state: None,
    first_step: int = 0,
    resident: Any = None,
    request: StopRequest | Interrupt | None = None,
) -> tuple[int, State]:
    """Takes a step for each batch, and calls what is due after it. Steps are counted from 1.

    A step's metrics are read when the next step has been started, so that the devices never wait for the host. Not
    later: forced CPU devices abort on long queues, so that two steps are in flight at most.

    Args:
      train_step: of `devices.map_train_step`; takes a state that is replicated, and donates it.
      state: to begin with.
      batches: of all local devices, arrays [n, …].
      steps_per_epoch: how many make an epoch.
      on_step: takes in a step and its metrics, in the order of the steps; raises NonFinite.
      on_epoch: called with the last step of an epoch and its state, whose metrics `on_step` has seen.
      saves: whether the state of a step is to be saved.
      save: called with such a step and its state, whose metrics `on_step` has seen; also with the last one where the
        run is told to stop.
      first_step: steps that were taken before.
      resident: what every device holds for the steps.
      request: tells that this process is to stop. All processes stop after the same step.

    Returns:
      The last step, which is not that of the last batch where the run was told to stop, and its state.
    """
    request = request or StopRequest()
    step, unread = first_step, None

    def read(step, metrics):
        values = devices.first(metrics)
        stop = values.pop("stop") > 0
        on_step(step, values)
        return stop

    for step, batch in enumerate(batches, first_step + 1):
        state, metrics = train_step(state, devices.shard(batch), resident, request.requested)
        request.steps_run()
        stop = unread is not None and read(*unread)
        unread = step, metrics
        ends_epoch = step % steps_per_epoch == 0
        if stop or ends_epoch or saves(step):  # a state that is not finite must be neither measured nor saved
            stop, unread = read(*unread) or stop, None
        if ends_epoch:
            on_epoch(step, state)
        if stop or saves(step):
            save(step, state)
        if stop:
            break
    if unread is not None:
        read(*unread)
    return step, state


class MetricsLog:
    """Takes in what the loop tells of a pretraining run: writes and prints what is due, saves, and ends a bad run.

    Args:
      trainer: the run.
      writer: of its metrics.
      checkpoints: its own.
    """

    def __init__(self, trainer: Trainer, writer: MetricsWriter | NoWriter, checkpoints: Checkpoints):
        self._trainer, self._writer, self._checkpoints = trainer, writer, checkpoints
        self._epoch: list[dict[str, float]] = []  # metrics of its steps, but for updates that were dropped
        self._dropped = 0
        self._alarm = trainer.alarm()
        for row in writer.rows():  # of before a resume: what was said is not said again
            self._alarm.on_step(row["step"], row)
            self._alarm.see(row["step"], row)

    def on_step(self, step: int, values: dict[str, float]) -> None:
        """Takes in a step's metrics; raises NonFinite where a bad update was not dropped, or is one too many."""
        self._checkpoints.check()
        if values.pop("finite"):
            self._epoch.append(values)
            self._alarm.on_step(step, values)
        else:
            numbers = f"loss {values['loss']:g}, gradient norm {values['gradient_norm']:g}"
            found = f"step {step:,} is not finite ({numbers}, or a parameter that it changes)"
            in_a_row, allowed = values.get("skipped"), self._trainer.config.train.max_skipped
            if in_a_row is None or in_a_row > allowed:
                self._checkpoints.wait()
                if in_a_row is not None:
                    found += f"; {in_a_row:.0f} in a row, more than train.max_skipped={allowed}"
                raise NonFinite(found, self._mend(may_skip=in_a_row is None))
            self._dropped += 1
            say(f"{found}; its update is skipped")
        self._writer.advance(step, values["loss"])
        schedule = self._trainer.schedule
        if step % self._trainer.config.log.every_steps == 0 or step in (1, schedule.total_steps):
            rate = float(self._trainer.learning_rate(step - 1))
            self._writer.write(step, step / schedule.steps_per_epoch, values | {"learning_rate": rate})

    def _mend(self, *, may_skip: bool) -> str:
        """What to append to the command that trained."""
        last_good, config = self._checkpoints.last_good, self._trainer.config
        slower = f"--config.optimizer.learning_rate={config.optimizer.learning_rate / 10:g}"
        if last_good:
            init_from = shlex.quote(f"--config.model.init_from={last_good}")
            anew = f"with --workdir=NEW {slower} {init_from} (or an older checkpoint) starts a new run from there"
        elif config.model.init_from:
            anew = f"with {slower} and an older checkpoint as --config.model.init_from starts again"
        else:
            anew = f"with {slower} starts again"
        skip = "with --config.train.on_nonfinite=skip resumes and skips such updates, and " if may_skip else ""
        return f"last good checkpoint: {last_good or 'none yet'}; the same command {skip}{anew}"

    def on_epoch(self, step: int, state: Any) -> None:
        """Measures a state on the held-out images, writes that, and prints the epoch's line."""
        epoch, epochs = step // self._trainer.schedule.steps_per_epoch, self._trainer.config.train.epochs
        held_out = self._trainer.validate(state)
        if held_out:
            self._writer.write(step, epoch, held_out)
        names = self._epoch[0] if self._epoch else ()  # all of a short epoch's updates may have been dropped
        values = {name: float(np.mean([values[name] for values in self._epoch])) for name in names} | held_out
        self._epoch = []
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
            shown.append(
                f"effective rank of h {values['validation_rank_h']:.1f}, of z {values['validation_rank_z']:.1f}"
            )
        say("  ".join(shown))
        if warning := self._alarm.see(step, held_out):
            say(warning)

    def save(self, step: int, state: Any) -> None:
        """Saves a state; the rows of its step are on disk by then."""
        self._checkpoints.save(step, state)

    def say_what_was_missed(self) -> None:
        """Says what the run went without: updates that were dropped, images that could not be read."""
        if self._dropped:
            say(f"{self._dropped:,} updates were skipped because they were not finite (NaN or infinite)")
        unreadable, images = len(self._trainer.feed.unreadable), len(self._trainer.train)
        if unreadable:
            say(f"{unreadable:,} of {images:,} training images could not be read and were replaced by others")
