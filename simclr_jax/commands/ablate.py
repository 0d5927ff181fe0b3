"""Ablations: runs that differ in one thing, measured alike; a table, a picture, and what the paper says beside it.

FOLDER/rows.jsonl has one line a run, FOLDER/runs the runs, which studies share. What is there is not done again.
"""

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from simclr_jax.commands import studies
from simclr_jax.commands.studies import MEASURES, STUDIES, Study, Variant
from simclr_jax.data import feed, sources
from simclr_jax.evaluate import colour, lbfgs, plots, scores
from simclr_jax.evaluate.probed_run import NETWORKS, Subject
from simclr_jax.runtime import config as keys
from simclr_jax.runtime import run_folder
from simclr_jax.runtime.console import say
from simclr_jax.runtime.metrics import read_rows
from simclr_jax.training import schedule
from simclr_jax.training.trainer import Trainer

MOST_SEEDS = 100
MATCHED = 256  # validation images, if there are as many, whose views are matched by colour
COLOURED = 2000  # images of which h is asked for the mean colour
_STYLES = ("-", "--", ":", "-.")

Rows = dict[str, dict[str, Any]]


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
    wanted = _study(study, config)
    if not 1 <= seeds <= MOST_SEEDS:
        raise ValueError(f"--seeds={seeds} must be from 1 to {MOST_SEEDS}")
    configs = {_name(config, variant, seed): (variant, seed) for seed in range(seeds) for variant in wanted.variants}
    _check_apart(config, wanted)
    for variant in wanted.variants:
        _check(config, variant, seeds - 1)
    _check_folder(workdir, config)  # so that a folder that is refused gets no lock
    with run_folder.hold(workdir):
        _check_folder(workdir, config)
        run_folder.write_config(workdir, config.to_dict())
        folder = run_folder.folder(workdir)
        rows = _read(folder)
        missing = [name for name in configs if name not in rows]
        say(f"{study}: {len(configs)} runs, {len(configs) - len(missing)} of them done; {workdir}/runs has their logs")
        for number, name in enumerate(missing, 1):
            variant, seed = configs[name]
            say(f"run {number} of {len(missing)}: {variant.name}, seed {config.seed + seed}")
            row = _row(_changed(config, variant, seed), f"{workdir}/runs/{name}", pretrain, probe)
            rows[name] = {"run": name, **row}
            run_folder.replace_text(folder / "rows.jsonl", "".join(json.dumps(row) + "\n" for row in rows.values()))
            jax.clear_caches()  # a run's programs are of no use to the next, and stay in memory
            say(f"  top-1 of h {100 * row['top1_h']:.2f} %, {row['seconds']:.0f} s")
        found = {
            variant.name: {
                measure: [rows[_name(config, variant, seed)][measure] for seed in range(seeds)]
                for measure in (*wanted.measures, "untrained_top1", "chance_top1")
            }
            for variant in wanted.variants
        }
        _tell(folder, study, wanted, found, config)
    return found


def _study(name: str, config: ConfigDict) -> Study:
    if name not in STUDIES:
        raise ValueError(f"--study={name} is not a study; there are: {', '.join(STUDIES)}")
    return STUDIES[name](keys.flatten(config))


def _changed(config: ConfigDict, variant: Variant, seed: int) -> ConfigDict:
    changed = config.copy_and_resolve_references()
    changed.update_from_flattened_dict(variant.settings)
    changed.seed = config.seed + seed
    return changed


def _check_apart(config: ConfigDict, study: Study) -> None:
    """Refuses a base from which two variants are one."""
    names: dict[str, str] = {}
    for variant in study.variants:
        other = names.setdefault(_name(config, variant, 0), variant.name)
        if other is not variant.name:
            raise ValueError(f"{other} and {variant.name} are the same run from this config; start from another")


def _check(config: ConfigDict, variant: Variant, seed: int) -> None:
    """Refuses what cannot be trained or, after that, not be probed."""
    try:
        splits = Trainer.from_config(_changed(config, variant, seed)).splits
    except ValueError as error:
        raise ValueError(f"{variant.name}: {error}") from error
    for role in sources.ROLES:
        if not len(splits.load(role)) or not splits.load(role).labelled:
            raise ValueError(
                f"{config.data.source} has no labelled {role} images; an ablation is judged by a probe, which needs "
                f"them: --config.data.{role}_split=… or --config.data.holdout_fraction=0.1"
            )


def _name(config: ConfigDict, variant: Variant, seed: int) -> str:
    """A run's folder: what it changes, so that studies share what they have in common."""
    base = keys.flatten(config)
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
        raise ValueError(f"{workdir} is a run; give a new --workdir")
    if (folder / "config.json").exists():
        differences = keys.differences(run_folder.read_config(workdir), config.to_dict())
        if differences:
            raise ValueError(f"{workdir} has runs of another config ({'; '.join(differences)}); give another --workdir")
    elif folder.is_dir() and any(path.name != ".lock" and path.suffix != ".new" for path in folder.iterdir()):
        raise ValueError(f"{workdir} holds other files and no config.json; give an empty or a new --workdir")


def _read(folder: epath.Path) -> Rows:
    """Returns the rows of runs that are done, by the runs' names."""
    path = folder / "rows.jsonl"
    rows: Rows = {}
    for number, line in enumerate(path.read_text().splitlines() if path.exists() else (), 1):
        try:
            row = json.loads(line)
            rows[row["run"]] = row | {
                name: float(row[name]) for name in ("untrained_top1", "chance_top1", "seconds", *MEASURES)
            }
        except (ValueError, TypeError, KeyError) as error:
            mend = "remove it to do the run again"
            raise ValueError(f"line {number} of {path} is no run's row ({error!r}); {mend}") from error
    return rows


def _row(config: ConfigDict, run: str, pretrain: Callable, probe: ConfigDict) -> dict[str, Any]:
    """Pretrains and measures one run; what it says goes into RUN/log.txt."""
    start = time.monotonic()
    folder = run_folder.folder(run)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "log.txt").open("a") as log, contextlib.redirect_stdout(log):
        try:
            pretrain(config, run)
        except ArithmeticError as error:
            mend = "the study goes on with --config.train.on_nonfinite=skip, which drops such updates"
            raise ArithmeticError(f"{run}: {error}; {mend}") from error
        with contextlib.redirect_stderr(log):
            found = _measure(config, run, probe)
    last = next(row for row in reversed(read_rows(run)) if "loss" in row)
    values = {name: last[name] for name in ("loss", "contrastive_accuracy")}
    return found | values | {"seed": config.seed, "seconds": round(time.monotonic() - start, 1)}


def _measure(config: ConfigDict, run: str, probe: ConfigDict) -> dict[str, float]:
    subject = Subject(probe, run)
    depth, classes = subject.network.model.head.depth, len(subject.class_names)
    features = {0: subject.labelled_features()}
    if depth:
        features[depth] = subject.labelled_features(layer=depth, networks=NETWORKS[:1])
    labels = {role: networks["pretrained"].labels for role, networks in features[0].items()}
    top1 = {
        (network, layer): _probe(features[layer], network, labels, classes, probe)
        for network, layer in {("pretrained", 0), ("pretrained", depth), ("untrained", 0)}
    }
    found = {
        "top1_h": top1["pretrained", 0],
        "top1_z": top1["pretrained", depth],
        "untrained_top1": top1["untrained", 0],
        "chance_top1": scores.chance(labels["train"], labels["test"], classes)["top1"],
        "histogram_top1": _matched(subject, config),
        "colour_r2": colour.explained(*(_coloured(subject, role, features[0][role]) for role in ("train", "test"))),
    }
    (run_folder.folder(run) / "features").rmtree()  # of many runs they would fill the disk
    return found


def _probe(features: dict[str, Any], network: str, labels: dict[str, Any], classes: int, probe: ConfigDict) -> float:
    """Returns the test accuracy of a logistic regression whose strength validation chose."""
    fitted = lbfgs.fit(
        *((features[role][network].array(), labels[role]) for role in ("train", "validation")),
        num_classes=classes,
        l2=np.geomspace(probe.l2_min, probe.l2_max, probe.l2_values).tolist(),
        iterations=probe.iterations,
    )
    return scores.accuracies(fitted.logits(features["test"][network].array()), labels["test"])["top1"]


def _coloured(subject: Subject, role: str, networks: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Returns h and the mean colours of some images."""
    of = networks["pretrained"]
    images = subject.images(role, of.ids[:COLOURED])
    return of.array()[: len(images)], images.mean((1, 2))


def _matched(subject: Subject, config: ConfigDict) -> float:
    """Returns the share of pairs of views that their colour histograms find among `MATCHED` images."""
    split = subject.splits.load("validation").first(MATCHED)
    pairs = feed.view_pairs(
        split,
        schedule.recipe(config),
        placement=config.augment.placement,
        batch_size=len(split),
        seed=config.seed,
        max_corrupt_fraction=config.data.max_corrupt_fraction,
    )
    views = next(iter(pairs))
    return colour.matching_top1(views[:, 0], views[:, 1])


def _tell(folder: epath.Path, name: str, study: Study, found: dict[str, Any], config: ConfigDict) -> None:
    """Prints and writes the table, and draws the picture."""
    of = f"{config.data.source}, {config.model.encoder}, {len(next(iter(found.values()))['top1_h'])} seeds"
    said = [f"- {claim.text}: **{studies.verdict(claim, found)}**" for claim in study.claims]
    text = f"# {name}: {of}\n\n{_table(study, found)}\n\nThe paper's findings:\n\n" + "\n".join(said) + "\n"
    run_folder.replace_text(folder / f"{name}.md", text)
    picture = folder / f"{name}.png"
    panels = [plots.Panel(MEASURES[measure], list(_lines(study, measure, found))) for measure in study.measures]
    names = () if study.x else tuple(variant.name for variant in study.variants)
    plots.curves(picture, panels, x_label=study.x, title=f"{name}: {of}", names=names, log_x=bool(study.x))
    say(f"\n{text}\nwritten to {folder / name}.md and {picture.name}")


def _table(study: Study, found: dict[str, Any]) -> str:
    heads = ["variant", *(MEASURES[measure] for measure in study.measures), "untrained"]
    rows = [
        [variant.name, *(_spread(found[variant.name][measure]) for measure in (*study.measures, "untrained_top1"))]
        for variant in study.variants
    ]
    lines = [heads, ["---"] * len(heads), *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
    return "\n".join("| " + " | ".join(map(str.ljust, line, widths)) + " |" for line in lines)


def _spread(values: list[float]) -> str:
    deviation = f" ± {100 * np.std(values, ddof=1):.1f}" if len(values) > 1 else ""
    return f"{100 * np.mean(values):.1f}{deviation}"


def _lines(study: Study, measure: str, found: dict[str, Any]) -> Iterator[plots.Line]:
    """One line of the picture for each of the study's; variants without a place on the axis stand side by side."""
    places = {variant.name: number for number, variant in enumerate(study.variants)}
    for number, line in enumerate(dict.fromkeys(variant.line for variant in study.variants)):
        variants = [variant for variant in study.variants if variant.line == line]
        values = [100 * np.array(found[variant.name][measure]) for variant in variants]
        yield plots.Line(
            line,
            [places[variant.name] if variant.x is None else variant.x for variant in variants],
            [value.mean() for value in values],
            colour=plots.PAIRS[number % len(plots.PAIRS)],
            style=_STYLES[number % len(_STYLES)] if study.x else "",
            marker="o",
            error=[value.std(ddof=1) if len(value) > 1 else 0.0 for value in values],
        )
