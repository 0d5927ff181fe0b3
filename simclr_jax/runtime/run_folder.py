"""RUN, the folder of a run: its config, its starts, and the lock that keeps a second process out.

RUN/config.json     the config
RUN/versions.jsonl  one line a start: step, time, process, command, versions, devices
RUN/.lock           held while a process trains

All paths go through epath, so that RUN may lie in an object store; a lock there is only on local and network disks.
"""

import contextlib
import datetime
import json
import math
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

MOST_TEXT = 2**30  # bytes of versions.jsonl and metrics.jsonl, which are read as a whole
_SYSTEM = ("/proc/", "/sys/")  # which hold all others by links
_MAX_CONFIG = 2**20  # bytes; a config has some two thousand

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
    """Returns RUN as a path."""
    return epath.Path(workdir).expanduser()


def inside(workdir: str, *names: str) -> epath.Path:
    """Returns RUN/NAME/…, to be written.

    Raises:
      ValueError: a link leads it out of the run, which may be anybody's.
    """
    path = folder(workdir).joinpath(*names)
    if not lies_inside(workdir, *names):
        raise ValueError(f"{path} is, or lies behind, a link to {os.path.realpath(path)}; remove the link")
    return path


def lies_inside(workdir: str, *names: str) -> bool:
    """Whether no link leads RUN/NAME/… elsewhere."""
    run = folder(workdir)
    # epath's own resolve follows no links
    return not is_local(run) or os.path.realpath(run.joinpath(*names)) == os.path.join(os.path.realpath(run), *names)


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
            "to another machine": "://" in path,
            "to the system's own files": real == "/" or real.startswith(_SYSTEM),
        }
        if path and any(where.values()):
            flags = shlex.join([f"--config.data.{name}={value}" for name, value in given.items() if value])
            raise ValueError(
                f"data.{key} of {workdir} leads {next(words for words, so in where.items() if so)}, to {path[:200]!r}; "
                f"where you trust whoever made it, name it yourself: {flags}"
            )


def imported(workdir: str) -> epath.Path:
    """Returns where a run tells that its weights came from elsewhere; other runs have no such file."""
    return folder(workdir) / "imported.json"


def is_local(path: epath.Path) -> bool:
    """Whether a path is of this machine's file system, and not of an object store such as gs://."""
    return "://" not in str(path)


def is_file(path: epath.Path, most: float = math.inf) -> bool:
    """Whether a path is a file of up to ``most`` bytes, which can be read: pipes and devices may never end."""
    is_one = os.path.isfile(path) if is_local(path) else path.is_file()  # epath's is true of pipes and devices too
    return is_one and path.stat().length <= most


def replace_text(path: epath.Path, text: str) -> None:
    """Writes a file so that it is found whole, old or new, whenever this process is killed."""
    if not is_local(path):
        path.write_text(text)  # an object is replaced as a whole
        return
    new = path.with_name(f"{path.name}.new")
    new.unlink(missing_ok=True)  # were it a link, its target would be written
    new.write_text(text)
    new.replace(path)


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
        for child in path.iterdir() if is_local(path) else ():
            place = os.path.realpath(child)
            if not place.startswith(inside):
                raise ValueError(f"{child} leads out of the workdir, to {place}: let the workdir itself lie there")
        lock = contextlib.nullcontext()
        if is_local(path):
            with contextlib.suppress(NotImplementedError):  # a network disk without locks
                # The operating system lets go of it when the process ends, however it ends.
                lock = filelock.FileLock(str(path / ".lock"), timeout=0).acquire()
    except filelock.Timeout:
        raise ValueError(
            f"{workdir} is in use: {_last_start(path)}; wait for its end, or give another --workdir"
        ) from None
    except ValueError:
        raise
    except Exception as error:  # of an object store's client: any kind
        raise ValueError(
            f"--workdir={workdir} cannot be written: {getattr(error, 'strerror', None) or error}"
        ) from error
    with lock:
        yield


def _last_start(path: epath.Path) -> str:
    """Who has it, as far as its newest start tells."""
    with contextlib.suppress(OSError, ValueError, IndexError, KeyError):
        start = json.loads((path / "versions.jsonl").read_text().splitlines()[-1])
        return f"process {start['pid']} on {start['host']} trains there since {start['time']}"
    return "another process trains there"


def read_config(workdir: str) -> dict[str, Any]:
    """Returns RUN/config.json.

    Raises:
      ValueError: it is not there, or not a JSON object.
    """
    path = folder(workdir) / "config.json"
    if not path.exists():
        raise ValueError(f"{workdir} is not a run: {path} does not exist; train.py --workdir={workdir} makes one")
    if not is_file(path, _MAX_CONFIG):
        raise ValueError(f"{path} is not a config: no file, or one of more than {_MAX_CONFIG:,} bytes")
    try:
        config = json.loads(path.read_text())
    except (ValueError, RecursionError, OSError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path} is not a config: it holds {type(config).__name__}, not an object")
    return config


def write_config(workdir: str, config: dict[str, Any]) -> None:
    """Writes RUN/config.json, and RUN itself."""
    folder(workdir).mkdir(parents=True, exist_ok=True)
    replace_text(folder(workdir) / "config.json", json.dumps(config, indent=2) + "\n")


def note_start(workdir: str, step: int, devices: str) -> None:
    """Appends a line to RUN/versions.jsonl: when, where and with what the run started or went on."""
    packages = {name: metadata.version(name) for name in _PACKAGES if any(metadata.distributions(name=name))}
    facts = {
        "step": step,
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "command": sys.argv,
        "devices": devices,
        "python": platform.python_version(),
        **packages,
    }
    path = folder(workdir) / "versions.jsonl"
    before = path.read_text() if is_file(path, MOST_TEXT) else ""
    replace_text(path, before + json.dumps(facts) + "\n")
