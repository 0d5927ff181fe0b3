"""Ablations: runs that differ in one thing, measured alike; a table, a picture, and what the paper says beside it.

FOLDER/rows.jsonl has one line a run, FOLDER/runs the runs, which studies share. What is there is not done again.
"""

import contextlib
import json
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from simclr_jax.commands import probes, studies
from simclr_jax.commands.studies import MEASURES, STUDIES, Study, Variant
from simclr_jax.data import feed, sources
from simclr_jax.evaluate import colour, plots, scores
from simclr_jax.evaluate.probed_run import ProbedRun
from simclr_jax.runtime import disk, run_folder
from simclr_jax.runtime.config import flatten, recipe_of
from simclr_jax.runtime.console import say, show
from simclr_jax.runtime.differences import config_differences
from simclr_jax.runtime.metrics import read_rows
from simclr_jax.training import loop
from simclr_jax.training.trainer import Trainer

MOST_SEEDS = 100
MATCHED = 256  # validation images, if there are as many, whose views are matched by colour
COLOURED = 2000  # images of which h is asked for the mean colour
_STYLES = ("-", "--", ":", "-.")


def run(
    config: ConfigDict,
    workdir: str,
    study: str,
    seeds: int,
    *,
    pretrain: Callable[[ConfigDict, str], None],
    probe: ConfigDict,
) -> dict[str, Any]:
    """Does the runs of a study that are not done yet; writes FOLDER/STUDY.md and STUDY.png, prints the table.

    Args:
      config: as configs/default.py: what the study's runs have in common. Its seed is the first one's.
      workdir: FOLDER.
      study: a name of `STUDIES`.
      seeds: runs of each variant.
      pretrain: (config, RUN) → None, pretrains or goes on with it.
      probe: as configs/lbfgs.py.

    Returns:
      {variant: {measure: its values, one a seed}}.

    Raises:
      ValueError: no such study, a FOLDER with runs of another config, or a variant that the data or the devices do
        not allow; no run has begun then.
    """
    if study not in STUDIES:
        raise ValueError(f"--study={study} does not exist; the studies are: {', '.join(STUDIES)}")
    wanted = STUDIES[study](flatten(config))
    if not 1 <= seeds <= MOST_SEEDS:
        raise ValueError(f"--seeds={seeds} must be from 1 to {MOST_SEEDS}")
    _check(config, wanted, seeds - 1)
    _check_folder(workdir, config)  # so that a folder that is refused gets no lock
    with run_folder.hold(workdir):
        _check_folder(workdir, config)
        run_folder.write_config(workdir, config.to_dict())
        folder = run_folder.folder(workdir)
        done = folder / "rows.jsonl"
        rows = {}
        for number, line in enumerate(disk.text_if_there(done).splitlines(), 1):
            try:
                row = json.loads(line)
                numbers = ("untrained_top1", "chance_top1", "seconds", *MEASURES)
                rows[row["run"]] = row | {name: float(row[name]) for name in numbers}
            except (ValueError, TypeError, KeyError) as error:
                mend = "remove it to repeat the run"
                raise ValueError(f"line {number} of {done} is not the result of a run ({error!r}); {mend}") from error

        configs = {_name(config, of, seed): (of, seed) for seed in range(seeds) for of in wanted.variants}
        missing = [name for name in configs if name not in rows]
        say(
            f"{study}: {len(configs)} runs, {len(configs) - len(missing)} of them already done; their logs are "
            f"in {workdir}/runs"
        )
        for number, name in enumerate(missing, 1):
            variant, seed = configs[name]
            say(f"run {number} of {len(missing)}: {variant.name}, seed {config.seed + seed}")
            row = _do(_changed(config, variant, seed), f"{workdir}/runs/{name}", pretrain, probe)
            rows[name] = {"run": name, **row}
            disk.replace_text(done, "".join(json.dumps(row) + "\n" for row in rows.values()))
            jax.clear_caches()  # a run's programs are of no use to the next, and stay in memory
            say(f"  top-1 of representation h {scores.percent(row, 'top1_h')}, {row['seconds']:.0f} s")
        found = {
            variant.name: {
                measure: [rows[_name(config, variant, seed)][measure] for seed in range(seeds)]
                for measure in (*wanted.measures, "untrained_top1", "chance_top1")
            }
            for variant in wanted.variants
        }
        _tell(folder, study, wanted, found, config)
    return found


def _check(config: ConfigDict, study: Study, seed: int) -> None:
    """Raises ValueError where two variants are one, or one cannot be trained with a seed or, after that, be probed."""
    names: dict[str, str] = {}
    for variant in study.variants:
        other = names.setdefault(_name(config, variant, 0), variant.name)
        if other is not variant.name:
            raise ValueError(f"{other} and {variant.name} are the same run with this config; give another --config")
    for variant in study.variants:
        try:
            splits = Trainer.from_config(_changed(config, variant, seed)).splits
        except ValueError as error:
            raise ValueError(f"{variant.name}: {error}") from error
        for role in sources.ROLES:
            if not len(splits.load(role)) or not splits.load(role).labelled:
                raise ValueError(
                    f"{config.data.source} has no labelled {role} images; an ablation is judged by a probe on "
                    "labels, which "
                    f"needs them: --config.data.{role}_split=… or --config.data.holdout_fraction=0.1"
                )


def _changed(config: ConfigDict, variant: Variant, seed: int) -> ConfigDict:
    changed = config.copy_and_resolve_references()
    changed.update_from_flattened_dict(variant.settings)
    changed.seed = config.seed + seed
    return changed


def _name(config: ConfigDict, variant: Variant, seed: int) -> str:
    """A run's folder: what it changes, so that studies share what they have in common."""
    base = flatten(config)
    changes = [
        f"{key}={value:g}" if isinstance(value, float) else f"{key}={value}"
        for key, value in sorted(variant.settings.items())
        if base[key] != value
    ]
    return f"{','.join(changes) or 'base'},seed={config.seed + seed}"


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


def _do(config: ConfigDict, run: str, pretrain: Callable, probe: ConfigDict) -> dict[str, Any]:
    """Pretrains and measures one run; what it says goes into RUN/log.txt."""
    start = time.monotonic()
    folder = run_folder.folder(run)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "log.txt").open("a") as log, contextlib.redirect_stdout(log):
        try:
            pretrain(config, run)
        except loop.NonFinite as error:
            mend = "add --config.train.on_nonfinite=skip to drop such updates and resume the study"
            if config.train.on_nonfinite == "skip":
                slower = f"--config.optimizer.learning_rate={config.optimizer.learning_rate / 10:g}"
                mend = f"the same command with --workdir=NEW {slower} starts the study again"
            raise ArithmeticError(f"{run}: {error.found}; {mend}") from error
        with contextlib.redirect_stderr(log):
            found = _measure(config, run, probe)
    (folder / "features").rmtree()  # of many runs they would fill the disk
    last = next(row for row in reversed(read_rows(run)) if "loss" in row)
    values = {name: last[name] for name in ("loss", "contrastive_accuracy")}
    return found | values | {"seed": config.seed, "seconds": round(time.monotonic() - start, 1)}


def _measure(config: ConfigDict, run: str, probe: ConfigDict) -> dict[str, float]:
    """Returns the measures of a run that its checkpoint tells."""
    probed = ProbedRun(probe, run)
    classes = len(probed.class_names)

    # A probe of h, of h untrained, and of z; without a head z is h.
    h = probed.labelled_features()
    z = probed.labelled_features(layer=probed.network.depth, networks=("pretrained",)) if probed.network.depth else h
    labels = {role: networks["pretrained"].labels for role, networks in h.items()}

    def top1(features: dict[str, Any]) -> dict[str, float]:
        fitted = probes.fit_lbfgs(probe, features["train"], features["validation"], classes)
        return {
            network: scores.accuracies(of.logits(features["test"][network]), labels["test"])["top1"]
            for network, of in fitted.items()
        }

    of_h = top1(h)
    of_z = of_h if z is h else top1(z)

    # How far colour alone goes: in matching some validation images' views, and in what h tells of mean colours.
    split = probed.splits.load("validation").sample(MATCHED, seed=0)
    pairs = feed.view_pairs(
        split,
        recipe_of(config),
        placement=config.augment.placement,
        batch_size=len(split),
        seed=config.seed,
        max_corrupt_fraction=config.data.max_corrupt_fraction,
    )
    views = next(iter(pairs))
    coloured = []
    for role in ("train", "test"):
        features = h[role]["pretrained"]
        images = probed.images(role, features.ids[:COLOURED])
        coloured.append((features.array()[: len(images)], images.mean((1, 2))))
    return {
        "top1_h": of_h["pretrained"],
        "top1_z": of_z["pretrained"],
        "untrained_top1": of_h["untrained"],
        "chance_top1": scores.chance(labels["train"], labels["test"], classes)["top1"],
        "histogram_top1": colour.matching_top1(views[:, 0], views[:, 1]),
        "colour_r2": colour.explained(*coloured),
    }


def _tell(folder: epath.Path, name: str, study: Study, found: dict[str, Any], config: ConfigDict) -> None:
    """Prints and writes the table, and draws the picture."""
    rows = [["variant", *(MEASURES[measure] for measure in study.measures), "untrained"]]
    rows.append(["---"] * len(rows[0]))
    for variant in study.variants:
        spreads = []
        for measure in (*study.measures, "untrained_top1"):
            values = found[variant.name][measure]
            deviation = f" ± {100 * np.std(values, ddof=1):.1f}" if len(values) > 1 else ""
            spreads.append(f"{100 * np.mean(values):.1f}{deviation}")
        rows.append([variant.name, *spreads])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    table = "\n".join("| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in rows)

    seeds = len(next(iter(found.values()))["top1_h"])
    of = f"{config.data.source}, {config.model.encoder}, {seeds} seed{'s' * (seeds != 1)}"
    said = "\n".join(f"- {claim.text}: **{studies.verdict(claim, found)}**" for claim in study.claims)
    text = f"# {name}: {of}\n\n{table}\n\nThe paper's findings:\n\n{said}\n"
    disk.replace_text(folder / f"{name}.md", text)
    picture = folder / f"{name}.png"
    # Each of the study's lines in each panel; variants without a place on the axis stand side by side.
    panels = [plots.Panel(MEASURES[measure], []) for measure in study.measures]
    places = {variant.name: number for number, variant in enumerate(study.variants)}
    for measure, panel in zip(study.measures, panels, strict=True):
        for number, line in enumerate(dict.fromkeys(variant.line for variant in study.variants)):
            variants = [variant for variant in study.variants if variant.line == line]
            values = [100 * np.array(found[variant.name][measure]) for variant in variants]
            drawn = plots.Line(
                line,
                [places[variant.name] if variant.x is None else variant.x for variant in variants],
                [value.mean() for value in values],
                colour=plots.PAIRS[number % len(plots.PAIRS)],
                style=_STYLES[number % len(_STYLES)] if study.x else "",
                marker="o",
                error=[value.std(ddof=1) if len(value) > 1 else 0.0 for value in values],
            )
            panel.lines.append(drawn)
    names = () if study.x else tuple(variant.name for variant in study.variants)
    plots.curves(picture, panels, x_label=study.x, title=f"{name}: {of}", names=names, log_x=bool(study.x))
    show(f"\n{text}\nsaved as {folder / name}.md and {picture.name}")


def main() -> None:
    """Runs the command from its flags."""
    from absl import flags

    from simclr_jax.commands import launch, pretrain
    from simclr_jax.configs import ablation, lbfgs

    flags.DEFINE_string("workdir", None, "FOLDER: a folder for the runs, their figures, tables and pictures")
    flags.DEFINE_string("study", None, "NAME: the finding to repeat: augmentation, head, batch, temperature or epochs")
    flags.DEFINE_integer("seeds", 3, "N: how many runs to make of each variant, with different seeds")
    probe = lbfgs.get_config()
    probe.l2_min, probe.l2_max, probe.l2_values = 1e-3, 1e3, 5  # coarse: it is fitted three times a run

    def study(config: ConfigDict, **named: Any) -> None:
        launch.keep_compiled()
        pretrain.start_quickly(config)
        run(config, **named, pretrain=pretrain.run, probe=probe)

    launch.launch(
        study,
        known=ablation.get_config(),
        arguments=["workdir", "study", "seeds"],
        what="NAME: what all runs have in common; any key: --config.section.key=value",
        config=ablation.__file__,
    )
