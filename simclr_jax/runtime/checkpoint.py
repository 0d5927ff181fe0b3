"""Checkpoints: what a run can go on from, checked before it is relied on. The only module that names Orbax.

RUN/checkpoints/STEP  Orbax checkpoints of the whole TrainState, with checksums of every array and of every file
RUN/damaged/STEP      those that turned out to be damaged, moved out of the way

The arrays' checksums are made from memory before a checkpoint is written, and compared once it is. Those of the files
are made then, so that later damage is seen before Orbax reads it, which would answer with pages of logs.

Orbax is given NumPy arrays: with jax's it would write down devices and slices too, in twice the time.
"""

import contextlib
import logging
import math
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from simclr_jax.runtime import checksums, run_folder

_CHECKSUMS = "crc32"  # among the metadata of a checkpoint
_METADATA = "_CHECKPOINT_METADATA"  # Orbax's name of the file that holds them
_UNFINISHED = ".orbax-checkpoint-tmp"  # in the names of what a killed process was writing
_MAX_RATIO = 64  # of a checkpoint's arrays to its files, bytes; parameters are noise, and noise is not compressed
_REASON = 200  # characters of another library's message

_log = logging.getLogger(__name__)


class Damaged(ValueError):
    """A checkpoint that is not what was written."""


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
        self._orbax = ocp.AsyncCheckpointer(ocp.StandardCheckpointHandler())
        self._background = ThreadPoolExecutor(1, "checkpoints")
        self._writing: tuple[int, Future] | None = None
        self._last_good: int | None = None
        self.failed = False
        if owner:
            self._directory.mkdir(parents=True, exist_ok=True)
            for child in self._directory.iterdir():
                if _UNFINISHED in child.name:  # what a killed process was writing
                    child.rmtree()

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
            noted = {_CHECKSUMS: checksums.of_arrays(arrays)}
            self._orbax.save(path, args=ocp.args.StandardSave(arrays), custom_metadata=noted)  # makes a copy
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

        Damaged ones are moved to RUN/damaged.

        Args:
          shapes: jax.ShapeDtypeStructs of the state, with the shardings it is to have.
          on_damage: is told of each damaged checkpoint in a line.
          agree: with several processes, makes the owner's number that of all: it alone looks for damage then.

        Raises:
          ValueError: there are checkpoints, and all are damaged.
        """
        steps = _steps(self._directory)

        def set_aside(step: int, damage: Damaged) -> None:
            parent = self._directory.parent / "damaged"
            names = [str(step), *(f"{step}.{again}" for again in range(2, 1000))]
            place = next(parent / name for name in names if not (parent / name).exists())
            if self._owner:
                parent.mkdir(exist_ok=True)
                (self._directory / str(step)).rename(place)
            on_damage(f"{damage}; moved to {place}")

        step, state, onto_devices = 0, None, {"shapes": shapes, "on_devices": True}
        if agree is None or self._owner:
            found = _newest(self._directory, steps, set_aside, **(onto_devices if agree is None else {}))
            if steps and not found:
                raise ValueError(
                    f"all {len(steps)} checkpoints of {self._workdir} are damaged and lie in {self._workdir}/damaged "
                    "now; the same command starts from the beginning"
                )
            if found:
                step, state = found
                self._last_good = step
        if agree is None:
            return step, state
        step = agree(step)
        return (step, _read(self._directory / str(step), **onto_devices)) if step else (0, None)

    def last_good(self) -> str:
        """Returns the path of the newest checkpoint that was read back whole, or "none yet"."""
        return "none yet" if self._last_good is None else str(self._directory / str(self._last_good))

    def close(self) -> None:
        """Waits until everything is written; raises ValueError if it could not be."""
        try:
            self.wait()
        finally:
            self._background.shutdown()
            with contextlib.suppress(*[Exception] * self.failed):  # Orbax tells once more what has been told
                self._orbax.close()

    def _finish(self, step: int, shapes: Any) -> None:
        """Waits for a checkpoint, reads it back, and removes the older ones that need not be kept."""
        self._orbax.wait_until_finished()
        if self._owner:
            _read(self._directory / str(step), shapes=shapes)
            checksums.note_files(self._directory / str(step))
            for old in _steps(self._directory)[: -self._keep]:
                (self._directory / str(old)).rmtree()

    def _not_written(self, step: int, error: Exception) -> ValueError:
        self.failed = True
        return ValueError(
            f"the checkpoint of step {step} cannot be written: {_reason(error)}; last good checkpoint: "
            f"{self.last_good()}; make room or mend the disk, and the same command goes on from there"
        )


def latest_step(workdir: str) -> int | None:
    """Returns the newest checkpoint's step, or None. Writes nothing."""
    return max(_steps(_directory(workdir)), default=None)


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
    """
    run, of_path = split(run_or_checkpoint)
    if of_path is not None:
        return load_variables(run, of_path)
    config = run_folder.read_config(run_or_checkpoint)
    directory = _directory(run_or_checkpoint)
    steps = _steps(directory)
    if not steps:
        raise ValueError(f"{run_or_checkpoint} holds no checkpoint yet")
    if step is not None and step not in steps:
        raise ValueError(f"{run_or_checkpoint} holds no checkpoint of step {step}; it has {', '.join(map(str, steps))}")
    wanted = ("params", "batch_stats")
    if step is not None:
        return config, step, _read(directory / str(step), names=wanted)
    damages = []
    found = _newest(directory, steps, lambda _, damage: damages.append(damage), names=wanted)
    if found is None:
        raise damages[0]
    for damage in damages:
        _log.warning("%s; passed over for step %d", damage, found[0])
    return config, *found


def without_closed_loops(hook: Callable[[Any], None]) -> Callable[[Any], None]:
    """Returns a `sys.unraisablehook` that leaves out what Python prints of Orbax after a write has failed.

    Callbacks of its other writes find their event loop closed. A command sets the hook in its process, a library never.
    """
    return lambda event: None if str(event.exc_value) == "Event loop is closed" else hook(event)


def _newest(
    directory: epath.Path, steps: list[int], on_damage: Callable[[int, Damaged], None], **how: Any
) -> tuple[int, Any] | None:
    """Returns the newest of some steps that can be read, and what `_read` reads of it; None where none can."""
    for step in reversed(steps):
        try:
            return step, _read(directory / str(step), **how)
        except Damaged as damage:
            on_damage(step, damage)
    return None


def _read(
    path: epath.Path, *, names: tuple[str, ...] | None = None, shapes: Any = None, on_devices: bool = False
) -> Any:
    """Reads these parts of a checkpoint, or all; as NumPy arrays, or onto devices as ``shapes`` say; raises Damaged.

    What is known to be there, as shapes, need not be asked for, which would take as long as reading it.
    """
    try:
        checksums.check_files(path)  # first: of damaged files, Orbax answers with pages of logs, or notices nothing
        if not (path / _METADATA).exists():
            raise ValueError(f"it has no {_METADATA}")
        noted = (ocp.metadata.get_step_metadata(path).custom_metadata or {}).get(_CHECKSUMS)
        if not noted:
            raise ValueError("it has no checksums")
        if on_devices:
            orbax = ocp.Checkpointer(ocp.StandardCheckpointHandler())
            values = orbax.restore(path, args=ocp.args.StandardRestore(shapes))
        else:
            handler = ocp.PyTreeCheckpointHandler()
            stored = handler.metadata(path).tree if shapes is None else shapes
            # Arrays that a few bytes on disk could not hold are refused before memory is asked for.
            claimed = sum(map(_size, jax.tree.leaves(stored)))
            on_disk = sum((path / name).stat().length for name in checksums.files(path))
            if claimed > _MAX_RATIO * on_disk + 2**20:
                raise ValueError(f"it claims arrays of {claimed:,} bytes in files of {on_disk:,}")
            wanted = stored if names is None else {name: stored[name] for name in names}
            as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted)
            arguments = ocp.args.PyTreeRestore(item=wanted, restore_args=as_numpy, partial_restore=True)
            values = handler.restore(path, args=arguments)
        found = checksums.of_arrays(values)
        checksums.compare(found, {name: noted.get(name) for name in (noted if names is None else found)})
    except Exception as error:  # Orbax raises many kinds; whichever it is, this checkpoint cannot be used
        raise Damaged(f"{path} is damaged: {_reason(error)}") from error
    return values


def _size(stored: Any) -> int:
    """Bytes that reading an array takes: its own, or those of the piece that it is stored in, which may be larger."""
    piece = getattr(getattr(stored, "storage", None), "chunk_shape", None) or ()  # of what Orbax tells of a file
    return max(math.prod(stored.shape), math.prod(piece)) * np.dtype(stored.dtype).itemsize


def _reason(error: Exception) -> str:
    """What went wrong in a line: its first, and of a long one the end, where tensorstore tells the cause."""
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return line if len(line) <= _REASON else f"{line[: _REASON // 2]} … {line[-_REASON // 2 :]}"


def _directory(workdir: str) -> epath.Path:
    return (run_folder.folder(workdir) / "checkpoints").resolve()


def _steps(directory: epath.Path) -> list[int]:
    if not directory.is_dir():
        return []
    return sorted(int(child.name) for child in directory.iterdir() if _is_number(child.name) and child.is_dir())


def _is_number(name: str) -> bool:
    return name.isascii() and name.isdecimal()
