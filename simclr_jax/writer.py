"""Screen and logs: the progress bar, the console, metrics.jsonl and TensorBoard."""

import json
import sys
import time
from collections.abc import Iterable, Mapping

from etils import epath
from tensorboardX import SummaryWriter
from tqdm import tqdm

_LONG_SILENCE = 30.0  # seconds between two lines of a progress bar that goes to a file


def progress(iterable: Iterable | None = None, **options) -> tqdm:
    """Returns a progress bar; one that goes to a file instead of a screen prints a line now and then."""
    interval = 0.2 if sys.stderr.isatty() else _LONG_SILENCE
    return tqdm(iterable, mininterval=interval, dynamic_ncols=True, **options)


def say(text: str) -> None:
    """Prints a line without tearing a progress bar."""
    tqdm.write(text)
    sys.stdout.flush()


class Writer:
    """Writes what a training run says of itself.

    A run that resumes keeps the rows up to its checkpoint and writes the later ones anew, so that metrics.jsonl holds
    each step once.

    Args:
      workdir: RUN.
      first_step, total_steps: where the run starts and ends.
      views_per_step: for the speed shown.
    """

    def __init__(self, workdir: str, *, first_step: int, total_steps: int, views_per_step: int):
        folder = epath.Path(workdir).expanduser()
        self._metrics = folder / "metrics.jsonl"
        self._rows = _rows_up_to(self._metrics, first_step)
        self._metrics.write_text("".join(self._rows))
        self._tensorboard = SummaryWriter(str(folder / "tensorboard"), purge_step=first_step + 1)
        self._bar = progress(total=total_steps, initial=first_step, desc="pretraining", unit="step")
        self._views_per_step, self._first_step = views_per_step, first_step
        self._start = time.monotonic()

    def advance(self, step: int, loss: float) -> None:
        """Moves the progress bar on to a step that is done."""
        done, seconds = step - self._first_step, time.monotonic() - self._start
        rate = self._views_per_step * done / seconds
        self._bar.set_postfix_str(f"loss {loss:.3f}, {rate:,.0f} views/s", refresh=False)
        self._bar.update(step - self._bar.n)

    def write(self, step: int, epoch: float, values: Mapping[str, float]) -> None:
        """Appends one row to metrics.jsonl and TensorBoard."""
        row = {"step": step, "epoch": round(epoch, 6), **values}
        with self._metrics.open("a") as file:
            file.write(json.dumps(row) + "\n")
        for name, value in values.items():
            self._tensorboard.add_scalar(name, value, step)

    def close(self) -> None:
        """Closes the bar and the files."""
        self._bar.close()
        self._tensorboard.close()


class Silent:
    """Stands where a process has nothing to write: one of several writes for all."""

    def advance(self, step: int, loss: float) -> None:
        """Does nothing."""

    def write(self, step: int, epoch: float, values: Mapping[str, float]) -> None:
        """Does nothing."""

    def close(self) -> None:
        """Does nothing."""


def _rows_up_to(path: epath.Path, step: int) -> list[str]:
    if not path.exists():
        return []
    lines = path.read_text().splitlines(keepends=True)
    return [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
