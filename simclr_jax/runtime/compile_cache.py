"""What was compiled, kept for the next start in the user's own cache folder: a setting of the whole process.

The folder is $XDG_CACHE_HOME/simclr_jax/compiled, or ~/.cache/simclr_jax/compiled, and never lies in a RUN: compiled
programs are code, and a RUN may be anybody's. jax keeps and finds the programs; what it leaves to its user is here.
"""

import contextlib
import os
import pathlib
import stat

import filelock
import jax

from simclr_jax.runtime import devices, processes

MAX_BYTES = 2**31  # of all programs; those not used for longest go first
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
# What the user's environment may set by itself; that is then left alone.
_SETTINGS = {
    "jax_compilation_cache_max_size": MAX_BYTES,
    # What XLA would keep beside the programs has no bound, and its folder's name would be a part of their keys.
    "jax_persistent_cache_enable_xla_caches": "none",
}


def keep() -> str:
    """Lets jax keep what it compiles from now on; called by the command line, whose process belongs to this library.

    Only for one process on GPUs or TPUs. Programs of CPUs are machine code of one processor model, which XLA refuses
    to load on some of the very machines that they were compiled on, and has crashed on. Several processes on GPUs time
    kernels together while they compile: one that finds its program kept would leave the others waiting.

    A JAX_COMPILATION_CACHE_DIR of the user's is used in the place of all this, on every platform, and
    JAX_ENABLE_COMPILATION_CACHE=false turns it off.

    Returns:
      Why it goes without, in words; "" where nothing is to be said.
    """
    if jax.config.jax_compilation_cache_dir is not None or not jax.config.jax_enable_compilation_cache:
        return ""
    if devices.platform() == "cpu" or processes.process()[1] > 1:
        return ""
    try:
        folder = open_folder()
    except (OSError, ValueError, NotImplementedError, RuntimeError) as error:  # without a home it is a RuntimeError
        return f"compiled programs are not cached for the next start: {' '.join(str(error).split())}"
    for name, value in _SETTINGS.items():
        if name.upper() not in os.environ:
            jax.config.update(name, value)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    return ""


def open_folder() -> pathlib.Path:
    """Returns the folder, made where it was not there, without what killed processes left in it.

    Raises:
      OSError, NotImplementedError, RuntimeError: it cannot be made, written or locked, or there is no home.
      ValueError: others can write to it, or it is somebody else's.
    """
    # A relative XDG_CACHE_HOME is to be ignored, says its specification.
    named = pathlib.Path(os.environ.get("XDG_CACHE_HOME", ""))
    home = named if named.is_absolute() else pathlib.Path.home() / ".cache"
    if not home.is_absolute():
        raise ValueError(f"there is no home folder ({home})")
    ours = home / "simclr_jax"
    folder = ours / "compiled"
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    for place in (ours, folder):  # who can write to the first can exchange the second
        with contextlib.suppress(FileExistsError):
            place.mkdir(mode=0o700)
        _check_own(place)
    _tidy(folder)
    return folder


def _check_own(place: pathlib.Path) -> None:
    """Raises ValueError unless a path is a folder that this user alone can write to: what lies in it is run."""
    found = place.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise ValueError(f"{place} is not a real folder")
    if found.st_uid != os.geteuid():
        raise ValueError(f"{place} belongs to another user, who could put code there")
    if found.st_mode & _OTHERS_WRITE:
        raise ValueError(f"other users can write to {place} and could put code there; fix it with `chmod 700 {place}`")


def _tidy(folder: pathlib.Path) -> None:
    """Removes programs that were not written to their end, which jax would neither replace nor count.

    It writes NAME-cache, and then NAME-atime, under a lock. A process that was killed before the second leaves a
    program that may be torn: it would be compiled at every start again, and jax 0.10 would keep no other ones.
    """
    try:
        with filelock.FileLock(str(folder / ".lockfile"), timeout=0):
            for program in folder.glob("*-cache"):
                if not program.with_name(program.name.removesuffix("-cache") + "-atime").exists():
                    program.unlink(missing_ok=True)
    except filelock.Timeout:  # another process reads or writes just now
        return
