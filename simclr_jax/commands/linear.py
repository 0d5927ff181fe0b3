"""The linear evaluation of a run: checkpoint → features, once → probe → table (paper section 4.2)."""

import functools
from typing import Any

from ml_collections import ConfigDict

from simclr_jax.evaluate import linear, probed_run, results, scores
from simclr_jax.runtime.console import progress

MOST_EPOCHS = 10**5
MOST_SEEDS = 1000


def run(config: ConfigDict, workdir: str) -> dict[str, Any]:
    """Probes a run's encoder and the same encoder untrained; writes RUN/eval/linear.json and prints a table.

    Args:
      config: as configs/linear.py.
      workdir: RUN. Its checkpoint and config are all that is used of it.

    Returns:
      What linear.json holds; accuracies are fractions.

    Raises:
      ValueError: no run, no checkpoint, no labels, no such layer or split; no result has been written then.
    """
    _check(config)
    subject = probed_run.Subject(config, workdir)
    path = results.place(workdir, "linear")
    features = subject.labelled_features()
    train, validation, test = (features[role] for role in ("train", "validation", "test"))
    labels, train_labels = test["pretrained"].labels, train["pretrained"].labels
    num_classes = len(subject.class_names)
    found, confusions, chosen = [], [], None
    for seed in range(config.seed, config.seed + config.seeds):
        probes = {
            name: linear.fit(
                (train[name].array(), train_labels),
                (validation[name].array(), validation[name].labels),
                num_classes=num_classes,
                learning_rates=config.learning_rates,
                weight_decays=config.weight_decays,
                epochs=config.epochs,
                batch_size=config.batch_size,
                seed=seed,
                progress=functools.partial(progress, desc=f"probe of the {name} encoder", unit="epoch"),
            )
            for name in train
        }
        # The test split is judged here, once, after everything has been chosen.
        logits = {name: probe.logits(test[name].array()) for name, probe in probes.items()}
        found.append(results.of_networks(logits, labels, train_labels, num_classes))
        confusions.append(scores.confusion(logits["pretrained"], labels))
        best = probes["pretrained"]
        chosen = chosen or {name: getattr(best, name) for name in ("validation_top1", "learning_rate", "weight_decay")}
    return results.finish(
        subject,
        path,
        title="linear probe",
        found=results.over_seeds(found),
        chosen=chosen,
        images={role: len(networks["pretrained"]) for role, networks in features.items()},
        confusion=sum(confusions) / len(confusions),
    )


def _check(config: ConfigDict) -> None:
    probed_run.check(config)
    probed_run.check_range(config, "epochs", 1, MOST_EPOCHS)
    probed_run.check_range(config, "seeds", 1, MOST_SEEDS)
    probed_run.check_grid(config, "learning_rates", 1e-12)
    probed_run.check_grid(config, "weight_decays", 0.0)
