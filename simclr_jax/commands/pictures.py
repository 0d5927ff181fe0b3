"""Pictures of what a run has learned: t-SNE of h and z, nearest neighbours, curves."""

import numpy as np
from etils import epath
from ml_collections import ConfigDict

from simclr_jax.evaluate import knn, plots, results, sheets
from simclr_jax.evaluate.feature_files import Features
from simclr_jax.evaluate.probed_run import ProbedRun
from simclr_jax.evaluate.scores import printable
from simclr_jax.runtime import run_folder
from simclr_jax.runtime.config import CAME_LATER, bands_of, flatten
from simclr_jax.runtime.console import say
from simclr_jax.runtime.metrics import read_rows
from simclr_jax.training import chance as at_chance
from simclr_jax.training import collapse

LIMITS = {"tsne_images": (0, 10_000), "queries": (0, 24), "neighbours": (1, 16)}
LEAST_FOR_TSNE = 10  # images
MOST_DIMENSIONS = 50  # that t-SNE is given; more are reduced by PCA first, as its authors do

# The plots of curves.png: what the y axis shows, {name in metrics.jsonl: its words}, what values are multiplied by.
CURVES = [
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


def run(config: ConfigDict, workdir: str, out: str | None = None) -> list[str]:
    """Draws RUN/eval/tsne.png, neighbours.png and curves.png, as far as there is what they show.

    Args:
      config: as configs/pictures.py.
      workdir: RUN.
      out: a folder that receives eval/ and the features instead, for a RUN that cannot be written.

    Returns:
      The paths of what was drawn.

    Raises:
      ValueError: no run, no checkpoint, or a number out of its bounds.
    """
    for name, (least, most) in LIMITS.items():
        if not least <= config[name] <= most:
            raise ValueError(f"config.{name}={config[name]} must be from {least} to {most:,}")
    if not 1 <= config.perplexity <= 1000:
        raise ValueError(f"config.perplexity={config.perplexity:g} must be from 1 to 1,000; 5 to 50 is usual")
    probed = ProbedRun(config, workdir, labelled=False, out=out)
    folder = results.place(probed.folder, "pictures").parent
    role = "test" if probed.class_names or probed.splits.split_of("test") else "validation"
    folder.mkdir(parents=True, exist_ok=True)
    tsne_png, neighbours_png, curves_png = (
        run_folder.inside(probed.folder, "eval", f"{name}.png") for name in ("tsne", "neighbours", "curves")
    )
    drawn, some = [], len(probed.splits.load(role)) > 0
    if not some:
        say(
            f"{printable(probed.source)} has no {role} images, so only curves are drawn; choose other data: "
            "--config.data.source=…"
        )
    if some and config.tsne_images:
        drawn += _draw_maps(probed, role, tsne_png)
    if some and config.queries:
        drawn += _draw_neighbours(probed, role, neighbours_png)
    drawn += _draw_curves(probed, curves_png)
    say(f"saved as {', '.join(drawn)}" if drawn else "nothing was drawn")
    return drawn


def tsne(x: np.ndarray, *, perplexity: float, seed: int) -> np.ndarray:
    """Returns a map [n, 2] of vectors [n, d] in which those that are near each other are so too.

    It is t-SNE (van der Maaten & Hinton 2008), started from the first two principal components.

    Args:
      x: the vectors.
      perplexity: about how many neighbours of each count; below n.
      seed: of what is random in it.
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    x = np.asarray(x, np.float64)
    if not x.std(axis=0).any():
        return np.zeros((len(x), 2))  # all in one place, which PCA cannot divide by
    if x.shape[1] > MOST_DIMENSIONS:
        x = PCA(min(MOST_DIMENSIONS, len(x)), random_state=seed).fit_transform(x)
    return TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(x)


def _draw_maps(probed: ProbedRun, role: str, path: epath.Path) -> list[str]:
    """Draws the maps of h and z; of h alone where there is no head."""
    config, network = probed.config, probed.network
    features = {
        layer: probed.features(role, layer=layer, networks=("pretrained",))["pretrained"]
        for layer in {0, network.depth}
    }
    total = len(features[0])
    if total < LEAST_FOR_TSNE or total <= config.perplexity:
        say(f"{total} {role} images are too few for t-SNE with perplexity {config.perplexity:g}: skipped")
        return []
    if not network.depth:
        say("this run has no projection head: t-SNE of representation h only")
    shown = _some(total, config.tsne_images, config.seed)
    labels = features[0].labels[shown]
    if not (labels >= 0).any():
        say(f"the {role} images have no labels: t-SNE without colours")
        labels = None
    points = {}
    for layer, of in sorted(features.items()):
        name = network.layer_name(layer)
        say(f"t-SNE of {name} of {len(shown):,} {role} images")
        x = of.array()[shown]
        x = x if layer == 0 else collapse.normalized(x)  # as the loss sees z
        points[f"{name} ({of.dim} dimensions)"] = tsne(x, perplexity=config.perplexity, seed=config.seed)
    title = f"t-SNE of {len(shown):,} {role} images of {printable(probed.source)}, step {network.step:,}"
    plots.maps(path, points, labels, probed.class_names, title=title)
    return [str(path)]


def _draw_neighbours(probed: ProbedRun, role: str, path: epath.Path) -> list[str]:
    """Draws some images beside the training images whose features are nearest by cosine."""
    config = probed.config
    query, bank = (probed.features(which, networks=("pretrained",))["pretrained"] for which in (role, "train"))
    shown = _some(len(query), config.queries, config.seed)
    asked = Features((query.array()[shown],), query.labels[shown], query.ids[shown])
    cosines, nearest = knn.nearest(asked, bank, min(config.neighbours, len(bank)))
    wanted = np.unique(bank.ids[nearest])
    data = probed.network.config.data
    bands, found, queries = bands_of(data), probed.images("train", wanted), probed.images(role, asked.ids)
    white = 1.0 if data.channels == 3 else sheets.brightest([found, queries], bands)
    at = dict(zip(wanted.tolist(), sheets.shown(found, bands, white), strict=True))
    names = [*probed.class_names, None]  # the last is that of the label -1
    rows = [
        sheets.Neighbours(
            image,
            names[query.labels[i]],
            [at[number] for number in bank.ids[those].tolist()],
            [names[label] for label in bank.labels[those]],
            values.tolist(),
        )
        for i, image, those, values in zip(shown, sheets.shown(queries, bands, white), nearest, cosines, strict=True)
    ]
    title = f"{role.capitalize()} images and the training images most similar to them in {probed.layer_name} (cosine); "
    sheets.neighbours(path, rows, title=f"{title}{printable(probed.source)}, step {probed.network.step:,}")
    return [str(path)]


def _some(total: int, wanted: int, seed: int) -> np.ndarray:
    """Returns the places of some of so many images, in their order."""
    return np.sort(np.random.default_rng(seed).permutation(total)[:wanted])


def _draw_curves(probed: ProbedRun, path: epath.Path) -> list[str]:
    """Draws what metrics.jsonl has values for."""
    rows = [row for row in read_rows(probed.network.run) if "epoch" in row]
    panels = []
    for label, names, scale in CURVES:
        lines = []
        for (name, words), colour in zip(names.items(), plots.PAIRS, strict=False):
            found = [(row["epoch"], scale * row[name]) for row in rows if name in row]
            # Validation is drawn dashed with dots: one an epoch.
            style = {"style": "--", "marker": "o"} if name.startswith("validation_") else {}
            style |= {"marker": "o"} if len(found) == 1 else {}  # no line goes through it
            if found:
                lines.append(plots.Line(words, *zip(*found, strict=True), colour=colour, **style))
        if label == "loss" and lines:
            # The loss at chance: of training, and of validation where its batches are smaller.
            stored = CAME_LATER | flatten(probed.network.stored)
            batch, loss = stored.get("train.batch_size"), str(stored["loss.name"])
            chance = {at_chance.chance_loss(batch, loss)} - {None} if isinstance(batch, int) and batch > 1 else set()
            chance |= {row["validation_chance_loss"] for row in rows if "validation_chance_loss" in row}
            end = max(row["epoch"] for row in rows)
            for level in sorted(chance, reverse=True):
                words = f"chance, ln(2N-{2 if loss == 'dcl' else 1}) = {level:.2f}"
                lines.append(plots.Line(words, (0, end), (level, level), colour="0.35", style=":"))
        if lines:
            panels.append(plots.Panel(label, lines))
    if not panels:
        say(f"{probed.network.run} has no rows in metrics.jsonl: no curves drawn")
        return []
    plots.curves(
        path, panels, x_label="epoch", title=f"{printable(run_folder.folder(probed.network.run).name)}: pretraining"
    )
    return [str(path)]


def main() -> None:
    """Runs the command from its flags."""
    from simclr_jax.commands import launch
    from simclr_jax.configs import pictures

    launch.launch_on_run(run, pictures, out=True)
