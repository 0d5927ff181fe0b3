"""Where the rows of a training run go besides metrics.jsonl: what config.log.to names, and what a caller gives."""

import difflib
import importlib.util
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from simclr_jax.runtime import run_folder
from simclr_jax.runtime.config import shown
from simclr_jax.runtime.console import say, waiting
from simclr_jax.runtime.trackers import MLflow, TensorBoard, WandB, check_wandb_login, in_words

# What config.log.to may name, and the packages that each needs besides those of this library.
_PACKAGES = {"tensorboard": (), "wandb": ("wandb",), "mlflow": ("mlflow",)}
_OF_A_LOCAL_STORE = ("sqlalchemy", "alembic")  # of MLflow


class Logger(Protocol):
    """Takes the rows of a training run, one call a row, in the order of the steps.

    A row of training and one of validation may have the same step, one after the other; their names differ. A row's NaN
    comes as it is. A method `close`, if there is one, is called once when the run ends, however it ends. A function of
    the same arguments is a logger too. One that raises is not called again, and the run goes on.

    Example:
      >>> class Best:
      ...     def __init__(self):
      ...         self.loss = float("inf")
      ...
      ...     def write(self, step, values):
      ...         self.loss = min(self.loss, values.get("validation_loss", self.loss))
      >>> best = Best()
      >>> pretrain.run(config, "runs/mine", loggers=[best, lambda step, values: print(step, values)])
    """

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Takes a row.

        Args:
          step: from 1.
          values: its numbers by their names in metrics.jsonl, without "step" and "epoch".
        """


AnyLogger = Logger | Callable[[int, Mapping[str, float]], object]


def names(to: str) -> list[str]:
    """Returns the loggers that config.log.to names.

    Raises:
      ValueError: it names one that is not there; the nearest is told.
    """
    found = list(dict.fromkeys(name.strip().lower() for name in to.split(",") if name.strip()))
    for name in found:
        if name not in _PACKAGES:
            near = difflib.get_close_matches(name, _PACKAGES, n=1)
            meant = f"; did you mean {near[0]}?" if near else ";"
            raise ValueError(
                f"config.log.to={shown(to)}: {shown(name)} is not a logger{meant} there are {', '.join(_PACKAGES)}, "
                'several by commas; "" writes metrics.jsonl alone'
            )
    return found


def check_loggers(to: str, others: Sequence[AnyLogger], *, writes: bool = True) -> None:
    """Refuses loggers that cannot work, before anything is compiled or written.

    Args:
      to: config.log.to.
      others: further ones, which a caller gives.
      writes: whether this process logs: of several, one does.

    Raises:
      ValueError: a name is unknown, a package is not installed, W&B has no login, or another one is no logger.
    """
    if callable(others) or hasattr(others, "write"):
        raise ValueError(f"loggers={shown(others)} must be a list; write loggers=[…] for a single one")
    for logger in others:
        if isinstance(logger, type):
            raise ValueError(f"the logger {logger.__name__} is a class; give an object of it: {logger.__name__}()")
        if not callable(getattr(logger, "write", logger)):
            raise ValueError(
                f"the logger {shown(logger)} is neither a function of (step, values) nor an object with "
                "write(step, values); see simclr_jax.Logger"
            )
    for name in names(to) if writes else ():
        local = name == "mlflow" and not os.environ.get("MLFLOW_TRACKING_URI")
        for package in (*_PACKAGES[name], *(_OF_A_LOCAL_STORE if local else ())):
            spec = importlib.util.find_spec(package)
            if spec is None or spec.origin is None:  # none: a folder of that name, as W&B makes them, is no package
                raise ValueError(
                    f"config.log.to={to} needs the package {package}, which is not installed: "
                    f"pip install 'simclr_jax[{name}]'"
                )
        if name == "wandb":
            check_wandb_login()


def open_loggers(
    to: str, others: Sequence[AnyLogger], *, workdir: str, first_step: int, config: Mapping[str, Any]
) -> list["TensorBoard | _Spared"]:
    """Opens the loggers that config.log.to names; W&B or MLflow that does not start is told, and left out.

    Args:
      to, others: as `check_loggers`.
      workdir: RUN.
      first_step: steps that were taken before.
      config: {"section.key": value}, for W&B's config and MLflow's parameters.

    Returns:
      What has `write` and `close`. TensorBoard, whose files are the run's own, raises what goes wrong; of the others
      that is said once, and they are not called again.

    Raises:
      OSError: RUN cannot be written.
    """
    found = []
    for name in names(to):
        if name == "tensorboard":
            found.append(TensorBoard(run_folder.folder(workdir) / "tensorboard", first_step))
            continue
        kind, mend = {
            "wandb": (WandB, "with WANDB_MODE=offline it is kept in RUN/wandb, for `wandb sync`"),
            "mlflow": (MLflow, "MLFLOW_TRACKING_URI says where its server is"),
        }[name]
        try:
            with waiting(f"starting {name}"):
                logger = kind(workdir, first_step, config)
        except Exception as error:  # a server that is away must not keep a run from going on
            say(f"{name} cannot start ({in_words(error)}): the run goes on without it; {mend}")
        else:
            found.append(_Spared(logger, name))
    return found + [_Spared(logger, getattr(logger, "__name__", type(logger).__name__)) for logger in others]


class _Spared:
    """Spares the run what a logger of others raises: it is said once, and the logger is not called again."""

    def __init__(self, logger: AnyLogger, name: str):
        self._logger, self._name = logger, name

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Hands a row on."""
        # A copy: what it does to it is nobody else's matter.
        self._call(getattr(self._logger, "write", self._logger), f"step {step:,}", step, dict(values))

    def close(self) -> None:
        """Closes it, where it can be closed."""
        close = getattr(self._logger, "close", None)
        self._call(close if callable(close) else None, "the end")

    def _call(self, function: Callable[..., object] | None, when: str, *arguments: Any) -> None:
        if function is None:
            return
        try:
            function(*arguments)
        except Exception as error:
            self._logger = None
            say(f"the logger {self._name} failed at {when} ({in_words(error)}); the run goes on without it")
