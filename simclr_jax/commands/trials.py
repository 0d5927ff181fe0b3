"""The runs of a sweep: each is pretrained and measured once, whatever stops it in between.

FOLDER/config.json   what all runs have in common
FOLDER/rows.jsonl    a line a run: its measures
FOLDER/runs          the runs, each named by what it changes, so that sweeps and studies share what they have in common
"""

import contextlib
import json
import math
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
from etils import epath
from ml_collections import ConfigDict

from simclr_jax.commands import measures, pretrain, start_weights
from simclr_jax.commands.comparison import Found, Sweep, Variant, written
from simclr_jax.data import sources
from simclr_jax.evaluate import scores
from simclr_jax.runtime import console, disk, run_folder
from simclr_jax.runtime.config import flatten
from simclr_jax.runtime.console import say
from simclr_jax.runtime.differences import config_differences
from simclr_jax.training import loop
from simclr_jax.training.trainer import Trainer

_LONGEST_NAME = 255  # bytes of a folder's name, on the disks that there are
_ALWAYS = ("untrained_top1", "chance_top1")  # what is found beside a sweep's measures
# What every row has; "validation_top1" came later.
_OF_A_ROW = {*_ALWAYS, "seconds", *measures.MEASURES} - {"validation_top1"}


def complete(
    config: ConfigDict, workdir: str, sweep: Sweep, seeds: Sequence[int], *, past_divergence: bool = False
) -> Found:
    """Does the runs of a sweep that are not done yet, one after the other.

    Args:
      config: as configs/default.py: what the runs have in common.
      workdir: FOLDER.
      sweep: its variants are trained with each seed.
      seeds: of the runs.
      past_divergence: whether a run whose loss is no longer finite is noted, and the others go on.

    Returns:
      {variant: {measure: its values, one a seed}}, of the sweep's measures, "untrained_top1" and "chance_top1"; NaN
      where a run diverged.

    Raises:
      ValueError: a FOLDER with runs of another config, or a variant that the data or the devices do not allow; no run
        has begun then.
      ArithmeticError: a run diverged, and is not to be passed over.
    """
    _check(config, workdir, sweep, max(seeds))
    _check_folder(workdir, config)  # so that a folder that is refused gets no lock
    with run_folder.hold(workdir):
        _check_folder(workdir, config)
        run_folder.write_config(workdir, config.to_dict())
        place = run_folder.folder(workdir) / "rows.jsonl"
        rows = _read(place)
        wanted = {_name(config, of, seed): (of, seed) for seed in seeds for of in sweep.variants}
        missing = [name for name in wanted if not _is_done(rows.get(name, {}), sweep, config, past_divergence)]
        say(f"{len(wanted)} runs, {len(wanted) - len(missing)} of them already done; their logs are in {workdir}/runs")
        start = time.monotonic()
        for number, name in enumerate(missing, 1):
            variant, seed = wanted[name]
            say(f"run {number} of {len(missing)}: {variant.name}, seed {seed}")
            row = _do(_changed(config, variant, seed), f"{workdir}/runs/{name}", past_divergence)
            rows[name] = {"run": name, **row}
            disk.replace_text(place, "".join(json.dumps(row) + "\n" for row in rows.values()))
            jax.clear_caches()  # a run's programs are of no use to the next, and stay in memory
            left = (time.monotonic() - start) / number * (len(missing) - number)
            say(f"  {_outcome(row)}, {console.duration(row['seconds'])}{f'; about {_about(left)} left' * (left > 0)}")
    return {
        variant.name: {
            measure: [rows[_name(config, variant, seed)].get(measure, math.nan) for seed in seeds]
            for measure in (*sweep.measures, *_ALWAYS)
        }
        for variant in sweep.variants
    }


def launch_sweep(
    run: Callable[..., object], arguments: Sequence[str], *, known: ConfigDict, config: str | None = None
) -> None:
    """Runs ``run(config, **arguments)``, which trains several runs, from flags; as `launch.launch`.

    Args:
      run: the driver.
      arguments: names of flags, which the calling program defines.
      known: a config with every key there is.
      config: the file of a --config that is not given.
    """
    from simclr_jax.commands import launch

    def driver(config: ConfigDict, **named: Any) -> None:
        launch.keep_compiled()
        pretrain.start_quickly(config)
        run(config, **named)

    what = "NAME: what all runs have in common; any key: --config.section.key=value"
    launch.launch(driver, known=known, arguments=arguments, what=what, config=config)


def _check(config: ConfigDict, workdir: str, sweep: Sweep, seed: int) -> None:
    """Raises ValueError where two variants are one, or one cannot be trained with a seed or, after that, be probed."""
    names: dict[str, str] = {}
    for variant in sweep.variants:
        name = _name(config, variant, seed)
        other = names.setdefault(name, variant.name)
        if other is not variant.name:
            raise ValueError(f"{other} and {variant.name} are the same run with this config; give another --config")
        if (length := len(os.fsencode(name))) > _LONGEST_NAME:
            raise ValueError(
                f"{variant.name}: the run's folder would have a name of {length} bytes, and disks allow "
                f"{_LONGEST_NAME}; change fewer keys"
            )
    splits = None
    for name, variant in zip(names, sweep.variants, strict=True):
        try:
            run = f"{workdir}/runs/{name}"
            whole = pretrain.with_kept_normalization(_changed(config, variant, seed), run)
            trainer = Trainer.from_config(whole, splits=splits)
            start_weights.read(trainer, run)
        except ValueError as error:
            raise ValueError(f"{variant.name}: {error}") from error
        splits = trainer.splits  # the same images for all variants, read once
    for role in sources.ROLES:
        if not len(splits.load(role)) or not splits.load(role).labelled:
            raise ValueError(
                f"{config.data.source} has no labelled {role} images; runs are compared by a probe on labels, which "
                f"needs them: --config.data.{role}_split=… or --config.data.holdout_fraction=0.1"
            )


def _changed(config: ConfigDict, variant: Variant, seed: int) -> ConfigDict:
    changed = config.copy_and_resolve_references()
    changed.update_from_flattened_dict(variant.settings)
    changed.seed = seed
    return changed


def _name(config: ConfigDict, variant: Variant, seed: int) -> str:
    """A run's folder: what it changes."""
    base = flatten(config)
    changes = [f"{key}={written(value)}" for key, value in sorted(variant.settings.items()) if base[key] != value]
    return f"{','.join(changes) or 'base'},seed={seed}".replace("/", "%2F")


def _check_folder(workdir: str, config: ConfigDict) -> None:
    """Refuses a FOLDER with runs of another config, or with anything else."""
    folder = run_folder.folder(workdir)
    if (folder / "checkpoints").exists():
        raise ValueError(f"{workdir} is the folder of a pretraining run; give a new --workdir")
    if (folder / "config.json").exists():
        differences = config_differences(run_folder.read_config(workdir), config.to_dict())
        if differences:
            raise ValueError(f"{workdir} has runs of another config ({'; '.join(differences)}); give another --workdir")
    elif folder.is_dir() and any(path.name != ".lock" and path.suffix != ".new" for path in folder.iterdir()):
        raise ValueError(f"{workdir} holds other files and no config.json; give an empty or a new --workdir")


def _read(file: epath.Path) -> dict[str, dict[str, Any]]:
    """Returns {run: its row} of FOLDER/rows.jsonl; raises ValueError for a line that is none."""
    rows = {}
    for number, line in enumerate(disk.text_if_there(file).splitlines(), 1):
        try:
            row = json.loads(line)
            rows[row["run"]] = row
            for name in ("seconds",) if "nonfinite" in row else _OF_A_ROW:
                row[name] = float(row[name])
        except (ValueError, TypeError, KeyError) as error:
            mend = "remove it to repeat the run"
            raise ValueError(f"line {number} of {file} is not the result of a run ({error!r}); {mend}") from error
    return rows


def _is_done(row: dict[str, Any], sweep: Sweep, config: ConfigDict, past_divergence: bool) -> bool:
    """Whether a run need not be done again. One without a measure that came later is measured again, not trained."""
    if "nonfinite" in row:
        return past_divergence and row.get("on_nonfinite") == config.train.on_nonfinite
    return set(sweep.measures) <= row.keys()


def _do(config: ConfigDict, run: str, past_divergence: bool) -> dict[str, Any]:
    """Pretrains and measures one run; what it says goes into RUN/log.txt."""
    start = time.monotonic()
    folder = run_folder.folder(run)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "log.txt").open("a") as log, contextlib.redirect_stdout(log):
        try:
            pretrain.run(config, run)
            with contextlib.redirect_stderr(log):
                found = measures.of_run(config, run)
            (folder / "features").rmtree()  # of many runs they would fill the disk
        except loop.NonFinite as error:
            if not past_divergence:
                raise ArithmeticError(f"{run}: {error.found}; {_against_divergence(config)}") from error
            found = {"nonfinite": error.found, "on_nonfinite": config.train.on_nonfinite}
    return found | {"seed": config.seed, "seconds": round(time.monotonic() - start, 1)}


def _against_divergence(config: ConfigDict) -> str:
    if config.train.on_nonfinite != "skip":
        return "add --config.train.on_nonfinite=skip to drop such updates and resume the study"
    slower = f"--config.optimizer.learning_rate={config.optimizer.learning_rate / 10:g}"
    return f"the same command with --workdir=NEW {slower} starts the study again"


def _outcome(row: dict[str, Any]) -> str:
    return row.get("nonfinite") or f"top-1 of representation h {scores.percent(row, 'top1_h')}"


def _about(seconds: float) -> str:
    """Returns what is left to wait, in minutes where it is between one and an hour."""
    return f"{round(seconds / 60)} min" if 60 <= seconds < 3570 else console.duration(seconds)
