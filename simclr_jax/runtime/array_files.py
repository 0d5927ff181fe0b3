"""Trees of arrays in the files of a folder, written and read by Orbax. The only module that names it.

Orbax is given NumPy arrays: with jax's it would write down devices and slices too, in twice the time.

The arrays' checksums are made from memory before a tree is written, and compared whenever it is read. Those of the
files are made when it has been read back, so that later damage is seen before Orbax reads it, which would answer with
pages of logs or notice nothing. A tree that cannot be used is one of three things, which Orbax's errors do not tell
apart: damaged, by proof of its bytes; on a disk that does not answer; or whole, with other arrays than were asked for.
"""

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from simclr_jax.runtime import checksums, disk

UNFINISHED = ".orbax-checkpoint-tmp"  # in the names of folders that are being written
_METADATA = "_CHECKPOINT_METADATA"  # Orbax's file for what is noted: {"custom_metadata": {_CHECKSUMS: …, _FORMS: …}}
_CHECKSUMS, _FORMS = "crc32", "forms"
_MAX_RATIO = 64  # of arrays to their files, bytes; parameters are noise, and noise is not compressed
_REASON = 200  # characters of another library's message
_SHOWN = 3  # arrays that a message names
_NOTHING_CHANGED = "nothing was changed; repeat the command when the disk responds"


class Unreadable(OSError):
    """The disk does not tell whether something is whole: nothing is known of it, and nothing was changed."""


class Writer:
    """Writes trees in the background, one after the other; each is complete or absent."""

    def __init__(self):
        self._orbax = ocp.AsyncCheckpointer(ocp.StandardCheckpointHandler())

    def start(self, path: epath.Path, arrays: Any) -> None:
        """Begins to write a tree of NumPy arrays, of which it makes a copy, with their checksums and forms."""
        noted = {_CHECKSUMS: checksums.of_arrays(arrays), _FORMS: checksums.forms(arrays)}
        self._orbax.save(path, args=ocp.args.StandardSave(arrays), custom_metadata=noted)

    def wait(self) -> None:
        """Waits until everything is written."""
        self._orbax.wait_until_finished()

    def close(self) -> None:
        """Waits, and ends the threads."""
        self._orbax.close()


def read(
    path: epath.Path, *, names: tuple[str, ...] | None = None, shapes: Any = None, on_devices: bool = False
) -> Any:
    """Reads these parts of a tree, or all; as NumPy arrays, or onto devices as ``shapes`` say.

    Raises:
      Damaged: its bytes are, by proof, not what was written.
      Unreadable: the disk does not tell.
      ValueError: it is whole, and its arrays are of other forms than ``shapes``.
    """
    try:
        with disk_of(path):
            noted, forms = _checked_files(path)
            try:
                if shapes is not None and forms not in (None, checksums.forms(shapes)):
                    raise ValueError("its arrays are different ones")  # of which Orbax would leave threads behind
                values = _read_onto_devices(path, shapes) if on_devices else _read_as_numpy(path, names, shapes)
                found = checksums.of_arrays(values)
                wrong = checksums.differing(
                    found, noted if names is None else {name: noted.get(name) for name in found}
                )
                if wrong or (shapes is not None and checksums.form_differences(values, shapes)):
                    raise ValueError("its arrays are different ones")
            except MemoryError:
                raise
            except Exception as error:  # Orbax raises many kinds, of damage, of disks and of forms alike
                _explain(path, noted, names or (), shapes, error)
    except checksums.Damaged as damage:
        raise checksums.Damaged(f"{path} is damaged: {damage}") from damage
    return values


def _checked_files(path: epath.Path) -> tuple[dict[str, int], dict[str, str] | None]:
    """Compares a tree's files with what was noted of them; returns its arrays' checksums and, of newer trees, forms."""
    checksums.check_files(path)
    noted = checksums.read_json(path / _METADATA).get("custom_metadata")
    found = noted.get(_CHECKSUMS) if isinstance(noted, dict) else None
    if not found or not isinstance(found, dict):
        raise checksums.Damaged("it has no checksums")
    return found, noted.get(_FORMS)


def _read_onto_devices(path: epath.Path, shapes: Any) -> Any:
    return ocp.Checkpointer(ocp.StandardCheckpointHandler()).restore(path, args=ocp.args.StandardRestore(shapes))


def _read_as_numpy(path: epath.Path, names: tuple[str, ...] | None = None, shapes: Any = None) -> Any:
    """Reads these parts, or all; what is known to be there need not be asked for, which takes as long as reading it."""
    handler = ocp.PyTreeCheckpointHandler()
    stored = handler.metadata(path).tree if shapes is None else shapes
    claimed = sum(map(_size, jax.tree.leaves(stored)))
    on_disk = sum(disk.size(path / name) for name in checksums.files(path))
    if claimed > _MAX_RATIO * on_disk + 2**20:
        raise checksums.Damaged(f"it claims to hold arrays of {claimed:,} bytes in files of {on_disk:,}")
    wanted = stored if names is None else {name: stored[name] for name in names}
    as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted)
    arguments = ocp.args.PyTreeRestore(item=wanted, restore_args=as_numpy, partial_restore=True)
    return handler.restore(path, args=arguments)


def _size(stored: Any) -> int:
    """Bytes that reading an array takes: its own, or those of the piece that it is stored in, which may be larger."""
    piece = getattr(getattr(stored, "storage", None), "chunk_shape", None) or ()  # of what Orbax tells of a file
    return max(math.prod(stored.shape), math.prod(piece)) * np.dtype(stored.dtype).itemsize


def _explain(
    path: epath.Path, noted: dict[str, int], names: tuple[str, ...], shapes: Any, error: Exception
) -> NoReturn:
    """Finds out why a tree could not be read, by reading all of it again in the forms that it has, and raises that."""
    checksums.read_all(path)  # what the disk does not give is an OSError here, whatever Orbax made of it
    files_are_whole = checksums.check_files(path)
    try:
        values = _read_as_numpy(path)
        wrong = checksums.differing(checksums.of_arrays(values), noted)
    except (MemoryError, checksums.Damaged):
        raise
    except Exception as again:
        of_disk = isinstance(again, OSError) and not isinstance(again, FileNotFoundError)
        if files_are_whole or of_disk or "os_error_code=" in str(again):  # so tensorstore tells of an OSError
            mend = "or with the versions listed in RUN/versions.jsonl"
            raise Unreadable(f"{path} cannot be read: {reason(again)}; {_NOTHING_CHANGED}, {mend}") from again
        raise checksums.Damaged(reason(again)) from again
    if wrong:
        raise checksums.Damaged(f"{len(wrong)} of {len(noted)} arrays differ from what was written, first {wrong[0]}")
    misfit = [f"{name} is missing" for name in names if name not in values]
    misfit += checksums.form_differences(values, shapes) if shapes is not None else []
    if misfit:
        cause = " (one row per class: classes or labels were added or removed)" if "probe" in misfit[0] else ""
        raise ValueError(
            f"{path} is intact, but does not fit this data or config: {len(misfit)} arrays differ, "
            f"{', '.join(misfit[:_SHOWN])}{cause}; nothing was changed; use the data and the config that the run "
            "started with, or another --workdir"
        ) from error
    if isinstance(error, jax.errors.JaxRuntimeError):  # of the devices, as that their memory is full
        raise error
    raise Unreadable(f"{path} could not be read at first: {reason(error)}; {_NOTHING_CHANGED}") from error


@contextlib.contextmanager
def disk_of(path: epath.Path) -> Iterator[None]:
    """Turns an OSError into an Unreadable that says what to do."""
    try:
        yield
    except Unreadable:
        raise
    except OSError as error:
        told = error.strerror or reason(error)
        raise Unreadable(f"{path} cannot be read: {told}; {_NOTHING_CHANGED}") from error


def reason(error: Exception) -> str:
    """What went wrong in a line: its first, and of a long one the end, where tensorstore tells the cause."""
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return line if len(line) <= _REASON else f"{line[: _REASON // 2]} … {line[-_REASON // 2 :]}"


def without_closed_loops(hook: Callable[[Any], None]) -> Callable[[Any], None]:
    """Returns a `sys.unraisablehook` that leaves out what Python prints of Orbax after a write has failed.

    Callbacks of its other writes find their event loop closed. A command sets the hook in its process, a library never.
    """
    return lambda event: None if str(event.exc_value) == "Event loop is closed" else hook(event)
