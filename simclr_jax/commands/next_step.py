"""What to type next: commands that work when they are copied into the shell that this process was started from."""

import importlib.util
import os
import pathlib
import shlex
import shutil
import sys

from simclr_jax.training.trainer import Trainer

_PROJECT = pathlib.Path(__file__).resolve().parents[2]


def after_training(trainer: Trainer, workdir: str) -> list[str]:
    """Returns commands that can be run on a run that is done: on its labels, its pictures or all that it has."""
    run = f"--workdir={workdir}"
    judged = trainer.splits.split_of("test") or trainer.config.data.holdout_fraction
    if trainer.train.labelled and len(trainer.validation) and judged:
        found = [command(_below(_PROJECT / "eval_linear.py"), run)]
    elif len(trainer.validation):
        found = [command("-m", "simclr_jax", "pictures", run)]
    else:
        found = [command("-m", "simclr_jax", "features", run, f"--out={workdir.rstrip('/')}-features")]
    if importlib.util.find_spec("tensorboard"):
        found.append(command("-m", "tensorboard.main", f"--logdir={workdir}/tensorboard"))
    return found


def command(*arguments: str) -> str:
    """Returns a command of this Python for a POSIX shell."""
    known = shutil.which("python")
    same = known and os.path.dirname(known) == os.path.dirname(sys.executable)
    return shlex.join(["python" if same else _below(pathlib.Path(sys.executable)), *arguments])


def _below(path: pathlib.Path) -> str:
    """Returns a path as it is written from the present folder where it lies there, else whole."""
    here = pathlib.Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
