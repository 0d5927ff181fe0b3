"""Pretraining and probes from Python: what the commands do, as functions and objects.

Only messages and progress bars are printed, and ``progress=False`` turns them off. Errors are exceptions whose message
is one line; where it names a flag, ``--config.KEY=VALUE`` is ``{"KEY": VALUE}`` here.
"""

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from simclr_jax.commands import config_files, failures, finetune, pictures, probes, report
from simclr_jax.commands import diagnose as diagnosis
from simclr_jax.commands import pretrain as pretraining
from simclr_jax.data import sources
from simclr_jax.evaluate import encoder, probed_run, results
from simclr_jax.evaluate.feature_files import Features
from simclr_jax.runtime import checkpoint, console, metrics, preemption, run_folder
from simclr_jax.runtime.config import check_keys, shown, whole_config, with_values
from simclr_jax.runtime.loggers import AnyLogger

Path = str | os.PathLike[str]

_LESS_MEMORY = "use a smaller train.batch_size, or set train.microbatch_size, or model.remat to True"


def load_config(config: Path, values: Mapping[str, Any] | None = None) -> ConfigDict:
    """Returns a config with every key, for `pretrain`.

    Args:
      config: the name of a shipped config ("imagefolder", "cifar10", "quickstart", …) or your own FILE.py, which is run
        as Python: its get_config() starts from ``simclr_jax.configs.default`` and changes values.
      values: {"section.key": value}, like ``--config.section.key=value`` on the command line.

    Raises:
      ValueError: the config does not exist; a key does not exist (the message names the nearest one); or a value has
        the wrong type or is out of bounds.

    Example:
      >>> config = simclr_jax.load_config("imagefolder", {"data.source": "folder:photos", "train.epochs": 50})
    """
    if not isinstance(values, Mapping | None):
        raise ValueError(f'values={shown(values)} must be a dict, like {{"train.epochs": 50}}')
    return with_values(config_files.load(_path(config, "config")), values or {})


def pretrain(config: ConfigDict, workdir: Path, *, loggers: Sequence[AnyLogger] = (), progress: bool = True) -> "Run":
    """Pretrains an encoder by SimCLR, or resumes the run; the result is bit-identical to an uninterrupted run.

    Ctrl-C saves a checkpoint after the current step and then raises KeyboardInterrupt; the same call resumes.

    Args:
      config: from `load_config`.
      workdir: RUN, the folder for the config, checkpoints and metrics.
      loggers: objects with ``write(step, values)``, or functions of (step, values), that receive each row of metrics,
        in addition to those that config.log.to names; see `Logger`.
      progress: whether to print messages and a progress bar.

    Returns:
      The run.

    Raises:
      ValueError: the config, the data and the content of RUN do not fit together, or another process trains there;
        nothing was compiled or written.
      ArithmeticError: the loss, its gradient or a parameter became NaN or infinite.
      MemoryError: memory ran out.
      RuntimeError: jax or one of its devices failed.
      OSError: a file cannot be read or written.
      KeyboardInterrupt: Ctrl-C; a checkpoint was saved if the first step had been taken.

    Example:
      >>> run = simclr_jax.pretrain(config, "runs/mine")
    """
    config_files.check(config, "config")
    workdir = _path(workdir, "workdir")
    check_keys(config, config_files.load("default"))
    with _told(progress, _LESS_MEMORY):
        try:
            pretraining.run(config, workdir, loggers=loggers, stop=preemption.Interrupt())
        except preemption.Stopped as stopped:
            raise KeyboardInterrupt(str(stopped)) from None
    return Run(workdir, progress=progress)


def open_run(run: Path, *, step: int | None = None, out: Path | None = None, progress: bool = True) -> "Run":
    """Opens a pretraining run, finished or not.

    Args:
      run: RUN, the folder of the run, or RUN/checkpoints/STEP.
      step: which checkpoint to use; None = the newest.
      out: another folder for features and results, if RUN is read-only.
      progress: whether probes and other work on the run print messages and progress bars.

    Raises:
      ValueError: it is not a run, or the checkpoint does not exist.

    Example:
      >>> run = simclr_jax.open_run("runs/mine")
      >>> run.linear(seeds=3).top1
    """
    return Run(run, step=step, out=out, progress=progress)


@dataclasses.dataclass(frozen=True)
class ProbeResult:
    """The result of a probe; ``print(result)`` shows it as a table. Accuracies are fractions of the test images.

    Attributes:
      top1, top5: accuracies with the pretrained encoder.
      untrained_top1: accuracy with the same encoder untrained; None if it was not measured.
      chance_top1: accuracy of always guessing the most frequent class of the training images.
      values: everything in RUN/eval/NAME.json: accuracies per class, settings chosen on validation, the config, …
    """

    top1: float
    top5: float
    untrained_top1: float | None
    chance_top1: float
    values: dict[str, Any] = dataclasses.field(repr=False)

    def __str__(self) -> str:
        return results.table(self.values)


class Rows(list[dict[str, float]]):
    """The rows of a run's metrics, in the order of their steps."""

    def to_pandas(self) -> Any:
        """Returns a pandas.DataFrame indexed by step.

        Raises:
          ImportError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise ImportError("to_pandas() needs pandas: pip install pandas") from error

        return pandas.DataFrame(list(self)).set_index("step") if self else pandas.DataFrame()


class Run:
    """A pretraining run, in its folder RUN; `pretrain` and `open_run` return one.

    Probes take any key of their config: ``run.knn(neighbours=(20,))``, ``run.linear(**{"data.limit": 100})``.
    Features are computed once per checkpoint and saved in RUN/features; results are saved in RUN/eval.

    Attributes:
      path: RUN.
    """

    def __init__(self, run: Path, *, step: int | None = None, out: Path | None = None, progress: bool = True):
        self.path, of_path = checkpoint.split(_path(run, "run"))
        self._step = of_path if step is None else step
        self._out = None if out is None else _path(out, "out")
        self._progress = progress
        run_folder.read_config(self.path)
        if self._step is not None and self._step not in checkpoint.steps(self.path):
            there = ", ".join(map(str, checkpoint.steps(self.path))) or "none"
            raise ValueError(f"{self.path} has no checkpoint of step {self._step!r}; there are: {there}")

    def __repr__(self) -> str:
        return f"Run({self.path!r}, step={self.step})"

    @property
    def step(self) -> int | None:
        """The step of the checkpoint; None before the first checkpoint."""
        return checkpoint.latest_step(self.path) if self._step is None else self._step

    @property
    def config(self) -> ConfigDict:
        """The config that the run is pretrained with."""
        return whole_config(run_folder.read_config(self.path), config_files.load("default"), self.path)

    def metrics(self) -> Rows:
        """Returns the rows of RUN/metrics.jsonl; also while the run is training."""
        return Rows(metrics.read_rows(self.path))

    def encoder(self) -> encoder.Encoder:
        """Returns the frozen encoder, a function from images to their representations h."""
        with _told(self._progress):
            return encoder.load_encoder(self.path, self._step)

    def features(self, role: str = "train", **values: Any) -> Features:
        """Returns the representation h of each image, with labels, ids and file names.

        Args:
          role: which images of the run's data: "train", "validation", "test" or "all". Missing splits are held out of
            the training split; data without labels have no test split.
          values: keys of the config ``features``; ``layer=-1`` returns the projection z instead of h.
        """
        if role not in (*sources.ROLES, "all"):
            raise ValueError(f"there are no images of {role!r}; choose {', '.join(sources.ROLES)} or all")
        with _told(self._progress):
            config = self._config_of("features", values)
            probed = probed_run.ProbedRun(config, self.path, labelled=False, out=self._out)
            there = (role for role in probed.splits.roles if len(probed.splits.load(role)))
            parts = [
                probed.features(part, networks=("pretrained",))["pretrained"]
                for part in (there if role == "all" else [role])
            ]
            return Features.joined(parts)

    def linear(self, **values: Any) -> ProbeResult:
        """Trains a linear classifier on the frozen features (SimCLR, section 4.2).

        Args:
          values: keys of the config ``linear``; ``seeds=3`` returns the mean of three probes.
        """
        return self._probe("linear", values)

    def knn(self, **values: Any) -> ProbeResult:
        """Classifies the test images by their nearest training images (Wu et al. 2018).

        Args:
          values: keys of the config ``knn``.
        """
        return self._probe("knn", values)

    def lbfgs(self, **values: Any) -> ProbeResult:
        """Fits a logistic regression to the frozen features by L-BFGS (Kornblith et al. 2019).

        Args:
          values: keys of the config ``lbfgs``.
        """
        return self._probe("lbfgs", values)

    def finetune(self, **values: Any) -> ProbeResult:
        """Trains all layers on labels (SimCLR, section 4.2), and the same network from scratch for comparison.

        Args:
          values: keys of the config ``finetune``; ``label_fraction=0.1`` uses a tenth of the labels.
        """
        with _told(self._progress):
            return _probe_result(finetune.run(self._config_of("finetune", values), self.path, self._out))

    def linear_augmented(self, **values: Any) -> ProbeResult:
        """Trains a linear classifier on the frozen encoder with crops and flips, as the papers' linear evaluation does.

        Args:
          values: keys of the config ``linear_augmented``.
        """
        with _told(self._progress):
            return _probe_result(finetune.run_linear(self._config_of("linear_augmented", values), self.path, self._out))

    def diagnose(self, **values: Any) -> dict[str, Any]:
        """Measures whether the run has collapsed.

        Args:
          values: keys of the config ``diagnose``.

        Returns:
          The content of RUN/eval/diagnose.json: how spread out h and z are, and "verdict", a list of sentences.
        """
        with _told(self._progress):
            return diagnosis.run(self._config_of("diagnose", values), self.path, self._out)

    def pictures(self, **values: Any) -> list[str]:
        """Draws t-SNE of h and z, nearest neighbours and the curves of pretraining.

        Args:
          values: keys of the config ``pictures``.

        Returns:
          The paths of the PNG files.
        """
        with _told(self._progress):
            return pictures.run(self._config_of("pictures", values), self.path, self._out)

    def report(self, out: Path | None = None) -> str:
        """Writes one HTML page about the run; first makes the probes and pictures that are missing.

        Args:
          out: the page, NAME.html; None = RUN/report.html.

        Returns:
          The path of the page.
        """
        make, defaults = report.makers()
        with _told(self._progress):
            place = self._out if out is None else _path(out, "out")
            return report.run([self.path], out=place, make=make, defaults=defaults)

    def _probe(self, kind: str, values: Mapping[str, Any]) -> ProbeResult:
        with _told(self._progress):
            return _probe_result(probes.run(kind, self._config_of(kind, values), self.path, self._out))

    def _config_of(self, name: str, values: Mapping[str, Any]) -> ConfigDict:
        step = {} if self._step is None else {"step": self._step}
        return with_values(config_files.load(name), {**step, **values})


def _path(given: Path, name: str) -> str:
    if not isinstance(given, str | os.PathLike):
        raise ValueError(f"{name}={shown(given)} must be a string or a pathlib.Path")
    return os.fspath(given)


def _probe_result(found: dict[str, Any]) -> ProbeResult:
    return ProbeResult(
        top1=found["top1"],
        top5=found["top5"],
        untrained_top1=found.get("untrained_top1"),
        chance_top1=found["chance_top1"],
        values=found,
    )


@contextlib.contextmanager
def _told(progress: bool, less_memory: str = "use a smaller batch_size") -> Iterator[None]:
    """Shows nothing if it is not to, and makes errors of jax and of memory those of one line."""
    level = console.Level.MESSAGES if progress else console.Level.NOTHING
    with console.using(console.Console(level)), failures.in_one_line(less_memory):
        yield
