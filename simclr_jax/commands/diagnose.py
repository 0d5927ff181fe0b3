"""Whether a run has collapsed, at any of its checkpoints: measures, a verdict in plain words and a picture."""

import functools
import json
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from simclr_jax import losses
from simclr_jax.data import feed, sources
from simclr_jax.evaluate import plots, results
from simclr_jax.evaluate.probed_run import NETWORKS, Subject
from simclr_jax.runtime import devices, run_folder
from simclr_jax.runtime.config import recipe_of, run_config
from simclr_jax.runtime.console import progress, say
from simclr_jax.training import collapse
from simclr_jax.training import step as steps
from simclr_jax.training.gradients import both_views

MOST_IMAGES = 8192  # all pairs of them are compared
BINS = np.linspace(-1, 1, 101)  # of the histograms of cosines


def run(config: ConfigDict, workdir: str) -> dict[str, Any]:
    """Measures how h and z of a run's checkpoint lie; writes RUN/eval/diagnose.json and similarities.png.

    Args:
      config: as configs/diagnose.py.
      workdir: RUN. Its checkpoint and config are all that is used of it.

    Returns:
      What diagnose.json holds.

    Raises:
      ValueError: no run, no checkpoint, no such split, or too few images.
    """
    _check(config)
    subject = Subject(ConfigDict({**config, "layer": 0}), workdir, labelled=False)
    pretraining = run_config(run_folder.read_config(workdir), workdir, views=True)
    path = results.place(workdir, "diagnose")
    pairs = _encode(subject, pretraining, config)
    found = {network: _measure(*ends, pretraining) for network, ends in pairs.items()}
    images = len(found["pretrained"]["positive"])
    said = collapse.verdict(found["pretrained"], pretraining.loss.temperature)
    if not subject.network.model.head.depth:
        said.append("This run has no head: its z is h, normalised.")
    of = f"step {subject.network.step:,} on {images:,} {config.split} images of {subject.source}"
    say(f"\nhow h and z lie at {of}, two views each\n{table(found)}\n\n" + "\n".join(said))
    path.parent.mkdir(exist_ok=True)
    picture = run_folder.inside(workdir, "eval", "similarities.png")
    plots.similarities(picture, found["pretrained"]["positive"], found["pretrained"]["negative"], title=of)
    result = {
        **_plain(found["pretrained"]),
        "untrained": _plain(found["untrained"]),
        "verdict": said,
        "step": subject.network.step,
        "source": subject.source,
        "split": config.split,
        "images": images,
        "temperature": pretraining.loss.temperature,
    }
    run_folder.replace_text(path, json.dumps(result, indent=2) + "\n")
    say(f"\nwritten to {path} and {picture.name}")
    return result


def table(found: dict[str, dict[str, Any]]) -> str:
    """Returns the measures as rows of text, a column for each network."""
    rows = {
        "rank of h": lambda of: f"{of['h']['rank']:.1f} of {of['h']['dim']}",
        "rank of z": lambda of: f"{of['z']['rank']:.1f} of {of['z']['dim']}",
        "std of h": lambda of: f"{of['h']['std'].mean():.4f}",
        "std of z": lambda of: f"{of['z']['std'].mean():.4f}",
        "  isotropic": lambda of: f"{of['z']['dim'] ** -0.5:.4f}",
        "alignment": lambda of: f"{of['alignment']:.3f}",
        "uniformity": lambda of: f"{of['uniformity']:.3f}",
        "cosine of two views": lambda of: f"{of['positive'].mean():.3f}",
        "cosine of two images": lambda of: f"{of['negative'].mean():.3f}",
        "loss": lambda of: f"{of['loss']:.3f}",
        "  at chance": lambda of: f"{of['chance_loss']:.3f}",
    }
    head = f"{'':22}" + "".join(f"{network:>16}" for network in found)
    lines = [f"{name:22}" + "".join(f"{show(of):>16}" for of in found.values()) for name, show in rows.items()]
    return "\n".join([head, *lines])


def _check(config: ConfigDict) -> None:
    if config.split not in sources.ROLES:
        raise ValueError(
            f"config.split={config.split!r} must be {', '.join(sources.ROLES[:-1])} or {sources.ROLES[-1]}"
        )
    if not 2 <= config.images <= MOST_IMAGES:
        raise ValueError(f"config.images={config.images} must be from 2 to {MOST_IMAGES:,}")


def _encode(subject: Subject, pretraining: ConfigDict, config: ConfigDict) -> dict[str, tuple]:
    """Returns {network: (h, z)}, each a pair of arrays [n, d]: of the first views and of the second."""
    split = subject.splits.load(config.split).first(config.images)
    size = min(config.batch_size, len(split))
    if size < 2:
        raise ValueError(
            f"{subject.source} has {len(split)} {config.split} images; two are compared: take another split"
        )
    pairs = feed.view_pairs(
        split,
        recipe_of(pretraining),
        placement=pretraining.augment.placement,
        batch_size=size,
        seed=pretraining.seed,
        max_corrupt_fraction=config.data.max_corrupt_fraction,
    )
    variables = dict(zip(NETWORKS, (subject.network.variables, subject.network.untrained()), strict=True))
    ends = {
        (network, layer): devices.map_encoder(
            functools.partial(steps.encode_step, model=subject.network.model, layer=layer), variables[network]
        )
        for network in NETWORKS
        for layer in (0, subject.network.model.head.depth)
    }
    found = {end: [] for end in ends}
    for pair in progress(pairs, total=len(split) // size, desc="views", unit="batch"):
        views = np.asarray(both_views(pair))
        for end, encode in ends.items():
            found[end].append(np.split(encode(views), 2))
    joined = {end: tuple(map(np.concatenate, zip(*parts, strict=True))) for end, parts in found.items()}
    return {name: (joined[name, 0], joined[name, subject.network.model.head.depth]) for name in NETWORKS}


def _measure(h: tuple, z: tuple, pretraining: ConfigDict) -> dict[str, Any]:
    """Returns the measures, and the loss over batches of the run's size, or of all images where they are fewer."""
    n = min(pretraining.train.batch_size, len(z[0]))
    loss = jax.jit(functools.partial(losses.nt_xent, temperature=pretraining.loss.temperature))
    batches = range(0, len(z[0]) - n + 1, n)
    value = np.mean([float(loss(z[0][i : i + n], z[1][i : i + n])[0]) for i in batches])
    return collapse.of_pairs(h, z) | {"loss": float(value), "chance_loss": collapse.chance_loss(n), "batch_size": n}


def _plain(found: dict[str, Any]) -> dict[str, Any]:
    """Returns measures as JSON holds them: cosines as the counts of a histogram."""
    plain = {name: value for name, value in found.items() if isinstance(value, float | int)}
    for name in ("h", "z"):
        plain[name] = found[name] | {"std": found[name]["std"].tolist(), "mean_std": float(found[name]["std"].mean())}
    for name in ("positive", "negative"):
        counts = np.histogram(found[name], BINS)[0]
        plain[name] = {"mean": float(found[name].mean()), "counts": counts.tolist()}
    return plain | {"cosine_bins": np.round(BINS, 6).tolist()}
