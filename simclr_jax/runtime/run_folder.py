"""RUN, the folder of a run: its config, its starts, and the lock that keeps a second process out.

RUN/config.json     the config
RUN/data.json       what its images were: counts and checksums
RUN/bits.json       which value is white in its image files of 16 bits
RUN/versions.jsonl  one line a start: step, time, process, command, versions, devices
RUN/.lock           held while a process trains

RUN lies on a disk of this machine or of its network: a folder of an object store is refused where it is named.
"""

import contextlib
import datetime
import json
import os
import platform
import shlex
import socket
import sys
from collections.abc import Iterator
from importlib import metadata
from typing import Any

import filelock
from etils import epath

from simclr_jax.runtime import disk
from simclr_jax.runtime.key_names import renamed

_SYSTEM = ("/proc/", "/sys/")  # which hold all others by links
_BITS_BEFORE = 16  # what runs without bits.json read files of 16 bits by
_MAX_CONFIG = 2**20  # bytes; a config has some two thousand
_OF_A_SPLIT = {"images": int, "classes": int, "checksum": str}  # what data.json says

_PACKAGES = (
    "simclr_jax",
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "numpy",
    "tensorflow",
    "tensorflow-cpu",
)


def folder(workdir: str) -> epath.Path:
    """Returns RUN as a path; raises ValueError where it is no folder of a disk."""
    disk.check_on_disk(str(workdir))
    return epath.Path(workdir).expanduser()


def inside(workdir: str, *names: str) -> epath.Path:
    """Returns RUN/NAME/…, to be written.

    Raises:
      ValueError: a link leads it out of the run, which may be anybody's.
    """
    path = folder(workdir).joinpath(*names)
    if not lies_inside(workdir, *names):
        raise ValueError(f"{path} is, or is inside, a link to {os.path.realpath(path)}; remove the link")
    return path


def lies_inside(workdir: str, *names: str) -> bool:
    """Whether no link leads RUN/NAME/… elsewhere."""
    run = folder(workdir)
    # epath's own resolve follows no links
    return os.path.realpath(run.joinpath(*names)) == os.path.join(os.path.realpath(run), *names)


def check_places(workdir: str, source: str, directory: str) -> None:
    """Raises ValueError where a run's config would have images read in the run, on another machine or everywhere.

    The run may be anybody's, with files and addresses that were made to be opened: these the user has to name.

    Args:
      workdir: RUN.
      source, directory: ``data.source`` and ``data.dir`` of its config; "" where the user gave another.
    """
    kind, _, place = source.partition(":")
    given = {"source": source, "dir": directory}
    paths = {"source": place if kind in ("npz", "folder") else "", "dir": directory}
    for key, path in paths.items():
        real = os.path.join(os.path.realpath(os.path.expanduser(path)), "")
        where = {
            "into the run itself": real.startswith(os.path.join(os.path.realpath(folder(workdir)), "")),
            "to another machine": disk.is_url(path),
            "to the system's own files": real == "/" or real.startswith(_SYSTEM),
        }
        if path and any(where.values()):
            flags = shlex.join([f"--config.data.{name}={value}" for name, value in given.items() if value])
            raise ValueError(
                f"data.{key} of {workdir} points {next(words for words, so in where.items() if so)}: {path[:200]!r}; "
                f"if you trust whoever made the run, give it yourself: {flags}"
            )


def imported(workdir: str) -> epath.Path:
    """Returns where a run tells that its weights came from elsewhere; other runs have no such file."""
    return folder(workdir) / "imported.json"


@contextlib.contextmanager
def hold(workdir: str) -> Iterator[None]:
    """Makes RUN where it does not exist, and keeps other processes from training in it.

    Raises:
      ValueError: another process trains there, it cannot be written, or a link in it leads out of it.
    """
    path = folder(workdir)
    try:
        path.mkdir(parents=True, exist_ok=True)
        # RUN may come from others, and must not have something outside of it written or removed.
        inside = os.path.join(os.path.realpath(path), "")
        for child in path.iterdir():
            place = os.path.realpath(child)
            if not place.startswith(inside):
                raise ValueError(
                    f"{child} is a link out of the workdir, to {place}; put the whole workdir there instead"
                )
        lock = contextlib.nullcontext()
        with contextlib.suppress(NotImplementedError):  # a network disk without locks
            # The operating system lets go of it when the process ends, however it ends.
            lock = filelock.FileLock(str(path / ".lock"), timeout=0).acquire()
    except filelock.Timeout:
        raise ValueError(
            f"{workdir} is in use: {_last_start(path)}; wait until it ends, or give another --workdir"
        ) from None
    except ValueError:
        raise
    except OSError as error:
        raise ValueError(f"--workdir={workdir} cannot be written: {error.strerror or error}") from error
    with lock:
        yield


def _last_start(path: epath.Path) -> str:
    """Who has it, as far as its newest start tells."""
    with contextlib.suppress(OSError, ValueError, IndexError, KeyError, TypeError):
        start = json.loads(disk.text_if_there(path / "versions.jsonl").splitlines()[-1])
        return f"process {start['pid']} on {start['host']} has been training there since {start['time']}"
    return "another process is training there"


@contextlib.contextmanager
def told_where(path: epath.Path) -> Iterator[None]:
    """Turns an OSError of writing the run's own files into a ValueError that says where, and how to go on."""
    try:
        yield
    except OSError as error:
        raise ValueError(
            f"{path} cannot be written: {error.strerror}; free space or fix the disk, and the same command resumes "
            "from the last good checkpoint"
        ) from error


def read_config(workdir: str) -> dict[str, Any]:
    """Returns RUN/config.json, with the present names of its keys.

    Raises:
      ValueError: it is not there, or not a JSON object.
    """
    path = folder(workdir) / "config.json"
    if not _is_there(path):
        raise ValueError(f"{workdir} is not a run: {os.path.abspath(path)} does not exist; {_mend(path.parent)}")
    return renamed(_read_object(path))


def read_data(workdir: str) -> dict[str, Any] | None:
    """Returns RUN/data.json, {name of a split: what `data.contents` says of it}; None for a run of before it.

    Raises:
      ValueError: it is not such an object.
    """
    path = folder(workdir) / "data.json"
    if not _is_there(path):
        return None
    data = _read_object(path)
    if not all(
        isinstance(held, dict) and all(type(held.get(key)) is kind for key, kind in _OF_A_SPLIT.items())
        for held in data.values()
    ):
        raise ValueError(
            f"{path} does not describe a data set; remove it, and the present data are taken to be those of the run"
        )
    return data


def write_data(workdir: str, data: dict[str, Any]) -> None:
    """Writes RUN/data.json."""
    disk.replace_text(folder(workdir) / "data.json", json.dumps(data, indent=2) + "\n")


def read_bits(workdir: str, *, before: int = _BITS_BEFORE) -> int:
    """Returns the bit depth of white in a run's image files of 16 bits; 0 where it has none, or there is no run yet.

    ``before`` is that of runs that did not note it.
    """
    path = folder(workdir) / "bits.json"
    if not _is_there(path):
        trained = _is_there(folder(workdir) / "config.json") and not imported(workdir).exists()
        return before if trained else 0
    bits = None
    with contextlib.suppress(ValueError):
        bits = _read_object(path).get("bits")
    if type(bits) is not int or not (bits == 0 or 8 <= bits <= 16):
        raise ValueError(f'{path} does not state the bit depth; write {{"bits": 8}} to {{"bits": 16}} there')
    return bits


def write_bits(workdir: str, bits: int) -> None:
    """Writes RUN/bits.json, where it says something else."""
    if read_bits(workdir) != bits or not (folder(workdir) / "bits.json").exists():
        disk.replace_text(folder(workdir) / "bits.json", json.dumps({"bits": bits}) + "\n")


def _mend(run: epath.Path) -> str:
    """What makes the config of a folder that has none."""
    if (run / "checkpoints").is_dir():
        return (
            "to get it back, run the command that made the checkpoints with another --workdir, stop it at "
            f"the first step and copy config.json from there to {shlex.quote(str(run))}/"
        )
    return shlex.join(["simclr-jax", "pretrain", "--config=NAME", f"--workdir={run}"]) + " creates a run"


def write_config(workdir: str, config: dict[str, Any]) -> None:
    """Writes RUN/config.json, and RUN itself."""
    folder(workdir).mkdir(parents=True, exist_ok=True)
    disk.replace_text(folder(workdir) / "config.json", json.dumps(config, indent=2) + "\n")


def versions() -> dict[str, str]:
    """Returns the versions of this library, of Python and of what numbers depend on."""
    packages = {name: metadata.version(name) for name in _PACKAGES if any(metadata.distributions(name=name))}
    return {"python": platform.python_version(), **packages}


def note_start(workdir: str, step: int, devices: str) -> None:
    """Appends a line to RUN/versions.jsonl: when, where and with what the run started or went on."""
    facts = {
        "step": step,
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "command": sys.argv,
        "devices": devices,
        **versions(),
    }
    path = folder(workdir) / "versions.jsonl"
    disk.replace_text(path, disk.text_if_there(path) + json.dumps(facts) + "\n")


def _is_there(path: epath.Path) -> bool:
    """Whether a run has a file, be it a link to nowhere.

    Raises:
      ValueError: the disk does not tell, which `exists` takes for a no.
    """
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}; try again when the disk responds") from error
    return True


def _read_object(path: epath.Path) -> dict[str, Any]:
    """Returns the JSON object of a small file, which may be anybody's."""
    if not disk.is_file(path, _MAX_CONFIG):
        raise ValueError(f"{path} is not what a run writes: not a file, or one of more than {_MAX_CONFIG:,} bytes")
    try:
        found = json.loads(path.read_text())
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}; try again when the disk responds") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} is not what a run writes: it holds {type(found).__name__}, not an object")
    return found
