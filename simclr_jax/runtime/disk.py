"""Files and folders of a disk: read without waiting for ever, written whole or not at all, one process at a time."""

import contextlib
import errno
import glob
import math
import os
import re
import stat
import time
import uuid
from collections.abc import Callable, Iterator

import filelock
from etils import epath

MOST_TEXT = 2**30  # bytes of versions.jsonl and metrics.jsonl, which are read as a whole
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
_RANDOM = 12  # digits in the name of what is being written
_LONGEST_WAIT = 3600  # seconds for another process's turn
_ABANDONED = 86_400  # seconds after which nobody writes it any more


def is_url(path: str) -> bool:
    """Whether a path is one of s3://, gs:// and their like."""
    return bool(_URL.match(path))


def check_on_disk(path: str) -> None:
    """Raises ValueError for s3://, gs:// and their like, which would become a local folder called "s3:"."""
    if is_url(path):
        raise ValueError(
            f"{path}: object stores and URLs are not supported; give a folder on a local, network or "
            "mounted disk, and copy the files from or to the store yourself"
        )


def check_writable(path: epath.Path) -> None:
    """Raises ValueError where a folder, which may not be there yet, is on a read-only disk or another user's."""
    place = next((place for place in (path, *path.parents) if place.exists()), path)
    if not os.access(place, os.W_OK):
        raise ValueError(
            f"{path} cannot be written: {place} is read-only; give another place for results: --out=FOLDER"
        )


def is_folder(path: epath.Path) -> bool:
    """Whether a path is a folder; raises OSError where the disk does not tell, which `is_dir` takes for a no."""
    try:
        return stat.S_ISDIR(os.stat(path).st_mode)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return False
        raise


def is_file(path: epath.Path, most: float = math.inf) -> bool:
    """Whether a path is a file of up to ``most`` bytes, which can be read: pipes and devices may never end."""
    return os.path.isfile(path) and size(path) <= most


def size(path: epath.Path) -> int:
    """Returns the bytes of a file. epath's own `stat` asks for its owner's name, which not every owner has."""
    return os.stat(path).st_size


def text_if_there(path: epath.Path) -> str:
    """Returns what a file of up to `MOST_TEXT` bytes holds, "" where there is none.

    Raises:
      OSError: the disk does not tell.
    """
    try:
        os.stat(path)
    except FileNotFoundError:
        return ""
    return path.read_bytes().decode(errors="replace") if is_file(path, MOST_TEXT) else ""


def replace_text(path: epath.Path, text: str) -> None:
    """Writes a file so that it is found whole, old or new, whenever this process is killed."""
    with replacing(path) as new:
        new.write_text(text)


@contextlib.contextmanager
def replacing(path: epath.Path) -> Iterator[epath.Path]:
    """Yields where to write a file that takes the place of ``path`` at the end; on an error nothing changes."""
    new = beside(path)
    try:
        yield new
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)


def beside(path: epath.Path) -> epath.Path:
    """Returns a name beside a file or folder that no other writer has, and removes what killed ones left there."""
    for left in path.parent.glob(f"{glob.escape(path.name)}.{'?' * _RANDOM}.new"):
        with contextlib.suppress(OSError):  # another process may be removing it
            if time.time() - os.lstat(left).st_mtime > _ABANDONED:
                left.rmtree() if left.is_dir() and not os.path.islink(left) else left.unlink()
    return path.with_name(f"{path.name}.{uuid.uuid4().hex[:_RANDOM]}.new")


@contextlib.contextmanager
def turn(path: epath.Path, waiting: Callable[[], object]) -> Iterator[None]:
    """Lets one process at a time make ``path``, as far as its disk knows locks; ``waiting`` is called before a wait.

    Without locks several make it, so that each of them still has to write whole or not at all.
    """
    lock = filelock.FileLock(str(path.with_name(f"{path.name}.lock")))
    # No locks on this disk, the file is another user's, or the wait was too long: then without one.
    with contextlib.suppress(OSError, NotImplementedError):
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            waiting()
            lock.acquire(timeout=_LONGEST_WAIT)  # its holder may have been suspended
    try:
        yield
    finally:
        lock.release()
