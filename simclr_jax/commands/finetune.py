"""Supervised training on top of a run: fine-tuning, the same from scratch, and linear evaluation on augmented views."""

import itertools
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from simclr_jax.augment.recipe import Recipe
from simclr_jax.data import sources, subset
from simclr_jax.data.split import Split
from simclr_jax.evaluate import probed_run, results
from simclr_jax.models import create_classifier, create_model
from simclr_jax.runtime import devices
from simclr_jax.runtime.config import network_of
from simclr_jax.runtime.console import say
from simclr_jax.training import optimizers
from simclr_jax.training.supervised import SupervisedTrainer

FEW_LABELS, EPOCHS_OF_FEW, EPOCHS = 0.01, 60, 30  # of the papers: v1 appendix B.5, v2 section 3.1


def run(config: ConfigDict, workdir: str, out: str | None = None) -> dict[str, Any]:
    """Fine-tunes a run's network and trains the same one from scratch; writes RUN/eval/finetune.json, prints a table.

    Args:
      config: as configs/finetune.py.
      workdir: RUN, the folder of a pretraining run; only its checkpoint and config are used.
      out: another folder for eval/, if RUN is read-only.

    Returns:
      The content of the JSON file; accuracies are fractions.

    Raises:
      ValueError: there is no run, checkpoint or label, no such layer, part, split or image, or a class has no images.
      loop.NonFinite: the loss became NaN or infinite. In both cases no result was written.
    """
    name = "finetune" + ("" if config.trainable == "all" else f"_{config.trainable}")
    return _run(config, workdir, out, name, "fine-tuning", config.trainable, config.from_scratch, "from_scratch")


def run_linear(config: ConfigDict, workdir: str, out: str | None = None) -> dict[str, Any]:
    """Trains a classifier on a run's frozen encoder with augmented views; writes RUN/eval/linear_augmented.json.

    Args, Returns, Raises: as `run`, with configs/linear_augmented.py.
    """
    title = "linear evaluation with augmentation"
    return _run(config, workdir, out, "linear_augmented", title, "classifier", True, "untrained")


def _run(
    config: ConfigDict,
    workdir: str,
    out: str | None,
    name: str,
    title: str,
    trainable: str,
    compared: bool,
    other: str,
) -> dict[str, Any]:
    """``other`` is what the untrained network is called in the result."""
    _check(config)
    probed = probed_run.ProbedRun(config, workdir, out=out)
    network, run = probed.network, probed.network.config
    model = create_classifier(
        create_model(network_of(run), axis_name=devices.AXIS if run.model.global_batch_norm else None),
        layer=probed.layer,
        classes=len(probed.class_names),
        trainable=trainable,
    )
    # The result's name tells of its settings, so that other ones do not take its place.
    of_images = "_ids" if config.ids else "" if config.label_fraction == 1 else f"_{config.label_fraction:g}"
    path = results.place(probed.folder, name + (f"_layer{probed.layer}" if probed.layer else "") + of_images)
    recipe = Recipe(
        network.image_size,
        min_area=config.min_area,
        jitter_probability=0.0,
        grayscale_probability=0.0,
        blur_probability=0.0,
    )
    labelled, validation, test = _labelled(probed)
    judged, chosen = [], {}
    for seed in range(config.seed, config.seed + config.seeds):
        few = config.label_fraction < 1
        train = subset.balanced(labelled, config.label_fraction, seed=seed) if few else labelled  # a seed has its own
        trainer = SupervisedTrainer(
            model,
            recipe,
            train,
            validation,
            optimizer=config.optimizer,
            scaling=config.scaling,
            batch_size=config.batch_size,
            epochs=config.epochs or (EPOCHS_OF_FEW if config.label_fraction <= FEW_LABELS else EPOCHS),
            max_corrupt_fraction=config.data.max_corrupt_fraction,
            num_devices=devices.device_count(),
        )
        if seed == config.seed:
            epochs = trainer.total_steps // trainer.steps_per_epoch
            rates = ", ".join(f"{trainer.scaled(rate):g}" for rate in config.learning_rates)
            say(
                f"{len(train):,} training images, batch {trainer.batch_size}, {epochs} epochs of "
                f"{trainer.steps_per_epoch:,} steps; {config.optimizer}, learning rate {rates}, decaying to 0; "
                f"trained part: {trainable}"
            )
        starts = {"pretrained": network.variables} | ({other: network.untrained(seed)} if compared else {})
        best = {}
        for of, variables in starts.items():
            options = {"seed": seed, "name": of.replace("_", " ")}
            pairs = itertools.product(config.learning_rates, config.weight_decays)
            fits = (trainer.fit(variables, learning_rate=rate, weight_decay=decay, **options) for rate, decay in pairs)
            best[of] = max(fits, key=lambda fitted: fitted.validation_top1)  # of equal ones the first
        # The test split is judged here, once for each seed, after everything has been chosen.
        on_test = {of: trainer.logits(devices.replicate(fitted.state), test) for of, fitted in best.items()}
        logits, labels = {of: pair[0] for of, pair in on_test.items()}, on_test["pretrained"][1]
        judged.append(results.judge(logits, labels, train.class_numbers))
        chosen = chosen or {
            ("" if of == "pretrained" else f"{of}_") + setting: getattr(fitted, setting)
            for of, fitted in best.items()
            for setting in ("validation_top1", "learning_rate", "weight_decay")
        }
    return results.finish(
        probed,
        path,
        title=title if trainable in ("all", "classifier") else f"{title} from {trainable} on",
        judged=judged,
        chosen=chosen,
        images={"train": len(train), "validation": len(validation), "test": len(test)},
    )


def _check(config: ConfigDict) -> None:
    """Raises ValueError for a setting that cannot be. Reads no run."""
    probed_run.check_training(config, least_epochs=0)
    if not 0 < config.label_fraction <= 1:
        raise ValueError(f"config.label_fraction={config.label_fraction} must be above 0 and at most 1 (all labels)")
    if config.ids and config.label_fraction != 1:
        raise ValueError("config.ids and config.label_fraction both select images; give only one of them")
    if not 0 < config.min_area <= 1:
        raise ValueError(f"config.min_area={config.min_area} must be above 0 and at most 1, the whole image")
    optimizers.create_optimizer(config.optimizer, lambda step: 0.0, weight_decay=0.0)
    optimizers.scaled_learning_rate(1.0, batch_size=1, scaling=config.scaling)


def _labelled(probed: probed_run.ProbedRun) -> list[Any]:
    """Returns the images of the three roles that have a usable label, of train those of a list, if one is given."""
    config, splits = probed.config, {role: probed.splits.load(role) for role in sources.ROLES}
    if not isinstance(splits["train"], Split) and (config.ids or config.label_fraction < 1):
        raise ValueError(
            f"{probed.source} is read as a stream, so no subset of it can be chosen; use a data set that is the "
            "subset, such as "
            "--config.data.source=tfds:imagenet2012_subset/1pct"
        )
    if config.ids:
        splits["train"] = subset.listed(splits["train"], config.ids)
    # Of streams the labels are not known before the images have been read.
    if not all(isinstance(split, Split) for split in splits.values()):
        return list(splits.values())
    masks = probed.leave_out({role: split.class_numbers for role, split in splits.items()})
    return [split.take(np.flatnonzero(masks[role])) for role, split in splits.items()]


def main(kind: str) -> None:
    """Runs `run` or, for "linear_augmented", `run_linear` from its flags."""
    from simclr_jax.commands import launch
    from simclr_jax.configs import finetune, linear_augmented

    if kind == "finetune":
        launch.launch_on_run(run, finetune, out=True)
    else:
        launch.launch_on_run(run_linear, linear_augmented, out=True)
