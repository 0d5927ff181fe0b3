"""What a training run tells of itself: metrics.jsonl, its speed, and the rows that its loggers take."""

import contextlib
import itertools
import json
import math
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from simclr_jax.runtime import console, disk, run_folder
from simclr_jax.runtime.console import duration, progress, say

_LAST_STEP = 2**31 - 1
_TIMED_STEPS = 10  # after which the run's length is told

# Of a row, what depends on the machine and its hour. All else is the same in a run that was stopped and went on.
TIMES = ("seconds", "views_per_second")


class MetricsWriter:
    """Writes what a training run says of itself.

    A run that resumes keeps the rows up to its checkpoint and writes the later ones anew, so that metrics.jsonl holds
    each step once. A row has, besides its values, the `TIMES`: "seconds" since this start, and "views_per_second" over
    the steps since the row before, validation and checkpoints included. The first step of a start, which compiles, is
    in no speed. Each row then goes to the loggers.

    Args:
      workdir: RUN.
      first_step, total_steps: where the run starts and ends.
      views_per_step: for the speeds.
      loggers: of `loggers.open_loggers`: each has `write(step, values)` and `close()`, and what it raises ends the run.
    """

    def __init__(
        self, workdir: str, *, first_step: int, total_steps: int, views_per_step: int, loggers: Sequence[Any] = ()
    ):
        self._metrics = run_folder.folder(workdir) / "metrics.jsonl"
        self._before = _rows_up_to(self._metrics, first_step)
        disk.replace_text(self._metrics, "".join(self._before))
        self._loggers = loggers
        self._bar = progress(total=total_steps, initial=first_step, desc="pretraining", unit="step")
        self._views_per_step, self._total_steps = views_per_step, total_steps
        self._start = time.monotonic()
        self._done: list[float] = []  # when the first steps of this start were done
        self._first: tuple[int, float] | None = None  # step of this start, and when it was done
        self._row = self._first  # likewise, of the last row

    def advance(self, step: int, loss: float) -> None:
        """Takes in that a step is done: moves the progress bar on, and says once how long the run will take."""
        now = time.monotonic()
        if self._first is None:
            self._first = self._row = step, now
        shown = f"loss {loss:.3f}"
        if rate := self._rate(self._first, step, now):
            shown += f", {rate:,.0f} views/s"
        self._bar.set_postfix_str(shown, refresh=False)
        self._bar.update(step - self._bar.n)
        if len(self._done) <= _TIMED_STEPS:
            self._done.append(now)
            if len(self._done) > _TIMED_STEPS and step < self._total_steps:
                say(self._outlook(step))

    def _outlook(self, step: int) -> str:
        # The median: between two steps there may be a validation that compiles.
        seconds = statistics.median(b - a for a, b in itertools.pairwise(self._done))
        left, first = self._total_steps - step, self._done[0] - self._start
        return (
            f"the first step, with compilation, took {duration(first)}; the next {_TIMED_STEPS} ran at "
            f"{self._views_per_step / seconds:,.0f} views/s: about {duration(left * seconds)} left, "
            "not counting validation and checkpoints"
        )

    def _rate(self, since: tuple[int, float], step: int, now: float) -> float | None:
        """Returns views a second since a step; None where no step has been done since."""
        steps, seconds = step - since[0], now - since[1]
        return self._views_per_step * steps / seconds if steps and seconds > 0 else None

    def write(self, step: int, epoch: float, values: Mapping[str, float]) -> None:
        """Appends one row, with the `TIMES`, to metrics.jsonl, and hands its values to the loggers."""
        now = time.monotonic()
        values = {**values, "seconds": round(now - self._start, 3)}
        if self._row and (rate := self._rate(self._row, step, now)):
            values["views_per_second"] = round(rate, 1)
            self._row = step, now
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}  # JSON has no NaN
        row = {"step": step, "epoch": round(epoch, 6), **finite}
        console.event("metrics", **row)
        with run_folder.told_where(self._metrics), self._metrics.open("a") as file:
            file.write(json.dumps(row) + "\n")
        for logger in self._loggers:
            logger.write(step, values)

    def rows(self) -> list[dict[str, float]]:
        """Returns the rows of before the start, which are those of a resumed run up to its checkpoint."""
        return [_numbers(row) for row in self._before]

    def close(self) -> None:
        """Closes the bar and the loggers, each of them whatever the others raise."""
        with contextlib.ExitStack() as closing:
            for logger in reversed(self._loggers):
                closing.callback(logger.close)
            self._bar.close()


class NoWriter:
    """Stands where a process has nothing to write: one of several writes for all."""

    def advance(self, step: int, loss: float) -> None:
        """Does nothing."""

    def write(self, step: int, epoch: float, values: Mapping[str, float]) -> None:
        """Does nothing."""

    def rows(self) -> list[dict[str, float]]:
        """Returns none."""
        return []

    def close(self) -> None:
        """Does nothing."""


def _rows_up_to(path: epath.Path, step: int) -> list[str]:
    """Returns the lines of a metrics.jsonl up to a step; the last line may have been torn by the end of a process."""
    lines = disk.text_if_there(path).splitlines(keepends=True)
    kept = []
    for number, line in enumerate(lines, 1):
        try:
            found = int(json.loads(line)["step"]) if line.endswith("\n") else None
        except (ValueError, TypeError, KeyError):
            found = None
        if found is None and number < len(lines):
            say(f"line {number} of {path} cannot be read and is skipped")
        if found is not None and found <= step:
            kept.append(line)
    return kept


def read_rows(workdir: str) -> list[dict[str, float]]:
    """Returns the rows of RUN/metrics.jsonl, without what is no number in them; none where there is no such file."""
    lines = _rows_up_to(run_folder.folder(workdir) / "metrics.jsonl", _LAST_STEP)
    return [_numbers(line) for line in lines]


def _numbers(line: str) -> dict[str, float]:
    row = json.loads(line)
    return {name: x for name, x in row.items() if type(x) in (int, float) and math.isfinite(x)}
