"""Logistic regression of a run by L-BFGS: checkpoint → features, once → sweep → table (Kornblith et al. 2019)."""

import functools
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from simclr_jax.evaluate import lbfgs, probed_run, results, scores
from simclr_jax.evaluate.probed_run import Subject
from simclr_jax.runtime.console import progress, say

MOST_VALUES = 10_000
MOST_ITERATIONS = 10**6


def run(config: ConfigDict, workdir: str) -> dict[str, Any]:
    """Probes a run's encoder and the same encoder untrained; writes RUN/eval/lbfgs.json and prints a table.

    Args:
      config: as configs/lbfgs.py.
      workdir: RUN. Its checkpoint and config are all that is used of it.

    Returns:
      What lbfgs.json holds; accuracies are fractions.

    Raises:
      ValueError: no run, no checkpoint, no labels, no such layer or split; no result has been written then.
    """
    _check(config)
    subject = Subject(config, workdir)
    path = results.place(workdir, "lbfgs")
    features = subject.labelled_features()
    train, validation, test = (features[role] for role in ("train", "validation", "test"))
    labels, train_labels = test["pretrained"].labels, train["pretrained"].labels
    num_classes = len(subject.class_names)
    probes = {
        name: lbfgs.fit(
            (train[name].array(), train_labels),
            (validation[name].array(), validation[name].labels),
            num_classes=num_classes,
            l2=np.geomspace(config.l2_min, config.l2_max, config.l2_values).tolist(),
            iterations=config.iterations,
            progress=functools.partial(progress, desc=f"L2 strengths, {name} encoder", unit="fit"),
        )
        for name in train
    }
    for name, probe in probes.items():
        if probe.unfinished:
            fits = f"{probe.unfinished} of {config.l2_values + 1} fits of the {name} encoder"
            say(f"{fits} had not converged after {config.iterations:,} iterations (config.iterations)")
    # The test split is judged here, once, after everything has been chosen.
    logits = {name: probe.logits(test[name].array()) for name, probe in probes.items()}
    best = probes["pretrained"]
    return results.finish(
        subject,
        path,
        title="L-BFGS logistic regression",
        found=results.of_networks(logits, labels, train_labels, num_classes),
        chosen={"validation_top1": best.validation_top1, "l2": best.l2},
        images={role: len(networks["pretrained"]) for role, networks in features.items()},
        confusion=scores.confusion(logits["pretrained"], labels),
    )


def _check(config: ConfigDict) -> None:
    probed_run.check(config)
    if not 1e-12 <= config.l2_min <= config.l2_max <= 1e12:
        raise ValueError(
            f"config.l2_min={config.l2_min} to l2_max={config.l2_max} must rise, from 1e-12 to 1e12 at most"
        )
    probed_run.check_range(config, "l2_values", 1, MOST_VALUES)
    probed_run.check_range(config, "iterations", 1, MOST_ITERATIONS)
