"""RUN, the folder of a run: its config, its starts, and the lock that keeps a second process out.

RUN/config.json     the config
RUN/versions.jsonl  one line a start: step, time, process, command, versions, devices
RUN/.lock           held while a process trains

RUN lies on a disk of this machine or of its network: a folder of an object store is refused where it is named.
"""

import contextlib
import datetime
import json
import os
import platform
import re
import shlex
import socket
import sys
from collections.abc import Iterator
from importlib import metadata
from typing import Any

import filelock
from etils import epath

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
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
    """Returns RUN as a path; raises ValueError where it is no folder of a disk."""
    check_on_disk(str(workdir))
    return epath.Path(workdir).expanduser()


def check_on_disk(path: str) -> None:
    """Raises ValueError for s3://, gs:// and their like, which would become a local folder called "s3:"."""
    if _URL.match(path):
        raise ValueError(
            f"{path}: object stores and URLs are neither read nor written here; name a folder of a local, network or "
            "mounted disk, and copy what lies there from or to the store"
        )


def inside(workdir: str, *names: str) -> epath.Path:
    """Returns RUN/NAME/…, to be written.

    Raises:
      ValueError: a link leads it out of the run, which may be anybody's.
    """
    run = folder(workdir)
    path = run.joinpath(*names)
    place = os.path.realpath(path)  # epath's own resolve follows no links
    if place != os.path.join(os.path.realpath(run), *names):
        raise ValueError(f"{path} is, or lies behind, a link to {place}; remove the link")
    return path


def imported(workdir: str) -> epath.Path:
    """Returns where a run tells that its weights came from elsewhere; other runs have no such file."""
    return folder(workdir) / "imported.json"


def is_local(path: epath.Path) -> bool:
    """Whether a path is of this machine's file system, and not of an object store such as gs://."""
    return "://" not in str(path)


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
        for child in path.iterdir():
            place = os.path.realpath(child)
            if not place.startswith(inside):
                raise ValueError(f"{child} leads out of the workdir, to {place}: let the workdir itself lie there")
        lock = contextlib.nullcontext()
        with contextlib.suppress(NotImplementedError):  # a network disk without locks
            # The operating system lets go of it when the process ends, however it ends.
            lock = filelock.FileLock(str(path / ".lock"), timeout=0).acquire()
    except filelock.Timeout:
        raise ValueError(
            f"{workdir} is in use: {_last_start(path)}; wait for its end, or give another --workdir"
        ) from None
    except ValueError:
        raise
    except OSError as error:
        raise ValueError(f"--workdir={workdir} cannot be written: {error.strerror or error}") from error
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
        raise ValueError(f"{workdir} is not a run: {os.path.abspath(path)} does not exist; {_mend(path.parent)}")
    if not os.path.isfile(path) or path.stat().length > _MAX_CONFIG:
        raise ValueError(f"{path} is not a config: no file, or one of more than {_MAX_CONFIG:,} bytes")
    try:
        config = json.loads(path.read_text())
    except (ValueError, RecursionError, OSError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path} is not a config: it holds {type(config).__name__}, not an object")
    return config


def _mend(run: epath.Path) -> str:
    """What makes the config of a folder that has none."""
    if (run / "checkpoints").is_dir():
        return (
            "the command that made its checkpoints writes the same file when it is given another folder: stop it at "
            f"its first step and copy config.json from there to {shlex.quote(str(run))}/"
        )
    return shlex.join(["train.py", "--config=configs/NAME.py", f"--workdir={run}"]) + " makes one"


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
    before = path.read_text() if path.exists() else ""
    replace_text(path, before + json.dumps(facts) + "\n")
