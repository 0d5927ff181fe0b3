"""Sweeps: runs over every combination of some values of config keys, which setting is best, and how sure that is.

The best is chosen on validation; what the test images then say of it was not used to choose it.
"""

import math
from collections.abc import Sequence

import numpy as np
from ml_collections import ConfigDict

from simclr_jax.commands import comparison, config_files, next_step, over, trials
from simclr_jax.commands.comparison import SIGNIFICANCE, Found, Sweep, Variant, spread, written
from simclr_jax.runtime import run_folder
from simclr_jax.runtime.config import flatten

_ONE_SEED = "not testable with one seed; add --over=seed=0,1,2"
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
    lines = ["No setting can be chosen: a run of each diverged; try smaller values of optimizer.learning_rate."]
    if ranking := ranked_on_validation(sweep, found):
        epochs, flags = full_length(config, ranking[0], started_from)
        command = next_step.command("pretrain", f"--config={of}", f"--workdir={workdir.rstrip('/')}-best", *flags)
        lines = [
            *verdict(ranking, sweep, found, config),
            "",
            f"To train it for {epochs:,} epochs:",
            "",
            f"    {command}",
        ]
    comparison.publish(
        run_folder.folder(workdir),
        "sweep",
        sweep,
        found,
        of=f"{config.data.source}, {config.model.encoder}",
        conclusion="\n".join(lines),
    )
    return found


def ranked_on_validation(sweep: Sweep, found: Found) -> list[Variant]:
    """Returns the settings of which no run diverged, those of the highest mean validation accuracy first."""
    means = {variant.name: float(np.mean(found[variant.name]["validation_top1"])) for variant in sweep.variants}
    whole = [variant for variant in sweep.variants if math.isfinite(means[variant.name])]
    return sorted(whole, key=lambda variant: -means[variant.name])


def verdict(ranking: Sequence[Variant], sweep: Sweep, found: Found, config: ConfigDict) -> list[str]:
    """Says in lines how good the best setting is, and whether it beats the config's own and the second best.

    By Welch's t-tests of test accuracies. The best of many is better than another by chance more often than one that
    was named before, so that the level of the tests is divided by the number of other settings (Bonferroni).
    """
    best = ranking[0]
    scores, base = found[best.name], flatten(config)
    own = next((of for of in sweep.variants if all(base[key] == value for key, value in of.settings.items())), None)
    which = "Best on validation" if len(sweep.variants) > 1 else "The only setting"
    whose = ", the config's own" if own is best and best.settings else ""
    percents = f"{spread(scores['validation_top1'])} % on validation and {spread(scores['top1_h'])} % on test"
    lines = [f"{which}: **{best.name}**{whose}, with {percents}."]
    second = next(iter(ranking[1:]), None)
    others = {"the config's own setting": own} if own not in (None, best) else {}
    others |= {"the second best": second} if second not in (None, own) else {}
    level = SIGNIFICANCE / max(1, len(sweep.variants) - 1)
    for what, other in others.items():
        said = _compared(scores["top1_h"], found[other.name]["top1_h"], level)
        lines.append(f"- compared with {what}, {other.name}{said}")
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


def _compared(best: Sequence[float], other: Sequence[float], level: float) -> str:
    """Returns what follows the name of another setting: its accuracy, and whether that of the best is another one."""
    if not all(map(math.isfinite, other)):
        return ": **it diverged**"
    several = len(best) > 1
    said = _WORDS[comparison.difference(best, other, significance=level)] if several else _ONE_SEED
    return f" ({spread(other)} % on test): **{said}**"


def main() -> None:
    """Runs the command from its flags."""
    from absl import flags

    from simclr_jax.configs import default

    flags.DEFINE_string("workdir", None, "FOLDER: a folder for the runs, their figures, table and picture")
    each = "KEY=V1,V2,…: a config key and its values; with several --over every combination is a run"
    flags.DEFINE_multi_string("over", None, f"{each}; the values of seed repeat each")

    def sweep(config: ConfigDict, workdir: str, over: Sequence[str]) -> None:
        run(config, workdir, over, of=config_files.name_of(flags.FLAGS["config"].config_filename))

    trials.launch_sweep(sweep, ["workdir", "over"], known=default.get_config())
