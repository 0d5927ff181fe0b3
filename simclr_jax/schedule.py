"""From the user's config to plain numbers: checks every value, turns epochs into steps, names what a config changes.

ConfigDicts stop here and in the drivers; everything below takes explicit keyword arguments.
"""

import dataclasses
import difflib
import math
from collections.abc import Iterable
from typing import Any

import ml_collections
from ml_collections import ConfigDict

from simclr_jax import optim
from simclr_jax.augment.recipe import Recipe

# Keys that may differ when a run resumes: they change where things lie, how often they are written and what a fault
# does, not the result.
NOT_MATHEMATICS = (
    "data.dir",
    "data.cache",
    "data.max_corrupt_fraction",
    "model.remat",
    "loss.chunk_size",
    "loss.gather",
    "train.on_nonfinite",
    "train.max_skipped",
    "checkpoint.every_epochs",
    "checkpoint.every_steps",
    "checkpoint.keep",
    "log.every_steps",
)

_NOT_NEGATIVE = (lambda value: value >= 0, "must be 0 or more")
_POSITIVE = (lambda value: value > 0, "must be above 0")
_CHOICES = {
    "augment.placement": ("host", "device"),
    "data.cache": ("host", "device"),
    "model.norm": ("batch", "group"),
    "loss.gather": ("all", "ring"),
    "train.on_nonfinite": ("stop", "skip"),
}
_RULES = {
    "seed": _NOT_NEGATIVE,
    "data.max_corrupt_fraction": (lambda value: 0 <= value < 1, "must be 0 (no image may be unreadable) to below 1"),
    "loss.temperature": (lambda value: value > 0, "must be above 0; 0.1 to 0.5 is usual"),
    "loss.chunk_size": (lambda value: value >= 0, "must be 0 (chosen by the batch) or more"),
    "optimizer.learning_rate": _POSITIVE,
    "optimizer.weight_decay": _NOT_NEGATIVE,
    "optimizer.warmup_epochs": _NOT_NEGATIVE,
    "train.batch_size": (lambda value: value >= 2, "must be at least 2: the negatives are the other images"),
    "train.epochs": _POSITIVE,
    "train.microbatch_size": (lambda value: value >= 0, "must be 0 (the whole batch at once) or more"),
    "train.max_skipped": _NOT_NEGATIVE,
    "online_probe.learning_rate": (lambda value: value >= 0, "must be 0 (no online probe) or more"),
    "checkpoint.every_epochs": (lambda value: value >= 0, "must be 0 (only the last) or more"),
    "checkpoint.every_steps": (lambda value: value >= 0, "must be 0 (every_epochs counts) or more"),
    "checkpoint.keep": _POSITIVE,
    "log.every_steps": _POSITIVE,
}


@dataclasses.dataclass(frozen=True)
class Schedule:
    """The lengths of a run in steps, and its learning rate.

    Attributes:
      batch_size: images per step over all devices.
      validation_batch_size: the same for validation; smaller where there are fewer images. 0 = no validation.
      microbatches, validation_microbatches: parts that either passes the network in.
      steps_per_epoch, total_steps, warmup_steps: in steps.
      peak_learning_rate: the scaled rate that warm-up ends at.
      checkpoint_every: steps between two checkpoints; 0 = only the last step has one.
    """

    batch_size: int
    validation_batch_size: int
    microbatches: int
    validation_microbatches: int
    steps_per_epoch: int
    total_steps: int
    warmup_steps: int
    peak_learning_rate: float
    checkpoint_every: int

    def ends_epoch(self, step: int) -> bool:
        """Tells whether a step, counted from 1, is the last of its epoch."""
        return step % self.steps_per_epoch == 0

    def saves(self, step: int) -> bool:
        """Tells whether there is a checkpoint of a step, counted from 1."""
        return step == self.total_steps or (self.checkpoint_every > 0 and step % self.checkpoint_every == 0)


def check_key(key: str, known: Iterable[str]) -> None:
    """Raises ValueError unless a key is among the known ones; names the nearest."""
    if key not in known:
        near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
        raise ValueError(f"config.{key} is not a key" + (f"; did you mean config.{near[0]}?" if near else ""))


def check_keys(config: ConfigDict, known: ConfigDict) -> None:
    """Raises ValueError unless ``config`` has exactly the keys of ``known``; names the nearest known key."""
    have, want = flatten(config), flatten(known)
    for key in have:
        check_key(key, want)
    for key in want:
        if key not in have:
            raise ValueError(f"config.{key} is missing; configs/default.py has every key: start from it")
    for key, value in have.items():
        _check_type(key, value, want[key])


def check(config: ConfigDict) -> None:
    """Raises ValueError for a value that no data set and no machine could make right."""
    values = flatten(config)
    for key, (holds, rule) in _RULES.items():
        if not (math.isfinite(values[key]) and holds(values[key])):
            raise ValueError(f"config.{key}={values[key]} {rule}")
    for key, choices in _CHOICES.items():
        if values[key] not in choices:
            raise ValueError(f"config.{key}={values[key]!r} must be {' or '.join(choices)}")
    warmup, epochs = config.optimizer.warmup_epochs, config.train.epochs
    if warmup >= epochs:
        raise ValueError(f"config.optimizer.warmup_epochs={warmup} must be below config.train.epochs={epochs}")
    recipe(config)


def resolve(config: ConfigDict, *, num_train: int, num_validation: int, num_devices: int) -> Schedule:
    """Turns epochs into steps.

    Args:
      config: a checked config.
      num_train, num_validation: images.
      num_devices: over all processes.

    Raises:
      ValueError: the batch does not divide by the devices or the micro-batches, or is larger than the data set; or a
        chunk or a micro-batch is larger than the batch.
    """
    batch = config.train.batch_size
    if batch % num_devices:
        below, above = batch // num_devices * num_devices, -(-batch // num_devices) * num_devices
        nearest = f"{below} or {above}" if below else f"{above}"
        raise ValueError(f"train.batch_size={batch} is not divisible by {num_devices} devices; use {nearest}")
    if batch > num_train:
        largest = num_train // num_devices * num_devices
        raise ValueError(
            f"train.batch_size={batch} is larger than the {num_train} training images; use {largest} or less"
        )
    micro = _microbatch_size(config, num_devices)
    largest = batch // num_devices
    if config.loss.chunk_size > largest:
        raise ValueError(
            f"loss.chunk_size={config.loss.chunk_size} is larger than the {largest} images of a device; "
            f"use {largest} or less, or 0 to let the batch choose"
        )
    unit = micro if num_validation >= micro else num_devices  # fewer images than a micro-batch pass at once
    validation_batch = min(batch, num_validation // unit * unit)
    steps_per_epoch = num_train // batch
    optimizer = config.optimizer
    return Schedule(
        batch_size=batch,
        validation_batch_size=validation_batch,
        microbatches=batch // micro,
        validation_microbatches=max(1, validation_batch // micro),
        steps_per_epoch=steps_per_epoch,
        total_steps=steps_per_epoch * config.train.epochs,
        warmup_steps=round(optimizer.warmup_epochs * num_train / batch),
        peak_learning_rate=optim.scaled_learning_rate(
            optimizer.learning_rate, batch_size=batch, scaling=optimizer.scaling
        ),
        checkpoint_every=config.checkpoint.every_steps or config.checkpoint.every_epochs * steps_per_epoch,
    )


def check_chunk(config: ConfigDict, *, free_bytes: int) -> None:
    """Raises ValueError where a chunk of similarities that was asked for does not fit a device's free memory."""
    chunk, row = config.loss.chunk_size, 4 * 2 * config.train.batch_size
    if chunk * row > free_bytes:
        taken, free = (f"{size / 2**20:,.0f} MiB" for size in (chunk * row, free_bytes))
        raise ValueError(
            f"loss.chunk_size={chunk}: its similarities to all vectors take {taken}, and a device has {free} for them; "
            f"use {max(1, free_bytes // row)} or less, or 0 to let the batch choose"
        )


def _microbatch_size(config: ConfigDict, num_devices: int) -> int:
    """Returns the images that pass at once, over all devices; refuses what does not divide."""
    batch, micro = config.train.batch_size, config.train.microbatch_size or config.train.batch_size
    if batch % micro == 0 and micro % num_devices == 0:
        return micro
    right = [size for size in range(num_devices, batch + 1, num_devices) if batch % size == 0]
    near = [*[size for size in right if size < micro][-1:], *[size for size in right if size > micro][:1]]
    nearest = " or ".join(map(str, near))
    shared = f" and be divisible by {num_devices} devices" if num_devices > 1 else ""
    raise ValueError(
        f"train.microbatch_size={micro} must divide train.batch_size={batch}{shared}; use {nearest}, or 0 for one pass"
    )


def recipe(config: ConfigDict) -> Recipe:
    """Returns the views' recipe."""
    return Recipe(**{name: value for name, value in config.augment.items() if name != "placement"})


def model_arguments(config: ConfigDict) -> dict[str, Any]:
    """Returns the keyword arguments of :func:`simclr_jax.models.create_model`, but for the mapped axis."""
    names = ("encoder", "width", "cifar_stem", "norm", "dtype", "remat")
    return {name: config.model[name] for name in names} | {f"head_{name}": value for name, value in config.head.items()}


def split_arguments(data: ConfigDict, seed: int) -> dict[str, Any]:
    """Returns the keyword arguments that a data section gives to :class:`simclr_jax.data.sources.Splits`."""
    return {
        "train": data.train_split,
        "validation": data.validation_split,
        "test": data.test_split,
        "holdout_fraction": data.holdout_fraction,
        "limit": data.limit,
        "seed": seed,
    }


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Returns "key: old → new" for each key by which two configs give different results."""
    old, new = flatten(old), flatten(new)
    keys = [key for key in {**old, **new} if key not in NOT_MATHEMATICS]
    return [f"{key}: {old.get(key)} → {new.get(key)}" for key in keys if _plain(old.get(key)) != _plain(new.get(key))]


def extended_from(old: dict[str, Any], new: dict[str, Any]) -> int | None:
    """Returns the epochs of the old config where the new one asks for more of them and nothing else; None elsewhere."""
    before, now = flatten(old).get("train.epochs"), flatten(new)["train.epochs"]
    only = [line.split(":")[0] for line in differences(old, new)] == ["train.epochs"]
    return before if only and isinstance(before, int) and before < now else None


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """Returns {"section.key": value}."""
    if not isinstance(config, dict | ml_collections.ConfigDict):
        return {prefix: config}
    name = f"{prefix}." if prefix else ""
    return {key: value for child in config for key, value in flatten(config[child], f"{name}{child}").items()}


def _plain(value: Any) -> Any:
    """JSON has no tuples."""
    return list(value) if isinstance(value, tuple) else value


def _check_type(key: str, value: Any, example: Any) -> None:
    allowed = {float: (int, float), tuple: (tuple, list)}.get(type(example), type(example))
    if not isinstance(value, allowed) or (isinstance(value, bool) and not isinstance(example, bool)):
        raise ValueError(f"config.{key}={value!r} must be {type(example).__name__}, like {example!r}")
