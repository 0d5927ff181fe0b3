"""The trace of some steps: what host and devices do when, for TensorBoard and Perfetto, in RUN/profile."""

import contextlib
import itertools
import shlex
from collections.abc import Iterable, Iterator
from typing import Any

import jax

from simclr_jax.runtime import run_folder
from simclr_jax.runtime.console import say

WARM_UP = 10  # steps of a process before those that are traced: the first compiles, others fill the input's queues
_PLACE = ("profile", "plugins", "profile")  # in RUN; where TensorBoard's plugin looks in RUN/profile


def check(count: int, *, first_step: int, total_steps: int) -> None:
    """Raises ValueError where fewer than ``count`` steps follow the first of this process, which compiles."""
    left = total_steps - first_step - 1
    if count > max(left, 0):
        most = f"; use at most --profile={left}" if left > 0 else ": leave it out"
        raise ValueError(
            f"--profile={count}: {first_step:,} of {total_steps:,} steps are done, and the next one compiles{most}"
        )


class Profile:
    """Traces ``count`` steps of this process once it has run warm, and ends the run in no case.

    Nothing that is computed changes: the loop gets the same batches, and the devices the same programs.

    Args:
      workdir: RUN.
      count: how many steps, as `check` allows; 0 = none.
      first_step: steps that were taken before this process.
      total_steps: of the run.
    """

    def __init__(self, workdir: str, count: int, *, first_step: int, total_steps: int):
        self._workdir, self._first_step, self._running = workdir, first_step, False
        self._begin = min(first_step + WARM_UP, total_steps - count) + 1
        self._end = self._begin + count - 1 if count else 0
        self._last = 0  # of the steps in the trace

    def over(self, batches: Iterable[Any]) -> Iterable[Any]:
        """Returns batches for the loop, which asks for one at the beginning of each step."""
        return self._traced(iter(batches)) if self._end else batches

    def _traced(self, batches: Iterator[Any]) -> Iterator[Any]:
        for step in itertools.count(self._first_step + 1):
            if step == self._begin:
                self._start()
            if step == self._end + 2:  # the metrics of the last one have been read: the devices are done with it
                self.close()
            traced = self._running and step <= self._end
            # All until the loop asks for the next batch belongs to this step: reading metrics, and a checkpoint.
            with jax.profiler.StepTraceAnnotation("train", step_num=step) if traced else contextlib.nullcontext():
                with jax.profiler.TraceAnnotation("wait for input"):
                    batch = next(batches, None)
                if batch is None:
                    return
                self._last = step if traced else self._last
                yield batch

    def _start(self) -> None:
        options = jax.profiler.ProfileOptions()
        options.python_tracer_level = 0  # each call of a Python function would be an event, and slow the host
        try:
            run_folder.inside(self._workdir, *_PLACE).mkdir(parents=True, exist_ok=True)
            place = run_folder.folder(self._workdir) / "profile"
            jax.profiler.start_trace(place, create_perfetto_trace=True, profiler_options=options)
            self._running = True
        except Exception as error:  # of jax, the profiler's library or the disk
            _say_without(error)

    def close(self) -> None:
        """Writes the trace, where one is being made, and says where it lies."""
        if not self._running:
            return
        self._running = False
        try:
            jax.profiler.stop_trace()
            newest = max(run_folder.inside(self._workdir, *_PLACE).glob("*/perfetto_trace.json.gz"), key=str)
        except Exception as error:
            _say_without(error)
            return
        say(
            f"traced steps {self._begin:,} to {self._last:,}: open {newest} in https://ui.perfetto.dev, or "
            f"`tensorboard --logdir {shlex.quote(str(run_folder.folder(self._workdir) / 'profile'))}`"
        )


def _say_without(error: Exception) -> None:
    say(
        f"the trace could not be saved: {' '.join(str(error).split()) or type(error).__name__}; training "
        "continues without it"
    )
