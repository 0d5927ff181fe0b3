"""Disk: what a run leaves behind, and how it comes back. The only module that names Orbax.

RUN/config.json       the config
RUN/versions.jsonl    one line a start: step, command, versions, devices
RUN/checkpoints/STEP  Orbax checkpoints of the whole TrainState
"""

import json
import platform
import sys
from importlib import metadata
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

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
_ITEM = "default"  # Orbax's name for the only item of a checkpoint


class Checkpoints:
    """The checkpoints of one run, written asynchronously; each is complete or absent.

    Args:
      workdir: RUN.
      keep: newest checkpoints that are kept.
    """

    def __init__(self, workdir: str, *, keep: int):
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=True)
        self._manager = ocp.CheckpointManager(_directory(workdir), options=options)

    def save(self, step: int, state: Any) -> None:
        """Starts writing a checkpoint; the state may be donated as soon as this returns."""
        self._manager.save(step, args=ocp.args.StandardSave(state))

    def restore(self, state: Any) -> Any:
        """Returns the newest checkpoint's state, placed on the devices as ``state`` is."""
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, state)
        return self._manager.restore(self._manager.latest_step(), args=ocp.args.StandardRestore(abstract))

    def last_good(self) -> str | None:
        """Waits for what is being written and returns the newest checkpoint's path."""
        self._manager.wait_until_finished()
        step = self._manager.latest_step()
        return None if step is None else str(self._manager.directory / str(step))

    def close(self) -> None:
        """Waits until everything is written."""
        self._manager.wait_until_finished()
        self._manager.close()


def latest_step(workdir: str) -> int | None:
    """Returns the newest checkpoint's step, or None. Writes nothing."""
    return max(_steps(_directory(workdir)), default=None)


def read_config(workdir: str) -> dict[str, Any]:
    """Returns RUN/config.json.

    Raises:
      ValueError: it is not there, or not JSON.
    """
    path = epath.Path(workdir).expanduser() / "config.json"
    if not path.exists():
        raise ValueError(f"{workdir} is not a run: {path} does not exist; train.py --workdir={workdir} makes one")
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error


def write_config(workdir: str, config: dict[str, Any]) -> None:
    """Writes RUN/config.json, and RUN itself."""
    folder = epath.Path(workdir).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def note_start(workdir: str, step: int, devices: str) -> None:
    """Appends a line to RUN/versions.jsonl: where and with what the run started or went on."""
    packages = {name: metadata.version(name) for name in _PACKAGES if _is_installed(name)}
    facts = {"step": step, "command": sys.argv, "devices": devices, "python": platform.python_version(), **packages}
    path = epath.Path(workdir).expanduser() / "versions.jsonl"
    before = path.read_text() if path.exists() else ""
    path.write_text(before + json.dumps(facts) + "\n")


def load_variables(run_or_checkpoint: str, step: int | None = None) -> tuple[dict[str, Any], int, dict[str, Any]]:
    """Reads a network back from its checkpoint, without optimiser or online probe.

    Args:
      run_or_checkpoint: RUN, or RUN/checkpoints/STEP.
      step: which checkpoint of RUN; None = the newest.

    Returns:
      The run's config, the step, and {"params", "batch_stats"} as NumPy arrays.

    Raises:
      ValueError: it is no run, has no checkpoint, or not that one; or the checkpoint cannot be read.
    """
    path = epath.Path(run_or_checkpoint).expanduser()
    if path.name.isdigit() and path.parent.name == "checkpoints":
        return load_variables(str(path.parent.parent), int(path.name))
    config = read_config(run_or_checkpoint)
    steps = _steps(_directory(run_or_checkpoint))
    if not steps:
        raise ValueError(f"{run_or_checkpoint} holds no checkpoint yet")
    if step is not None and step not in steps:
        raise ValueError(f"{run_or_checkpoint} holds no checkpoint of step {step}; it has {', '.join(map(str, steps))}")
    step = steps[-1] if step is None else step
    return config, step, _read_network(_directory(run_or_checkpoint), step)


def _read_network(directory: epath.Path, step: int) -> dict[str, Any]:
    handler, path = ocp.PyTreeCheckpointHandler(), directory / str(step)
    try:
        stored = handler.metadata(path / _ITEM).tree
        wanted = {name: stored[name] for name in ("params", "batch_stats")}
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted)
        arguments = ocp.args.PyTreeRestore(item=wanted, restore_args=as_numpy, partial_restore=True)
        return handler.restore(path / _ITEM, args=arguments)
    except Exception as error:  # Orbax raises many kinds; whichever it is, this checkpoint cannot be used
        raise ValueError(f"{path} is not a readable checkpoint: {str(error).splitlines()[0]}") from error


def _is_installed(package: str) -> bool:
    return any(metadata.distributions(name=package))


def _directory(workdir: str) -> epath.Path:
    return (epath.Path(workdir).expanduser() / "checkpoints").resolve()


def _steps(directory: epath.Path) -> list[int]:
    if not directory.exists():
        return []
    return sorted(int(child.name) for child in directory.iterdir() if child.name.isdigit())
