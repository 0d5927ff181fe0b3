"""The real configs made small, and the images that they then learn from: two colours."""

import importlib

import numpy as np

from support import smallest

SIZE, BATCH, TRAIN, CLASSES = 8, 16, 40, 2
SEEDS = {"train": 1670, "test": 1}  # of pictures of which seeds 0 to 2 hold out a fifth exactly: 8 of 40


def red_or_blue(n, seed):
    """Images of one colour with noise; the label is the colour."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % CLASSES
    images = rng.integers(0, 60, (n, SIZE, SIZE, 3), np.uint8)
    images[np.arange(n), :, :, 2 * labels] += 180
    return images, labels


def write_archive(path):
    """Writes images of both splits."""
    arrays = {}
    for name, n in {"train": TRAIN, "test": 24}.items():
        arrays[f"x_{name}"], arrays[f"y_{name}"] = red_or_blue(n, SEEDS[name])
    np.savez(path, **arrays)
    return path


def shrink(config, source, **changes):
    """Makes any config one of seconds, and leaves alone what it is about: recipe, head, loss and optimiser."""
    vit = config.model.encoder.startswith("vit_")
    config.update_from_flattened_dict(
        {
            "data.source": source,
            "data.train_split": "train",
            "data.validation_split": "",
            "data.test_split": "",
            "data.holdout_fraction": 0.2,
            "augment.image_size": SIZE,
            "model.encoder": smallest.VIT if vit else smallest.NAME,
            "model.width": 1,
            "model.cifar_stem": not vit,
            "model.patch_size": 0,
            "optimizer.warmup_epochs": 1.0,
            "train.batch_size": BATCH,
            "train.epochs": 3,
            "log.every_steps": 1,
            **changes,
        }
    )
    return config


def small(source, **changes):
    return shrink(importlib.import_module("simclr_jax.configs.quickstart").get_config(), source, **changes)


def tiny(source):
    """What `runs.write_run` changes for a run of these images."""
    return {
        "data.source": source,
        "data.holdout_fraction": 0.2,
        "augment.image_size": SIZE,
        "model.encoder": smallest.NAME,
        "model.cifar_stem": True,
    }
