"""What to type next: commands that work when they are copied into the shell that this process was started from."""

import importlib.util
import os
import pathlib
import shlex
import shutil
import sys

from simclr_jax.commands import own_code
from simclr_jax.runtime.loggers import names
from simclr_jax.training.trainer import Trainer


def after_training(trainer: Trainer, workdir: str) -> list[str]:
    """Returns commands that can be run on a run that is done: on its labels, its pictures or all that it has."""
    run = f"--workdir={workdir}"
    judged = trainer.splits.split_of("test") or trainer.config.data.holdout_fraction
    if trainer.train.labelled and len(trainer.validation) and judged:
        found = [command("linear", run)]
    elif len(trainer.validation):
        found = [command("pictures", run)]
    else:
        found = [command("features", run, f"--out={workdir.rstrip('/')}-features")]
    if "tensorboard" in names(trainer.config.log.to) and importlib.util.find_spec("tensorboard"):
        found.append(shlex.join([_program("python"), "-m", "tensorboard.main", f"--logdir={workdir}/tensorboard"]))
    return found


def command(*arguments: str) -> str:
    """Returns a command of this library, by the Python that runs now, with its --import, for a POSIX shell."""
    installed = (pathlib.Path(sys.executable).parent / "simclr-jax").exists()
    program = [_program("simclr-jax")] if installed else [_program("python"), "-m", "simclr_jax"]
    return shlex.join([*program, *arguments, *(f"--import={file}" for file in own_code.imported.values())])


def _program(name: str) -> str:
    """Returns what starts a program of this Python's folder: its name, where the shell finds it there, or its path."""
    folder = pathlib.Path(sys.executable).parent
    found = shutil.which(name)
    if found and os.path.dirname(found) == str(folder):
        return name
    return _below(folder / name if (folder / name).exists() else pathlib.Path(sys.executable))


def _below(path: pathlib.Path) -> str:
    """Returns a path as it is written from the present folder where it lies there, else whole."""
    here = pathlib.Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
