"""The probes of a run's features: features, once → choose on validation → judge the test split, once → table.

linear   softmax regression by SGD (SimCLR, section 4.2)
lbfgs    logistic regression by L-BFGS (Kornblith et al. 2019)
knn      a vote of nearest neighbours (Wu et al. 2018)
"""

import functools
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from simclr_jax.evaluate import knn, lbfgs, linear, probed_run, results, scores
from simclr_jax.evaluate.feature_files import Features
from simclr_jax.runtime.console import progress, say

LOWEST_TEMPERATURE = 1e-3
MOST_STRENGTHS = 10_000
MOST_ITERATIONS = 10**6

ByNetwork = dict[str, Features]


class Fitted(NamedTuple):
    """A probe of one network.

    Attributes:
      chosen: what validation chose, and its accuracy as "validation_top1".
      logits: features → [n, classes].
    """

    chosen: dict[str, Any]
    logits: Callable[[Features], np.ndarray]


def run(kind: str, config: ConfigDict, workdir: str, out: str | None = None) -> dict[str, Any]:
    """Probes a run's encoder and, for comparison, an untrained one; writes RUN/eval/KIND.json and prints a table.

    Args:
      kind: "linear", "lbfgs" or "knn".
      config: as configs/KIND.py.
      workdir: RUN, the folder of a pretraining run; only its checkpoint and config are used.
      out: another folder for eval/KIND.json and the features, if RUN is read-only.

    Returns:
      The content of KIND.json; accuracies are fractions.

    Raises:
      ValueError: there is no run, checkpoint, label, or no such layer or split, a setting is out of range, or there are
        too few training images for every k of kNN; no result was written.
    """
    check(kind, config)
    probed = probed_run.ProbedRun(config, workdir, out=out)
    path = results.place(probed.folder, kind)
    features = probed.labelled_features()
    train, validation, test = (features[role] for role in ("train", "validation", "test"))
    fit, title = PROBES[kind]
    # The others draw nothing at random.
    seeds = range(config.seed, config.seed + config.seeds) if kind == "linear" else ()
    judged, chosen = [], None
    for options in [{"seed": seed} for seed in seeds] or [{}]:
        fitted = fit(config, train, validation, len(probed.class_names), **options)
        # The test split is judged here, once, after everything has been chosen.
        logits = {network: of.logits(test[network]) for network, of in fitted.items()}
        judged.append(results.judge(logits, test["pretrained"].labels, train["pretrained"].labels))
        chosen = chosen or fitted["pretrained"].chosen
    images = {role: len(networks["pretrained"]) for role, networks in features.items()}
    return results.finish(probed, path, title=title, judged=judged, chosen=chosen, images=images)


def check(kind: str, config: ConfigDict) -> None:
    """Raises ValueError for a setting that the probe cannot use. Reads no run."""
    if kind == "linear":
        probed_run.check_training(config, least_epochs=1)
        return
    probed_run.check(config)
    if kind == "knn":
        k = config.neighbours
        if not k or not all(type(number) is int and number >= 1 for number in k):
            raise ValueError(f"config.neighbours={k} must hold at least one whole number, each 1 or more")
        probed_run.check_grid(config, "temperatures", LOWEST_TEMPERATURE)
        return
    if not 1e-12 <= config.l2_min <= config.l2_max <= 1e12:
        raise ValueError(
            f"config.l2_min={config.l2_min} must not be above l2_max={config.l2_max}, and both must be from "
            "1e-12 to 1e12"
        )
    probed_run.check_range(config, "l2_values", 1, MOST_STRENGTHS)
    probed_run.check_range(config, "iterations", 1, MOST_ITERATIONS)


def fit_linear(
    config: ConfigDict, train: ByNetwork, validation: ByNetwork, num_classes: int, *, seed: int
) -> dict[str, Fitted]:
    """Trains a linear probe of each network; validation chooses learning rate and weight decay."""
    fitted = {}
    for network, of in train.items():
        probe = linear.fit(
            (of.array(), of.labels),
            (validation[network].array(), validation[network].labels),
            num_classes=num_classes,
            learning_rates=config.learning_rates,
            weight_decays=config.weight_decays,
            epochs=config.epochs,
            batch_size=config.batch_size,
            seed=seed,
            progress=functools.partial(progress, desc=f"probe of the {network} encoder", unit="epoch"),
        )
        chosen = {name: getattr(probe, name) for name in ("validation_top1", "learning_rate", "weight_decay")}
        fitted[network] = Fitted(chosen, lambda features, probe=probe: probe.logits(features.array()))
    return fitted


def fit_lbfgs(config: ConfigDict, train: ByNetwork, validation: ByNetwork, num_classes: int) -> dict[str, Fitted]:
    """Fits a logistic regression of each network; validation chooses its L2 strength."""
    fitted, unfinished = {}, []
    for network, of in train.items():
        probe = lbfgs.fit(
            (of.array(), of.labels),
            (validation[network].array(), validation[network].labels),
            num_classes=num_classes,
            l2=np.geomspace(config.l2_min, config.l2_max, config.l2_values).tolist(),
            iterations=config.iterations,
            progress=functools.partial(progress, desc=f"L2 strengths, {network} encoder", unit="fit"),
        )
        if probe.unfinished:
            unfinished.append(f"{probe.unfinished} of {config.l2_values + 1} fits of the {network} encoder")
        chosen = {"validation_top1": probe.validation_top1, "l2": probe.l2}
        fitted[network] = Fitted(chosen, lambda features, probe=probe: probe.logits(features.array()))
    for fits in unfinished:
        say(f"{fits} did not converge in {config.iterations:,} iterations; raise --config.iterations")
    return fitted


def fit_knn(config: ConfigDict, train: ByNetwork, validation: ByNetwork, num_classes: int) -> dict[str, Fitted]:
    """Makes a bank of each network's training images; validation chooses k and T."""
    images = len(train["pretrained"])
    neighbours = [k for k in config.neighbours if k <= images]
    left_out = ", ".join(f"{k:,}" for k in config.neighbours if k > images)
    if not neighbours:
        raise ValueError(
            f"config.neighbours={left_out} of {images:,} training images: choose from 1 to {images:,}, "
            "or use more training images (data.limit)"
        )
    if left_out:
        say(f"there are only {images:,} training images, so k={left_out} is not tried")

    def search(queries: Features, network: str, k: int, role: str) -> tuple[np.ndarray, np.ndarray]:
        """Returns similarities and labels of the k nearest."""
        bar = functools.partial(progress, desc=f"neighbours, {network} encoder, {role}", unit="block")
        similarities, rows = knn.nearest(queries, train[network], k, progress=bar)
        return similarities, train[network].labels[rows]

    def votes(queries: Features, network: str, k: int, temperature: float) -> np.ndarray:
        found = search(queries, network, k, "test")
        return knn.vote(*found, k=k, temperature=temperature, num_classes=num_classes)

    grid = list(itertools.product(neighbours, config.temperatures))
    fitted = {}
    for network, of in validation.items():
        found = search(of, network, max(neighbours), "validation")
        top1 = [
            scores.accuracies(knn.vote(*found, k=k, temperature=t, num_classes=num_classes), of.labels)["top1"]
            for k, t in grid
        ]
        best = int(np.argmax(top1))
        k, temperature = grid[best]
        chosen = {"validation_top1": top1[best], "neighbours": k, "temperature": temperature}
        fitted[network] = Fitted(chosen, functools.partial(votes, network=network, k=k, temperature=temperature))
    return fitted


# What trains each, and what it is called in its table.
PROBES = {
    "linear": (fit_linear, "linear probe"),
    "lbfgs": (fit_lbfgs, "L-BFGS logistic regression"),
    "knn": (fit_knn, "kNN"),
}


def main(kind: str) -> None:
    """Runs one of `PROBES` from its flags."""
    from simclr_jax.commands import launch
    from simclr_jax.configs import knn, lbfgs, linear

    launch.launch_on_run(functools.partial(run, kind), {"linear": linear, "lbfgs": lbfgs, "knn": knn}[kind], out=True)
