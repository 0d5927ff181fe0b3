"""Pretraining and probes from Python: what the commands do, as functions and objects.

Nothing is printed but messages and progress bars, which ``progress=False`` turns off. What goes wrong is a ValueError
whose message is one line.
"""

import contextlib
import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from simclr_jax.commands import config_files, finetune, pictures, probes, report
from simclr_jax.commands import diagnose as diagnosis
from simclr_jax.commands import pretrain as pretraining
from simclr_jax.data import sources
from simclr_jax.evaluate import encoder, probed_run, results
from simclr_jax.evaluate.feature_files import Features
from simclr_jax.runtime import checkpoint, console, metrics, preemption, run_folder
from simclr_jax.runtime.config import check_keys, whole_config, with_values
from simclr_jax.runtime.loggers import AnyLogger

Path = str | os.PathLike[str]


def load_config(config: Path, values: Mapping[str, Any] | None = None) -> ConfigDict:
    """Returns a config with every key, for `pretrain`.

    Args:
      config: the name of a shipped config ("imagefolder", "cifar10", "quickstart", …) or a FILE.py of your own, which
        is run, and whose get_config() returns what `simclr_jax.configs.default` does with other values.
      values: {"section.key": value}, as ``--config.section.key=value`` of the commands.

    Raises:
      ValueError: there is no such config; no such key, naming the nearest; or a value of another type or out of bounds.

    Example:
      >>> config = simclr_jax.load_config("imagefolder", {"data.source": "folder:photos", "train.epochs": 50})
    """
    return with_values(config_files.load(os.fspath(config)), values or {})


def pretrain(config: ConfigDict, workdir: Path, *, loggers: Sequence[AnyLogger] = (), progress: bool = True) -> "Run":
    """Pretrains an encoder in a folder, RUN, or resumes the run that is there; bit-identical to an uninterrupted one.

    The first Ctrl-C ends it at the next step with a checkpoint, and is then a KeyboardInterrupt; the same call resumes
    it.

    Args:
      config: of `load_config`.
      workdir: RUN; receives the config, checkpoints and metrics.
      loggers: objects with ``write(step, values)``, or functions of these, which take in each row of the metrics,
        beside those that config.log.to names; see `Logger`.
      progress: whether to print messages and a progress bar.

    Returns:
      The run.

    Raises:
      ValueError: the config, the data or what is in RUN do not fit each other, or another process trains there; nothing
        has been compiled or written then.
      ArithmeticError: the loss, its gradient or a parameter stopped being finite.
      OSError: the disk does not give or take what it should.
      KeyboardInterrupt: Ctrl-C; everything is saved if the run had begun.

    Example:
      >>> run = simclr_jax.pretrain(config, "runs/mine")
    """
    config_files.check(config, "config")
    check_keys(config, config_files.load("default"))
    with _console(progress):
        try:
            pretraining.run(config, os.fspath(workdir), loggers=loggers, stop=preemption.Interrupt())
        except preemption.Stopped as stopped:
            raise KeyboardInterrupt(str(stopped)) from None
    return Run(workdir, progress=progress)


def open_run(run: Path, *, step: int | None = None, out: Path | None = None, progress: bool = True) -> "Run":
    """Opens a pretraining run, finished or not.

    Args:
      run: RUN, the folder that it was pretrained in, or RUN/checkpoints/STEP.
      step: which of its checkpoints is meant; None = the newest.
      out: a folder that receives features and results in the place of RUN, where that cannot be written.
      progress: whether what is done with it prints messages and progress bars.

    Raises:
      ValueError: it is no run, or has no such checkpoint.

    Example:
      >>> run = simclr_jax.open_run("runs/mine")
      >>> run.linear(seeds=3).top1
    """
    return Run(run, step=step, out=out, progress=progress)


@dataclasses.dataclass(frozen=True)
class ProbeResult:
    """What a probe found; printed, it is a table. Accuracies are fractions, of the test images.

    Attributes:
      top1, top5: of the pretrained encoder.
      untrained_top1: of the same encoder untrained; None where it was not asked for.
      chance_top1: of the commonest class.
      values: all that RUN/eval/NAME.json holds: by class, by seed, what validation chose, the config.
    """

    top1: float
    top5: float
    untrained_top1: float | None
    chance_top1: float
    values: dict[str, Any] = dataclasses.field(repr=False)

    def __str__(self) -> str:
        return results.table(self.values)


class Rows(list[dict[str, float]]):
    """Rows of metrics, in the order of their steps."""

    def to_pandas(self) -> Any:
        """Returns them as a pandas.DataFrame with the steps as its index; needs pandas."""
        import pandas

        return pandas.DataFrame(list(self)).set_index("step") if self else pandas.DataFrame()


class Run:
    """A pretraining run: the folder RUN, and what its encoder learned. `open_run` and `pretrain` return one.

    Any key of a probe's config is a keyword: ``run.knn(neighbours=(20,))``, ``run.linear(**{"data.limit": 100})``.
    Features are computed once a checkpoint and kept in RUN/features, results in RUN/eval.

    Attributes:
      path: RUN.
    """

    def __init__(self, run: Path, *, step: int | None = None, out: Path | None = None, progress: bool = True):
        self.path, of_path = checkpoint.split(os.fspath(run))
        self._step = of_path if step is None else step
        self._out = None if out is None else os.fspath(out)
        self._progress = progress
        run_folder.read_config(self.path)
        if self._step is not None and self._step not in checkpoint.steps(self.path):
            there = ", ".join(map(str, checkpoint.steps(self.path))) or "none"
            raise ValueError(f"{self.path} has no checkpoint of step {self._step}; there are: {there}")

    def __repr__(self) -> str:
        return f"Run({self.path!r}, step={self.step})"

    @property
    def step(self) -> int | None:
        """The step of its checkpoint; None before the first one."""
        return checkpoint.latest_step(self.path) if self._step is None else self._step

    @property
    def config(self) -> ConfigDict:
        """The config that it is pretrained with."""
        return whole_config(run_folder.read_config(self.path), config_files.load("default"), self.path)

    def metrics(self) -> Rows:
        """Returns the rows of RUN/metrics.jsonl, those of a run that still trains too."""
        return Rows(metrics.read_rows(self.path))

    def encoder(self) -> encoder.Encoder:
        """Returns its frozen encoder, a function from images to features h."""
        return encoder.load_encoder(self.path, self._step)

    def features(self, role: str = "train", **values: Any) -> Features:
        """Returns the representation h of each image, with labels, ids and file names.

        Args:
          role: which images of the run's data: "train", "validation", "test" or "all". Images without labels have no
            test split. Splits that the data do not have were held out of the training split.
          values: of keys of configs/features.py: ``layer=-1`` is the projection z.
        """
        if role not in (*sources.ROLES, "all"):
            raise ValueError(f"there are no images of {role!r}; choose {', '.join(sources.ROLES)} or all")
        with _console(self._progress):
            config = self._config_of("features", values)
            probed = probed_run.ProbedRun(config, self.path, labelled=False, out=self._out)
            there = (role for role in probed.splits.roles if len(probed.splits.load(role)))
            parts = [
                probed.features(part, networks=("pretrained",))["pretrained"]
                for part in (there if role == "all" else [role])
            ]
            return Features.joined(parts)

    def linear(self, **values: Any) -> ProbeResult:
        """Measures its encoder with a linear probe (SimCLR, section 4.2), beside the untrained encoder and chance.

        Args:
          values: of keys of configs/linear.py: ``seeds=3`` has three probes, and their mean.
        """
        return self._probe("linear", values)

    def knn(self, **values: Any) -> ProbeResult:
        """Classifies the test images by their nearest training images (Wu et al. 2018).

        Args:
          values: of keys of configs/knn.py.
        """
        return self._probe("knn", values)

    def lbfgs(self, **values: Any) -> ProbeResult:
        """Measures its encoder with a logistic regression by L-BFGS (Kornblith et al. 2019).

        Args:
          values: of keys of configs/lbfgs.py.
        """
        return self._probe("lbfgs", values)

    def finetune(self, **values: Any) -> ProbeResult:
        """Trains all layers on labels (SimCLR, section 4.2), beside the same network from scratch.

        Args:
          values: of keys of configs/finetune.py: ``label_fraction=0.1`` takes a tenth of the labels.
        """
        with _console(self._progress):
            return _probe_result(finetune.run(self._config_of("finetune", values), self.path, self._out))

    def linear_augmented(self, **values: Any) -> ProbeResult:
        """Trains a linear classifier on the frozen encoder with crops and flips, as the papers' linear evaluation does.

        Args:
          values: of keys of configs/linear_augmented.py.
        """
        with _console(self._progress):
            return _probe_result(finetune.run_linear(self._config_of("linear_augmented", values), self.path, self._out))

    def diagnose(self, **values: Any) -> dict[str, Any]:
        """Measures whether the run has collapsed.

        Args:
          values: of keys of configs/diagnose.py.

        Returns:
          What RUN/eval/diagnose.json holds: measures of h and z, and "verdict", sentences.
        """
        with _console(self._progress):
            return diagnosis.run(self._config_of("diagnose", values), self.path, self._out)

    def pictures(self, **values: Any) -> list[str]:
        """Draws t-SNE of h and z, nearest neighbours and the curves of pretraining.

        Args:
          values: of keys of configs/pictures.py.

        Returns:
          The paths of the PNG files.
        """
        with _console(self._progress):
            return pictures.run(self._config_of("pictures", values), self.path, self._out)

    def report(self, out: Path | None = None) -> str:
        """Writes one HTML file of the run; makes the probes and pictures that are missing.

        Args:
          out: NAME.html; None = report.html in RUN.

        Returns:
          The file.
        """
        make, defaults = report.makers()
        with _console(self._progress):
            place = self._out if out is None else os.fspath(out)
            return report.run([self.path], out=place, make=make, defaults=defaults)

    def _probe(self, kind: str, values: Mapping[str, Any]) -> ProbeResult:
        with _console(self._progress):
            return _probe_result(probes.run(kind, self._config_of(kind, values), self.path, self._out))

    def _config_of(self, name: str, values: Mapping[str, Any]) -> ConfigDict:
        step = {} if self._step is None else {"step": self._step}
        return with_values(config_files.load(name), {**step, **values})


def _probe_result(found: dict[str, Any]) -> ProbeResult:
    return ProbeResult(
        top1=found["top1"],
        top5=found["top5"],
        untrained_top1=found.get("untrained_top1"),
        chance_top1=found["chance_top1"],
        values=found,
    )


def _console(progress: bool) -> contextlib.AbstractContextManager[None]:
    if progress:
        return contextlib.nullcontext()
    return console.using(console.Console(console.Level.NOTHING))
