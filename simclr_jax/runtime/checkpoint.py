"""Checkpoints: what a run can go on from, checked before it is relied on.

RUN/checkpoints/STEP  of the whole TrainState, with checksums of every array and of every file
RUN/damaged/STEP      those that were proved to be damaged, moved out of the way of an older, whole one

One that the disk does not give, or that holds other arrays than the run's, is not damaged, and is left where it is.
"""

import contextlib
import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
from etils import epath

from simclr_jax.runtime import array_files, checksums, disk, run_folder

_log = logging.getLogger(__name__)


class Checkpoints:
    """The checkpoints of one run: written asynchronously, each complete or absent, read back before older ones go.

    Args:
      workdir: RUN, which nobody else writes to.
      keep: newest checkpoints that are kept. An older one is removed only when the newest has been read back whole.
      owner: whether this process removes and moves what is on disk; of several processes one does.

    Attributes:
      failed: whether a checkpoint could not be written.
    """

    def __init__(self, workdir: str, *, keep: int, owner: bool = True):
        self._workdir, self._keep, self._owner = workdir, keep, owner
        self._directory = _directory(workdir)
        self._writer = array_files.Writer()
        self._background = ThreadPoolExecutor(1, "checkpoints")
        self._writing: tuple[int, Future] | None = None
        self._last_good: int | None = None
        self.failed = False
        if owner:
            for child in _children(self._directory):
                if array_files.UNFINISHED in child.name:  # what a killed process was writing
                    child.rmtree()
            self._directory.mkdir(parents=True, exist_ok=True)

    def save(self, step: int, state: Any) -> None:
        """Starts writing a checkpoint; the state may be donated as soon as this returns.

        Args:
          step: of the state.
          state: whole on each device of this process. Of several processes the first writes its own.

        Raises:
          ValueError: the one before could not be written.
        """
        self.wait()
        path = self._directory / str(step)
        try:
            arrays = checksums.on_host(state)
            self._writer.start(path, arrays)
        except Exception as error:  # Orbax raises many kinds
            raise self._not_written(step, error) from error
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), arrays)
        self._writing = step, self._background.submit(self._finish, step, shapes)

    def check(self) -> None:
        """Raises ValueError if it is known already that the newest checkpoint could not be written. Does not wait."""
        if self._writing and self._writing[1].done():
            self.wait()

    def wait(self) -> None:
        """Waits for what is being written; raises ValueError if it could not be."""
        if self._writing is None:
            return
        (step, finished), self._writing = self._writing, None
        try:
            finished.result()
        except Exception as error:
            raise self._not_written(step, error) from error
        self._last_good = step

    def restore(
        self, shapes: Any, on_damage: Callable[[str], None], agree: Callable[[int], int] | None = None
    ) -> tuple[int, Any]:
        """Returns the newest step whose checkpoint is whole, and its state; (0, None) where there is no checkpoint.

        Damaged ones that are newer are moved to RUN/damaged.

        Args:
          shapes: jax.ShapeDtypeStructs of the state, with the shardings it is to have.
          on_damage: is told of each damaged checkpoint in a line.
          agree: with several processes, makes the owner's number that of all: it alone looks for damage then.

        Raises:
          ValueError: there were checkpoints, and all are damaged; or the newest whole one holds other arrays.
          array_files.Unreadable: the disk does not tell of the newest. Nothing has been changed in any of these cases.
        """
        step, state = 0, None
        if agree is None or self._owner:
            steps, damages = _steps(self._directory), {}
            found = _newest(self._directory, steps, damages, shapes=shapes, on_devices=agree is None)
            if found:
                step, state = found
                self._last_good = step
            elif steps or _children(self._directory.parent / "damaged"):
                raise ValueError(self._all_damaged(damages))
            for number, damage in damages.items():
                on_damage(f"{damage}; moved to {self._set_aside(number)}")
        if agree is None:
            return step, state
        step = agree(step)
        path = self._directory / str(step)
        return step, array_files.read(path, shapes=shapes, on_devices=True) if step else None

    @property
    def last_good(self) -> str | None:
        """The path of the newest checkpoint that was read back whole; None where this process knows of none."""
        return None if self._last_good is None else str(self._directory / str(self._last_good))

    def close(self) -> None:
        """Waits until everything is written; raises ValueError if it could not be."""
        try:
            self.wait()
        finally:
            self._background.shutdown()
            with contextlib.suppress(*[Exception] * self.failed):  # Orbax tells once more what has been told
                self._writer.close()

    def _finish(self, step: int, shapes: Any) -> None:
        """Waits for a checkpoint, reads it back, and removes the older ones that need not be kept."""
        self._writer.wait()
        if self._owner:
            path = self._directory / str(step)
            try:
                array_files.read(path, shapes=shapes)
            except checksums.Damaged:
                path.rename(path.with_name(path.name + array_files.UNFINISHED))  # the next start clears it away
                raise
            checksums.note_files(path)
            for old in _steps(self._directory)[: -self._keep]:
                (self._directory / str(old)).rmtree()

    def _not_written(self, step: int, error: Exception) -> ValueError:
        self.failed = True
        return ValueError(
            f"the checkpoint of step {step} cannot be saved: {array_files.reason(error)}; last good checkpoint: "
            f"{self.last_good or 'none yet'}; free space or fix the disk, and the same command resumes"
        )

    def _set_aside(self, step: int) -> epath.Path:
        """Moves a damaged checkpoint; returns where to."""
        parent = self._directory.parent / "damaged"
        names = [str(step), *(f"{step}.{again}" for again in range(2, 1000))]
        place = next(parent / name for name in names if not (parent / name).exists())
        parent.mkdir(exist_ok=True)
        (self._directory / str(step)).rename(place)
        return place

    def _all_damaged(self, damages: dict[int, checksums.Damaged]) -> str:
        places = [place for place in (self._directory, self._directory.parent / "damaged") if _children(place)]
        newest = f"{next(iter(damages.values()))}, the newest of {len(damages)}" if damages else "all were moved aside"
        return (
            f"{self._workdir} has no intact checkpoint left ({newest}); nothing was changed; give another "
            f"--workdir, or remove {' and '.join(map(str, places))} to restart this run from the beginning"
        )


def steps(workdir: str) -> list[int]:
    """Returns the steps of a run's checkpoints, in order. Writes nothing."""
    return _steps(_directory(workdir))


def latest_step(workdir: str) -> int | None:
    """Returns the newest checkpoint's step, or None. Writes nothing."""
    return max(steps(workdir), default=None)


def split(run_or_checkpoint: str) -> tuple[str, int | None]:
    """Returns RUN and the step that a path names: None for RUN itself."""
    path = run_folder.folder(run_or_checkpoint)
    if _is_number(path.name) and path.parent.name == "checkpoints":
        return str(path.parent.parent), int(path.name)
    return run_or_checkpoint, None


def load_variables(run_or_checkpoint: str, step: int | None = None) -> tuple[dict[str, Any], int, dict[str, Any]]:
    """Reads a network back from its checkpoint, without optimiser or online probe.

    Args:
      run_or_checkpoint: RUN, or RUN/checkpoints/STEP.
      step: which checkpoint of RUN; None = the newest that is not damaged.

    Returns:
      The run's config, the step, and {"params", "batch_stats"} as NumPy arrays.

    Raises:
      ValueError: it is no run, has no checkpoint, or not that one; or the checkpoint is damaged.
      array_files.Unreadable: the disk does not give it.
    """
    run, of_path = split(run_or_checkpoint)
    if of_path is not None:
        return load_variables(run, of_path)
    config = run_folder.read_config(run_or_checkpoint)
    directory = _directory(run_or_checkpoint)
    there = _steps(directory)
    if not there:
        raise ValueError(f"{run_or_checkpoint} has no checkpoint yet")
    if step is not None and step not in there:
        raise ValueError(
            f"{run_or_checkpoint} has no checkpoint of step {step}; it has those of steps {', '.join(map(str, there))}"
        )
    wanted = ("params", "batch_stats")
    if step is not None:
        return config, step, array_files.read(directory / str(step), names=wanted)
    damages = {}
    found = _newest(directory, there, damages, names=wanted)
    if found is None:
        raise damages[there[-1]]
    for damage in damages.values():
        _log.warning("%s; using step %d instead", damage, found[0])
    return config, *found


def _newest(
    directory: epath.Path, steps: list[int], damages: dict[int, checksums.Damaged], **how: Any
) -> tuple[int, Any] | None:
    """Returns the newest of some steps that is not damaged, and what is read of it; notes those that are."""
    for step in reversed(steps):
        try:
            return step, array_files.read(directory / str(step), **how)
        except checksums.Damaged as damage:
            damages[step] = damage
    return None


def _directory(workdir: str) -> epath.Path:
    return (run_folder.folder(workdir) / "checkpoints").resolve()


def _steps(directory: epath.Path) -> list[int]:
    """Returns the steps of the checkpoints, in order; raises Unreadable where the disk does not tell."""
    numbered = [child for child in _children(directory) if _is_number(child.name)]
    with array_files.disk_of(directory):
        return sorted(int(child.name) for child in numbered if disk.is_folder(child))


def _children(folder: epath.Path) -> list[epath.Path]:
    """Returns what a folder holds, nothing where it does not exist."""
    with array_files.disk_of(folder):
        return list(folder.iterdir()) if disk.is_folder(folder) else []


def _is_number(name: str) -> bool:
    return name.isascii() and name.isdecimal()
