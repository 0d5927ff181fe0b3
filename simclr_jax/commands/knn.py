"""Nearest neighbours of a run's features: checkpoint → features, once → search → vote → table (Wu et al. 2018)."""

import dataclasses
import functools
import itertools
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from simclr_jax.evaluate import knn, probed_run, results, scores
from simclr_jax.evaluate.feature_files import Features
from simclr_jax.evaluate.probed_run import Subject
from simclr_jax.runtime.console import progress, say

LOWEST_TEMPERATURE = 1e-3


def run(config: ConfigDict, workdir: str) -> dict[str, Any]:
    """Classifies a run's test images by their nearest training images; writes RUN/eval/knn.json and prints a table.

    Args:
      config: as configs/knn.py.
      workdir: RUN. Its checkpoint and config are all that is used of it.

    Returns:
      What knn.json holds; accuracies are fractions.

    Raises:
      ValueError: no run, no checkpoint, no labels, no such layer or split, or too few training images for every k of
        the grid; no result has been written then.
    """
    _check(config)
    subject = Subject(config, workdir)
    path = results.place(workdir, "knn")
    features = subject.labelled_features()
    train, validation, test = (features[role] for role in ("train", "validation", "test"))
    labels, train_labels = test["pretrained"].labels, train["pretrained"].labels
    num_classes = len(subject.class_names)
    grid = list(itertools.product(_that_fit(config.neighbours, len(train_labels)), config.temperatures))
    chosen = {name: _choose(grid, validation[name], bank, num_classes, name) for name, bank in train.items()}
    # The test split is judged here, once, after everything has been chosen.
    logits = {name: _votes(test[name], bank, chosen[name], num_classes, name) for name, bank in train.items()}
    return results.finish(
        subject,
        path,
        title="kNN",
        found=results.of_networks(logits, labels, train_labels, num_classes),
        chosen=dataclasses.asdict(chosen["pretrained"]),
        images={role: len(networks["pretrained"]) for role, networks in features.items()},
        confusion=scores.confusion(logits["pretrained"], labels),
    )


@dataclasses.dataclass(frozen=True)
class _Chosen:
    validation_top1: float
    neighbours: int
    temperature: float


def _choose(grid: list[tuple[int, float]], queries: Features, bank: Features, num_classes: int, name: str) -> _Chosen:
    """Returns the pair of k and T that is best on validation."""
    similarities, labels = _search(queries, bank, max(k for k, _ in grid), f"neighbours, {name} encoder, validation")
    found = [
        scores.accuracies(knn.vote(similarities, labels, k=k, temperature=t, num_classes=num_classes), queries.labels)
        for k, t in grid
    ]
    best = int(np.argmax([one["top1"] for one in found]))
    return _Chosen(found[best]["top1"], *grid[best])


def _votes(queries: Features, bank: Features, chosen: _Chosen, num_classes: int, name: str) -> np.ndarray:
    k = chosen.neighbours
    similarities, labels = _search(queries, bank, k, f"neighbours, {name} encoder, test")
    return knn.vote(similarities, labels, k=k, temperature=chosen.temperature, num_classes=num_classes)


def _search(queries: Features, bank: Features, k: int, desc: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns similarities and labels of the k nearest."""
    bar = functools.partial(progress, desc=desc, unit="block")
    similarities, rows = knn.nearest(queries, bank, k, progress=bar)
    return similarities, bank.labels[rows]


def _that_fit(neighbours: tuple[int, ...], images: int) -> list[int]:
    """Returns the numbers of neighbours that the bank has; says which it has not."""
    fit = [k for k in neighbours if k <= images]
    left_out = ", ".join(f"{k:,}" for k in neighbours if k > images)
    if not fit:
        raise ValueError(
            f"config.neighbours={left_out} of {images:,} training images: choose from 1 to {images:,}, "
            "or train more images (data.limit)"
        )
    if left_out:
        say(f"there are {images:,} training images: {left_out} neighbours are left out of the grid")
    return fit


def _check(config: ConfigDict) -> None:
    probed_run.check(config)
    if not config.neighbours or not all(type(k) is int and k >= 1 for k in config.neighbours):
        raise ValueError(f"config.neighbours={config.neighbours} must hold at least one whole number, 1 or more each")
    probed_run.check_grid(config, "temperatures", LOWEST_TEMPERATURE)
