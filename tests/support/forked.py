"""Programs in forks of a process that has imported the library once: a Python with JAX takes seconds to start."""

import multiprocessing
import os
import pathlib
import runpy
import subprocess
import sys
import tempfile

from support.processes import PATIENCE, ROOT

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(
    ["simclr_jax.commands.pretrain", "simclr_jax.commands.probes", "simclr_jax.commands.finetune"]
)


def execute(*arguments: str, cwd: pathlib.Path = ROOT) -> subprocess.CompletedProcess:
    """Runs `python ARGUMENTS`, a script or `-m MODULE` of this project, and returns how it ended and what it said."""
    with tempfile.TemporaryDirectory() as folder:
        streams = [pathlib.Path(folder) / name for name in ("stdout", "stderr")]
        process = _FORKS.Process(target=_become, args=(arguments, cwd, streams))
        process.start()
        process.join(PATIENCE)
        ended = process.exitcode is not None
        process.kill()
        assert ended, f"{arguments} does not end"
        return subprocess.CompletedProcess(arguments, process.exitcode, *(path.read_text() for path in streams))


def _become(arguments, cwd, streams):
    for stream, path in enumerate(streams, 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), stream)
    os.chdir(cwd)
    sys.path.insert(0, str(ROOT))
    if arguments[0] == "-m":
        sys.argv = ["", *arguments[2:]]
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = list(arguments)
        runpy.run_path(arguments[0], run_name="__main__")
