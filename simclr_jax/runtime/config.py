"""The config's keys: which there are, what each may hold, and what it means that one has changed.

How keys together make a run belongs to :mod:`simclr_jax.schedule`.
"""

import dataclasses
import difflib
from collections.abc import Iterable
from typing import Any

import ml_collections
from ml_collections import ConfigDict

from simclr_jax.augment.recipe import Recipe
from simclr_jax.runtime import bounds
from simclr_jax.runtime.bounds import check_type, shown

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
    "model.sk_ratio": 0.0,
    "model.se_ratio": 0.0,
    "model.pool": "",
    "model.normalize": "",
    "model.dtype": "",
    "model.norm": "",
    "model.global_batch_norm": False,
    "model.remat": False,
    "head.kind": "",
    "head.layers": 0,
    "head.dim": 0,
}
_NETWORK = ("model", "head")

# Keys that came later, at what runs did before them: a config.json without them is read as if it had these.
_CAME_LATER = {"model.sk_ratio": 0.0, "model.se_ratio": 0.0, "model.pool": "same", "model.normalize": "none"}

# What else a reader needs that makes views as the run did, and compares them as its loss did.
_OF_ITS_VIEWS = {
    **{f"augment.{field.name}": field.default for field in dataclasses.fields(Recipe) if field.name != "image_size"},
    "augment.placement": "",
    "loss.temperature": 0.0,
    "train.batch_size": 0,
}

_NOT_NEGATIVE = (lambda value: value >= 0, "must be 0 or more")
_POSITIVE = (lambda value: value > 0, "must be above 0")
_RATIO = (lambda value: 0 <= value <= 1, "must be 0 (off) to 1; 0.0625 is usual")
_CHOICES = {
    "augment.placement": ("host", "device"),
    "data.cache": ("host", "device"),
    "model.pool": ("same", "symmetric"),
    "model.normalize": ("none", "imagenet", "cifar10"),
    "model.norm": ("batch", "group"),
    "loss.gather": ("all", "ring"),
    "train.on_nonfinite": ("stop", "skip"),
}
_RULES = {
    "seed": _NOT_NEGATIVE,
    "data.max_corrupt_fraction": (lambda value: 0 <= value < 1, "must be 0 (no image may be unreadable) to below 1"),
    "augment.image_size": (lambda value: value >= 1, "must be a number of pixels, 1 or more"),
    "model.sk_ratio": _RATIO,
    "model.se_ratio": _RATIO,
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


def check_value(key: str, value: Any) -> None:
    """Raises ValueError for a value that is out of its key's bounds; it is of the right type."""
    bounds.check_size(key, value)
    if key in _RULES and not _RULES[key][0](value):
        raise ValueError(f"config.{key}={value} {_RULES[key][1]}")
    if key in _LARGEST and value > _LARGEST[key][0]:
        raise ValueError(f"config.{key}={value} must be at most {_LARGEST[key][0]:,}: {_LARGEST[key][1]}")
    if key in _CHOICES and value not in _CHOICES[key]:
        raise ValueError(f"config.{key}={value!r} must be {' or '.join(_CHOICES[key])}")


def of_run(stored: Any, run: str, *, views: bool = False) -> ConfigDict:
    """Returns the part of a run's config that its readers need: seed, data, image size, model and head.

    The file may come from anybody, so that it is read as data: keys that are needed must be there, of their types and
    within the bounds of :func:`check_value`. Those that came later than the file have the value that changes nothing.

    Args:
      stored: what RUN/config.json holds.
      run: RUN, for messages.
      views: with the keys of its views, its batch size and its temperature.

    Raises:
      ValueError: a key is missing, mistyped or out of bounds, or describes a network that this version does not know.
    """
    found = {}
    try:
        _check_network(stored)
        for key, example in (_OF_A_RUN | (_OF_ITS_VIEWS if views else {})).items():
            section, _, name = key.rpartition(".")
            values = _section(stored, section)
            if name not in values and key not in _CAME_LATER:
                raise ValueError(f"config.{key} is missing")
            value = values.get(name, _CAME_LATER.get(key))
            check_type(key, value, example)
            check_value(key, value)
            found.setdefault(section, {})[name] = value
    except ValueError as error:
        raise ValueError(f"{run}: its config.json cannot be used: {error}") from error
    return ConfigDict(found.pop("") | found)


def completed(stored: dict[str, Any], known: ConfigDict, run: str) -> ConfigDict:
    """Returns a run's whole config; keys that came after it have the values of ``known``.

    Raises:
      ValueError: RUN/config.json has keys that ``known`` has not, or values of another type.
    """
    config = known.copy_and_resolve_references()
    try:
        for key, value in flatten(stored).items():
            check_key(key, flatten(known))
            check_type(key, value, flatten(known)[key])
            config.update_from_flattened_dict({key: value})
    except ValueError as error:
        raise ValueError(f"{run}: its config.json cannot be used: {error}") from error
    return config


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Returns "key: old → new" for each key by which two configs give different results."""
    old, new = _CAME_LATER | flatten(old), _CAME_LATER | flatten(new)
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
