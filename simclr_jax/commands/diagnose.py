"""Whether a run has collapsed, at any of its checkpoints: measures, a verdict in plain words and a picture."""

import functools
from typing import Any

import jax
import numpy as np
import optax
from ml_collections import ConfigDict

from simclr_jax import losses
from simclr_jax.data import feed, sources
from simclr_jax.evaluate import plots, results
from simclr_jax.evaluate.probed_run import ProbedRun
from simclr_jax.evaluate.scores import printable
from simclr_jax.runtime.config import recipe_of, run_config, shown
from simclr_jax.runtime.console import progress
from simclr_jax.training import chance, collapse

MOST_IMAGES = 8192  # all pairs of them are compared
BINS = np.linspace(-1, 1, 101)  # of the histograms of cosines


def run(config: ConfigDict, workdir: str, out: str | None = None) -> dict[str, Any]:
    """Measures how h and z of a run's checkpoint lie; writes RUN/eval/diagnose.json and similarities.png.

    Args:
      config: as configs/diagnose.py.
      workdir: RUN. Its checkpoint and config are all that is used of it.
      out: a folder that receives eval/ instead, for a RUN that cannot be written.

    Returns:
      What diagnose.json holds.

    Raises:
      ValueError: no run, no checkpoint, no such split, or too few images.
    """
    if config.split not in sources.ROLES:
        raise ValueError(
            f"config.split={config.split!r} must be {', '.join(sources.ROLES[:-1])} or {sources.ROLES[-1]}"
        )
    if not 2 <= config.images <= MOST_IMAGES:
        raise ValueError(f"config.images={config.images} must be from 2 to {MOST_IMAGES:,}")
    probed = ProbedRun(ConfigDict({**config, "layer": 0}), workdir, labelled=False, out=out)
    network = probed.network
    pretraining = run_config(network.stored, network.run, views=True)
    path = results.place(probed.folder, "diagnose")
    variables = {"pretrained": network.variables, "untrained": network.untrained()}
    pairs = _encode(probed, pretraining, variables)
    temperature = pretraining.loss.temperature
    loss = jax.jit(functools.partial(losses.nt_xent, temperature=temperature))
    found = {}
    for name, (h, z) in pairs.items():
        # The loss is that of batches of the run's size, or of all images where they are fewer.
        n = min(pretraining.train.batch_size, len(z[0]))
        starts = range(0, len(z[0]) - n + 1, n)
        value = float(np.mean([float(loss(z[0][i : i + n], z[1][i : i + n])[0]) for i in starts]))
        of_loss = {"loss": value, "chance_loss": chance.chance_loss(n), "batch_size": n}
        found[name] = collapse.of_pairs(h, z) | of_loss
    images = len(found["pretrained"]["positive"])
    moved = distance(*(of["params"] for of in variables.values()))
    said = collapse.verdict(found["pretrained"], temperature, step=network.step, moved=moved)
    if pretraining.loss.name != "nt_xent":
        said.append(f"This run was trained with the loss {shown(pretraining.loss.name)}; the loss here is NT-Xent.")
    if not network.depth:
        said.append("This run has no projection head: its z is h, normalised.")
    of = f"step {network.step:,} on {images:,} {config.split} images of {printable(probed.source)}"
    result = {
        **_plain(found["pretrained"]),
        "untrained": _plain(found["untrained"]),
        "verdict": said,
        "step": network.step,
        "source": probed.source,
        "split": config.split,
        "images": images,
        "temperature": temperature,
        "moved": moved,
    }
    text = (
        f"\nhow spread out representation h and projection z are at {of}, two views each\n{table(found)}\n\n"
        + "\n".join(said)
    )
    result = results.keep(probed, path, result, text)
    cosines = found["pretrained"]["positive"], found["pretrained"]["negative"]
    results.draw(probed, "similarities.png", lambda picture: plots.similarities(picture, *cosines, title=of))
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


def distance(params: Any, start: Any) -> float:
    """Returns how far parameters are from others, as a share of the others' norm."""
    moved = jax.tree.map(lambda a, b: np.asarray(a, np.float64) - np.asarray(b), params, start)
    return float(optax.tree.norm(moved) / optax.tree.norm(start))


def _encode(probed: ProbedRun, pretraining: ConfigDict, variables: dict[str, Any]) -> dict[str, tuple]:
    """Returns {network: (h, z)}, each a pair of arrays [n, d]: of the first views and of the second."""
    config, network = probed.config, probed.network
    split = probed.splits.load(config.split).sample(config.images, seed=0)
    size = min(config.batch_size, len(split))
    if size < 2:
        raise ValueError(
            f"{probed.source} has {len(split)} {config.split} images, and at least two are needed; take another split: "
            f"--config.split={'train' if config.split != 'train' else 'validation'}"
        )
    pairs = feed.view_pairs(
        split,
        recipe_of(pretraining),
        placement=pretraining.augment.placement,
        batch_size=size,
        seed=pretraining.seed,
        max_corrupt_fraction=config.data.max_corrupt_fraction,
    )
    layers = (0, network.depth)
    encoders = {(name, layer): network.encode(layer, of) for name, of in variables.items() for layer in layers}
    found = {end: [] for end in encoders}
    for pair in progress(pairs, total=len(split) // size, desc="views", unit="batch"):
        views = np.concatenate([pair[:, 0], pair[:, 1]])
        for end, encode in encoders.items():
            found[end].append(np.split(encode(views), 2))
    joined = {end: tuple(map(np.concatenate, zip(*parts, strict=True))) for end, parts in found.items()}
    return {name: tuple(joined[name, layer] for layer in layers) for name in variables}


def _plain(found: dict[str, Any]) -> dict[str, Any]:
    """Returns measures as JSON holds them: cosines as the counts of a histogram."""
    plain = {name: value for name, value in found.items() if isinstance(value, float | int)}
    for name in ("h", "z"):
        plain[name] = found[name] | {"std": found[name]["std"].tolist(), "mean_std": float(found[name]["std"].mean())}
    for name in ("positive", "negative"):
        counts = np.histogram(found[name], BINS)[0]
        plain[name] = {"mean": float(found[name].mean()), "counts": counts.tolist()}
    return plain | {"cosine_bins": np.round(BINS, 6).tolist()}


def main() -> None:
    """Runs the command from its flags."""
    from simclr_jax.commands import launch
    from simclr_jax.configs import diagnose

    launch.launch_on_run(run, diagnose, out=True)
