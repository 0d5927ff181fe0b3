"""From the user's config to plain numbers: checks every value, turns epochs into steps, names what a config changes.

ConfigDicts stop here and in the drivers; everything below takes explicit keyword arguments.
"""

import dataclasses
import difflib
from collections.abc import Iterable
from typing import Any

import ml_collections
from ml_collections import ConfigDict

from simclr_jax import bounds, optim
from simclr_jax.augment.recipe import Recipe
from simclr_jax.bounds import check_type, shown

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

# The largest values that make sense, with the reason; nothing is allocated before these have held.
_LARGEST = {
    "augment.image_size": (4096, "one view takes 192 MiB then"),
    "model.width": (16, "the papers' widest has 4"),
    "head.layers": (16, "the papers have 2 and 3"),
    "head.dim": (65_536, "the papers have 128"),
    "train.batch_size": (2**20, "the papers' largest is 8,192"),
    "train.epochs": (10**6, "the papers' most are 3,200"),
}

# The part of a run's config that its readers need: the network, the data and the seed that cut the hold-outs, each with
# an example of its type. A key under model or head that is not here would make another network.
_OF_A_RUN = {
    "seed": 0,
    "data.source": "",
    "data.dir": "",
    "data.train_split": "",
    "data.validation_split": "",
    "data.test_split": "",
    "data.holdout_fraction": 0.0,
    "data.limit": 0,
    "augment.image_size": 0,
    "model.encoder": "",
    "model.width": 0,
    "model.cifar_stem": False,
    "model.dtype": "",
    "model.norm": "",
    "model.global_batch_norm": False,
    "model.remat": False,
    "head.kind": "",
    "head.layers": 0,
    "head.dim": 0,
}
_NETWORK = ("model", "head")

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
    "augment.image_size": (lambda value: value >= 1, "must be a number of pixels, 1 or more"),
    "loss.temperature": (lambda value: value >= 1e-4, "must be above 0, at least 1e-4; 0.1 to 0.5 is usual"),
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
        check_type(key, value, want[key])


def check(config: ConfigDict) -> None:
    """Raises ValueError for a value that no data set and no machine could make right."""
    for key, value in flatten(config).items():
        check_value(key, value)
    warmup, epochs = config.optimizer.warmup_epochs, config.train.epochs
    if warmup >= epochs:
        raise ValueError(f"config.optimizer.warmup_epochs={warmup} must be below config.train.epochs={epochs}")
    recipe(config)


def check_value(key: str, value: Any) -> None:
    """Raises ValueError for a value that is out of its key's bounds; it is of the right type."""
    bounds.check_size(key, value)
    if key in _RULES and not _RULES[key][0](value):
        raise ValueError(f"config.{key}={value} {_RULES[key][1]}")
    if key in _LARGEST and value > _LARGEST[key][0]:
        raise ValueError(f"config.{key}={value} must be at most {_LARGEST[key][0]:,}: {_LARGEST[key][1]}")
    if key in _CHOICES and value not in _CHOICES[key]:
        raise ValueError(f"config.{key}={value!r} must be {' or '.join(_CHOICES[key])}")


def of_run(stored: Any, run: str) -> ConfigDict:
    """Returns the part of a run's config that its readers need: seed, data, image size, model and head.

    The file may come from anybody, so that it is read as data: keys that are needed must be there, of their types and
    within the bounds of :func:`check`.

    Args:
      stored: what RUN/config.json holds.
      run: RUN, for messages.

    Raises:
      ValueError: a key is missing, mistyped or out of bounds, or describes a network that this version does not know.
    """
    found = {}
    try:
        _check_network(stored)
        for key, example in _OF_A_RUN.items():
            section, _, name = key.rpartition(".")
            values = _section(stored, section)
            if name not in values:
                raise ValueError(f"config.{key} is missing")
            check_type(key, values[name], example)
            check_value(key, values[name])
            found.setdefault(section, {})[name] = values[name]
    except ValueError as error:
        raise ValueError(f"{run}: its config.json cannot be used: {error}") from error
    return ConfigDict(found.pop("") | found)


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
    if steps_per_epoch * config.train.epochs > bounds.LARGEST_WHOLE:
        most = bounds.LARGEST_WHOLE // steps_per_epoch
        raise ValueError(
            f"config.train.epochs={config.train.epochs} is too long to count its steps; use {most} or less"
        )
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
    return [
        f"{key}: {shown(old.get(key))} → {shown(new.get(key))}"
        for key in keys
        if _plain(old.get(key)) != _plain(new.get(key))
    ]


def extended_from(old: dict[str, Any], new: dict[str, Any]) -> int | None:
    """Returns the epochs of the old config where the new one asks for more of them and nothing else; None elsewhere."""
    before, now = flatten(old).get("train.epochs"), flatten(new)["train.epochs"]
    only = [line.split(":")[0] for line in differences(old, new)] == ["train.epochs"]
    return before if only and isinstance(before, int) and before < now else None


def flatten(config: Any) -> dict[str, Any]:
    """Returns {"section.key": value}. Goes no deeper by recursion: a config.json may be nested thousands deep."""
    found, left = {}, [("", config)]
    while left:
        key, value = left.pop()
        if isinstance(value, dict | ml_collections.ConfigDict):
            prefix = f"{key}." if key else ""
            left += [(f"{prefix}{child}", value[child]) for child in reversed(list(value))]
        else:
            found[key] = value
    return found


def _check_network(stored: Any) -> None:
    """Raises ValueError for a key that would make another network than this version can."""
    for section in _NETWORK:
        for name in _section(stored, section):
            if f"{section}.{name}" not in _OF_A_RUN:
                raise ValueError(f"config.{section} has the key {shown(name)}, which this version does not know")


def _section(stored: Any, name: str) -> dict[str, Any]:
    """Returns a section of what a file holds, or all of it for ""."""
    values = stored.get(name) if name and isinstance(stored, dict) else stored
    if not isinstance(values, dict):
        raise ValueError(f"config.{name} is missing" if name else "it is no JSON object")
    return values


def _plain(value: Any) -> Any:
    """JSON has no tuples."""
    return list(value) if isinstance(value, tuple) else value
