"""Sweeps: runs over every combination of some values of config keys, which setting is best, and how sure that is.

The best is chosen on validation; what the test images then say of it was not used to choose it.
"""

import math
import os
import pathlib
from collections.abc import Sequence

import numpy as np
from ml_collections import ConfigDict

from simclr_jax.commands import comparison, config_files, next_step, over, trials
from simclr_jax.commands.comparison import SIGNIFICANCE, Found, Sweep, Variant, spread, written
from simclr_jax.runtime import run_folder
from simclr_jax.runtime.config import flatten

_WORDS = {1: "significantly better", 0: "no significant difference", -1: "significantly worse"}


def run(config: ConfigDict, workdir: str, values: Sequence[str], *, of: str) -> Found:
    """Does the runs of a sweep that are not done yet; writes FOLDER/sweep.md and sweep.png, prints the table.

    Args:
      config: as configs/default.py: what the runs have in common.
      workdir: FOLDER.
      values: as `over.grid` takes them: "loss.temperature=0.1,0.2,0.5", "seed=0,1,2".
      of: the name or the file of the config that ``config`` was made from, for the command that is printed.

    Returns:
      {setting: {measure: its values, one a seed}}; NaN where a run diverged.

    Raises:
      ValueError: keys or values that cannot be swept, a FOLDER with runs of another config, or a setting that the data
        or the devices do not allow; no run has begun then.
    """
    started_from = config_files.load(of)
    sweep, seeds = over.grid(values, config)
    found = trials.complete(config, workdir, sweep, seeds, past_divergence=True)
    lines = ["No setting can be chosen: each diverged. Smaller learning rates diverge less."]
    if best := best_on_validation(sweep, found):
        epochs, flags = full_length(config, best, started_from)
        command = next_step.command("pretrain", f"--config={of}", f"--workdir={workdir.rstrip('/')}-best", *flags)
        lines = [*verdict(sweep, found, best, config), "", f"To train it for {epochs:,} epochs:", "", f"    {command}"]
    comparison.publish(
        run_folder.folder(workdir),
        "sweep",
        sweep,
        found,
        of=f"{config.data.source}, {config.model.encoder}",
        conclusion="\n".join(lines),
    )
    return found


def best_on_validation(sweep: Sweep, found: Found) -> Variant | None:
    """Returns the setting whose mean validation accuracy is highest, the first of equals; None where all diverged."""
    ranked = _ranked(sweep, found)
    return ranked[0] if ranked else None


def verdict(sweep: Sweep, found: Found, best: Variant, config: ConfigDict) -> list[str]:
    """Says in lines how good the best setting is, and whether it beats the config's own and the second best.

    By Welch's t-tests of test accuracies. The best of many is better than another by chance more often than one that
    was named before, so that the level of the tests is divided by the number of other settings (Bonferroni).
    """
    scores, base = found[best.name], flatten(config)
    which = "Best on validation" if len(sweep.variants) > 1 else "The only setting"
    percents = f"{spread(scores['validation_top1'])} % on validation and {spread(scores['top1_h'])} % on test"
    lines = [f"{which}: **{best.name}**, with {percents}."]
    own = next((of for of in sweep.variants if all(base[key] == value for key, value in of.settings.items())), None)
    second = next(iter(_ranked(sweep, found)[1:]), None)
    others = {"the config's own setting": own} if own not in (None, best) else {}
    others |= {"the second best": second} if second not in (None, own) else {}
    level = SIGNIFICANCE / max(1, len(sweep.variants) - 1)
    for what, other in others.items():
        against = found[other.name]["top1_h"]
        said = _compared(scores["top1_h"], against, level)
        lines.append(f"- compared with {what}, {other.name} ({spread(against)} % on test): **{said}**")
    return lines


def full_length(config: ConfigDict, best: Variant, started_from: ConfigDict) -> tuple[int, list[str]]:
    """Returns for how many epochs a setting is trained at full length, and the flags that do it.

    The length is that of the config which the sweep started from, which was perhaps made shorter for the sweep; or the
    setting's own, if it has one.
    """
    before, settings = flatten(started_from), best.settings
    shortened = () if "train.epochs" in settings else ("train.epochs", "optimizer.warmup_epochs")
    given = {key: value for key, value in flatten(config).items() if value != before[key] and key not in shortened}
    flags = [f"--config.{key}={written(value)}" for key, value in (given | settings).items()]
    return settings.get("train.epochs", before["train.epochs"]), flags


def _ranked(sweep: Sweep, found: Found) -> list[Variant]:
    """Returns the settings of which no run diverged, from the best to the worst on validation."""
    means = {variant.name: float(np.mean(found[variant.name]["validation_top1"])) for variant in sweep.variants}
    whole = [variant for variant in sweep.variants if math.isfinite(means[variant.name])]
    return sorted(whole, key=lambda variant: -means[variant.name])


def _compared(best: Sequence[float], other: Sequence[float], level: float) -> str:
    if not all(map(math.isfinite, other)):
        return "it diverged"
    if len(best) == 1:
        return "not testable with one seed; add --over=seed=0,1,2"
    return _WORDS[comparison.difference(best, other, significance=level)]


def main() -> None:
    """Runs the command from its flags."""
    from absl import flags

    from simclr_jax.configs import default

    flags.DEFINE_string("workdir", None, "FOLDER: a folder for the runs, their figures, table and picture")
    each = "KEY=V1,V2,…: a config key and its values; with several --over every combination is a run"
    flags.DEFINE_multi_string("over", None, f"{each}; the values of seed repeat each")

    def sweep(config: ConfigDict, workdir: str, over: Sequence[str]) -> None:
        file = pathlib.Path(flags.FLAGS["config"].config_filename)
        shipped = os.path.realpath(file.parent) == os.path.realpath(config_files.FOLDER)
        run(config, workdir, over, of=file.stem if shipped else str(file))

    trials.launch_sweep(sweep, ["workdir", "over"], known=default.get_config())
