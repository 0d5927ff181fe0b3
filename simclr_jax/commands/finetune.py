"""Supervised training on top of a run: fine-tuning, the same from scratch, and linear evaluation on augmented views."""

import itertools
from typing import Any

from ml_collections import ConfigDict

from simclr_jax.augment.recipe import Recipe
from simclr_jax.data import sources, subset
from simclr_jax.data.split import Split
from simclr_jax.evaluate import probed_run, results, scores
from simclr_jax.evaluate.probed_run import Subject, check_labels
from simclr_jax.models import create_classifier, create_model
from simclr_jax.runtime import devices
from simclr_jax.runtime.console import say
from simclr_jax.training import optimizers, schedule
from simclr_jax.training.supervised import Fitted, SupervisedTrainer

MOST_EPOCHS = 10**5
MOST_SEEDS = 1000
FEW_LABELS, EPOCHS_OF_FEW, EPOCHS = 0.01, 60, 30  # of the papers: v1 appendix B.5, v2 section 3.1


def run(config: ConfigDict, workdir: str) -> dict[str, Any]:
    """Fine-tunes a run's network, and the same network from scratch; writes RUN/eval/finetune.json and prints a table.

    Args:
      config: as configs/finetune.py.
      workdir: RUN. Its checkpoint and config are all that is used of it.

    Returns:
      What the JSON file holds; accuracies are fractions.

    Raises:
      ValueError: no run, no checkpoint, no labels, no such layer, part, split or image, or a class without images.
      loop.NonFinite: a loss that is not finite. No result has been written in either case.
    """
    name = "finetune" + ("" if config.trainable == "all" else f"_{config.trainable}")
    return _run(config, workdir, name, "fine-tuning", config.trainable, config.from_scratch, "from_scratch")


def run_linear(config: ConfigDict, workdir: str) -> dict[str, Any]:
    """Trains a classifier on a run's frozen encoder with augmented views; writes RUN/eval/linear_augmented.json.

    Args, Returns, Raises: as `run`, with configs/linear_augmented.py.
    """
    title = "linear evaluation with augmentation"
    return _run(config, workdir, "linear_augmented", title, "classifier", True, "untrained")


def _run(
    config: ConfigDict, workdir: str, name: str, title: str, trainable: str, compared: bool, other: str
) -> dict[str, Any]:
    """``other`` is what the untrained network is called in the result."""
    _check(config)
    subject = Subject(config, workdir)
    model = _classifier(subject, trainable)
    path = results.place(workdir, name + _suffix(config, subject.layer))
    validation, test = subject.splits.load("validation"), subject.splits.load("test")
    found, confusions, chosen = [], [], {}
    for seed in range(config.seed, config.seed + config.seeds):
        train = _training_images(subject, seed)
        _check_images(subject, train, validation, test)
        trainer = _trainer(subject, model, train, validation)
        if seed == config.seed:
            _describe(subject, trainer, train, trainable)
        starts = {"pretrained": subject.network.variables}
        if compared:
            starts[other] = subject.network.untrained(seed)
        best = {network: _best(trainer, config, variables, seed, network) for network, variables in starts.items()}
        # The test split is judged here, once for each seed, after everything has been chosen.
        judged = {network: trainer.logits(devices.replicate(fit.state), test) for network, fit in best.items()}
        logits, labels = {network: pair[0] for network, pair in judged.items()}, judged["pretrained"][1]
        found.append(results.of_networks(logits, labels, train.labels, model.classes))
        confusions.append(scores.confusion(logits["pretrained"], labels))
        chosen = chosen or _chosen(best)
    return results.finish(
        subject,
        path,
        title=title if trainable in ("all", "classifier") else f"{title} from {trainable} on",
        found=results.over_seeds(found),
        chosen=chosen,
        images={"train": len(train), "validation": len(validation), "test": len(test)},
        confusion=sum(confusions) / len(confusions),
    )


def _best(trainer: SupervisedTrainer, config: ConfigDict, variables: dict[str, Any], seed: int, name: str) -> Fitted:
    """Trains with each pair of settings and returns the one that validation likes best, the first of equal ones."""
    best = None
    for learning_rate, weight_decay in itertools.product(config.learning_rates, config.weight_decays):
        fitted = trainer.fit(
            variables,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            seed=seed,
            name=name.replace("_", " "),
        )
        if best is None or fitted.validation_top1 > best.validation_top1:
            best = fitted
    return best


def _chosen(best: dict[str, Fitted]) -> dict[str, float]:
    return {
        ("" if network == "pretrained" else f"{network}_") + name: getattr(fitted, name)
        for network, fitted in best.items()
        for name in ("validation_top1", "learning_rate", "weight_decay")
    }


def _classifier(subject: Subject, trainable: str):
    run = subject.network.config
    axis = devices.AXIS if run.model.global_batch_norm else None
    return create_classifier(
        create_model(**schedule.model_arguments(run), axis_name=axis),
        layer=subject.layer,
        classes=len(subject.class_names),
        trainable=trainable,
    )


def _trainer(subject: Subject, model, train: Any, validation: Any) -> SupervisedTrainer:
    config = subject.config
    recipe = Recipe(
        subject.network.image_size,
        min_area=config.min_area,
        jitter_probability=0.0,
        grayscale_probability=0.0,
        blur_probability=0.0,
    )
    return SupervisedTrainer(
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


def _training_images(subject: Subject, seed: int) -> Any:
    """Returns the images to learn from; a seed has its own subset."""
    config, train = subject.config, subject.splits.load("train")
    if config.label_fraction == 1 and not config.ids:
        return train
    if not isinstance(train, Split):
        raise ValueError(
            f"{subject.source} is read as a stream, of which no subset can be chosen; name a set that is one, as "
            "--config.data.source=tfds:imagenet2012_subset/1pct"
        )
    if bare := int((train.labels < 0).sum()):
        raise ValueError(f"{bare:,} of {len(train):,} training images of {subject.source} have no label")
    if config.ids:
        return subset.listed(train, config.ids)
    return subset.balanced(train, config.label_fraction, num_classes=len(subject.class_names), seed=seed)


def _check_images(subject: Subject, *splits: Any) -> None:
    """Asks of the splits whose labels are known without reading the images."""
    known = {role: split.labels for role, split in zip(sources.ROLES, splits, strict=True) if isinstance(split, Split)}
    if "train" in known:
        check_labels(known, subject.class_names, subject.source)


def _describe(subject: Subject, trainer: SupervisedTrainer, train: Any, trainable: str) -> None:
    config, per_epoch = subject.config, trainer.steps_per_epoch
    epochs = trainer.total_steps // per_epoch
    rates = ", ".join(f"{trainer.scaled(rate):g}" for rate in config.learning_rates)
    say(
        f"{len(train):,} training images, batch {trainer.batch_size}, {epochs} epochs of {per_epoch:,} steps; "
        f"{config.optimizer}, learning rate {rates} falling to 0; learns: {trainable}"
    )


def _suffix(config: ConfigDict, layer: int) -> str:
    """What of the settings the result's name tells, so that other ones do not take its place."""
    images = "_ids" if config.ids else "" if config.label_fraction == 1 else f"_{config.label_fraction:g}"
    return (f"_layer{layer}" if layer else "") + images


def _check(config: ConfigDict) -> None:
    probed_run.check(config)
    probed_run.check_range(config, "epochs", 0, MOST_EPOCHS)
    probed_run.check_range(config, "seeds", 1, MOST_SEEDS)
    probed_run.check_grid(config, "learning_rates", 1e-12)
    probed_run.check_grid(config, "weight_decays", 0.0)
    if not 0 < config.label_fraction <= 1:
        raise ValueError(f"config.label_fraction={config.label_fraction} must be above 0 and at most 1 (all labels)")
    if config.ids and config.label_fraction != 1:
        raise ValueError("config.ids and config.label_fraction both choose images; give one of them")
    if not 0 < config.min_area <= 1:
        raise ValueError(f"config.min_area={config.min_area} must be above 0 and at most 1, the whole image")
    optimizers.create_optimizer(config.optimizer, 1.0, weight_decay=0.0)
    optimizers.scaled_learning_rate(1.0, batch_size=1, scaling=config.scaling)
