"""Pictures of what a run has learned: t-SNE of h and z, nearest neighbours, curves."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath
from ml_collections import ConfigDict

from simclr_jax.evaluate import embed, knn, plots, results
from simclr_jax.evaluate import sheets as pictures
from simclr_jax.evaluate.feature_files import Features
from simclr_jax.evaluate.probed_run import Subject
from simclr_jax.runtime import run_folder
from simclr_jax.runtime.config import flatten
from simclr_jax.runtime.console import say
from simclr_jax.runtime.metrics import read_rows
from simclr_jax.training import collapse

LIMITS = {"tsne_images": (0, 10_000), "queries": (0, 24), "neighbours": (1, 16)}
LEAST_FOR_TSNE = 10  # images


def run(config: ConfigDict, workdir: str) -> list[str]:
    """Draws RUN/eval/tsne.png, neighbours.png and curves.png, as far as there is what they show.

    Args:
      config: as configs/pictures.py.
      workdir: RUN.

    Returns:
      The paths of what was drawn.

    Raises:
      ValueError: no run, no checkpoint, no test images, or a number out of its bounds.
    """
    _check(config)
    subject = Subject(config, workdir, labelled=False)
    folder = results.place(workdir, "pictures").parent
    role = "test" if subject.class_names or subject.splits.split_of("test") else "validation"
    if not len(subject.splits.load(role)):
        raise ValueError(f"{subject.source} has no {role} images; name a source that has: --config.data.source=…")
    folder.mkdir(exist_ok=True)
    drawn = []
    if config.tsne_images:
        drawn += _tsne(subject, role, _path(workdir, "tsne"))
    if config.queries:
        drawn += _neighbours(subject, role, _path(workdir, "neighbours"))
    drawn += _curves(workdir, _path(workdir, "curves"))
    say(f"written to {', '.join(drawn)}")
    return drawn


def _check(config: ConfigDict) -> None:
    for name, (least, most) in LIMITS.items():
        if not least <= config[name] <= most:
            raise ValueError(f"config.{name}={config[name]} must be from {least} to {most:,}")
    if not 1 <= config.perplexity <= 1000:
        raise ValueError(f"config.perplexity={config.perplexity:g} must be from 1 to 1,000; 5 to 50 is usual")


def _path(workdir: str, name: str) -> epath.Path:
    return run_folder.inside(workdir, "eval", f"{name}.png")


def _tsne(subject: Subject, role: str, path: epath.Path) -> list[str]:
    """Draws the maps of h and z; of h alone where there is no head."""
    config, depth = subject.config, subject.network.model.head.depth
    features = {
        layer: subject.features(role, layer=layer, networks=("pretrained",))["pretrained"] for layer in {0, depth}
    }
    total = len(features[0])
    if total < LEAST_FOR_TSNE or total <= config.perplexity:
        say(f"{total} {role} images are too few for t-SNE with perplexity {config.perplexity:g}: left out")
        return []
    if not depth:
        say("this run has no head: t-SNE of h alone")
    shown = _some(total, config.tsne_images, config.seed)
    labels = features[0].labels[shown]
    if not (labels >= 0).any():
        say(f"the {role} images have no labels: t-SNE without colours")
        labels = None
    points = {}
    for layer, of in sorted(features.items()):
        say(f"t-SNE of {subject.layer_name(layer)} of {len(shown):,} {role} images")
        x = of.array()[shown]
        x = x if layer == 0 else collapse.normalized(x)  # as the loss sees z
        points[f"{subject.layer_name(layer)} ({of.dim} dimensions)"] = embed.tsne(
            x, perplexity=config.perplexity, seed=config.seed
        )
    title = f"t-SNE of {len(shown):,} {role} images of {subject.source}, step {subject.network.step:,}"
    plots.maps(path, points, labels, subject.class_names, title=title)
    return [str(path)]


def _neighbours(subject: Subject, role: str, path: epath.Path) -> list[str]:
    """Draws some images beside the training images whose features are nearest by cosine."""
    config = subject.config
    query, bank = (subject.features(which, networks=("pretrained",))["pretrained"] for which in (role, "train"))
    shown = _some(len(query), config.queries, config.seed)
    asked = Features((query.array()[shown],), query.labels[shown], query.ids[shown])
    cosines, nearest = knn.nearest(asked, bank, min(config.neighbours, len(bank)))
    wanted = np.unique(bank.ids[nearest])
    at = dict(zip(wanted.tolist(), subject.images("train", wanted), strict=True))
    rows = [
        pictures.Neighbours(
            image,
            _name(subject.class_names, query.labels[i]),
            [at[number] for number in bank.ids[those].tolist()],
            [_name(subject.class_names, label) for label in bank.labels[those]],
            values.tolist(),
        )
        for i, image, those, values in zip(shown, subject.images(role, asked.ids), nearest, cosines, strict=True)
    ]
    title = f"{role.capitalize()} images and the training images nearest to them in {subject.layer_name()}, by cosine; "
    pictures.neighbours(path, rows, title=f"{title}{subject.source}, step {subject.network.step:,}")
    return [str(path)]


def _some(total: int, wanted: int, seed: int) -> np.ndarray:
    """Returns the places of some of so many images, in their order."""
    return np.sort(np.random.default_rng(seed).permutation(total)[:wanted])


def _name(class_names: Sequence[str], label: int) -> str | None:
    return class_names[label] if label >= 0 else None


def _curves(workdir: str, path: epath.Path) -> list[str]:
    rows = read_rows(workdir)
    panels = _panels(rows, run_folder.read_config(workdir))
    if not panels:
        say(f"{workdir} has no metrics.jsonl with rows in it: no curves")
        return []
    plots.curves(path, panels, x_label="epoch", title=f"{path.parent.parent.name}: pretraining")
    return [str(path)]


def _panels(rows: list[dict[str, Any]], config: dict[str, Any]) -> list[plots.Panel]:
    """Returns the plots that rows of metrics.jsonl have values for."""
    lines = [
        ("loss", {"loss": "training", "validation_loss": "validation"}, 1),
        (
            "accuracy, %",
            {
                "contrastive_accuracy": "contrastive, training",
                "validation_contrastive_accuracy": "contrastive, validation",
                "online_top1": "online probe, training",
                "validation_online_top1": "online probe, validation",
            },
            100,
        ),
        ("learning rate", {"learning_rate": "learning rate"}, 1),
        ("effective rank", {"validation_rank_h": "h", "validation_rank_z": "z"}, 1),
    ]
    made = [plots.Panel(label, _lines(rows, names, scale)) for label, names, scale in lines]
    if made[0].lines:
        made[0] = plots.Panel("loss", [*made[0].lines, *_chance(rows, config)])
    return [panel for panel in made if panel.lines]


def _lines(rows: list[dict[str, Any]], names: dict[str, str], scale: float) -> list[plots.Line]:
    """Validation is drawn dashed with dots: one an epoch."""
    lines = []
    for (name, words), colour in zip(names.items(), plots.PAIRS, strict=False):
        found = [(row["epoch"], scale * row[name]) for row in rows if name in row and "epoch" in row]
        held_out = name.startswith("validation_")
        style = {"style": "--" if held_out else "-", "marker": "o" if held_out else ""}
        if found:
            lines.append(plots.Line(words, *zip(*found, strict=True), colour=colour, **style))
    return lines


def _chance(rows: list[dict[str, Any]], config: dict[str, Any]) -> list[plots.Line]:
    """Returns the loss at chance: of training, and of validation where its batches are smaller."""
    ends = [row["epoch"] for row in rows if "epoch" in row]
    batch = flatten(config).get("train.batch_size")
    losses = {collapse.chance_loss(batch)} if isinstance(batch, int) and batch > 1 else set()
    losses |= {row["validation_chance_loss"] for row in rows if "validation_chance_loss" in row}
    return [
        plots.Line(f"chance, ln(2N-1) = {loss:.2f}", (0, max(ends)), (loss, loss), colour="0.35", style=":")
        for loss in sorted(losses, reverse=True)
    ]
