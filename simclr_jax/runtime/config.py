"""The user's values: which keys there are, what each may hold, what the sections of a config become.

A config may be somebody else's, or hold a zero too many: what a value must be is asked before anything is made of it.
What the keys of a network or a view's recipe may hold is declared in `models.network` and `augment.recipe`.
"""

import dataclasses
import math
import reprlib
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections
from ml_collections import ConfigDict

from simclr_jax.augment.recipe import Recipe
from simclr_jax.models import network as networks
from simclr_jax.models.network import Bound, Head, Network, at_most, one_of
from simclr_jax.runtime.key_names import check_key

INIT_FROM = "model.init_from"  # what a run's weights were first: in the section of the network, and not of it
LARGEST_WHOLE = 2**31 - 1  # steps, ids and seeds are int32 on the devices
LARGEST_REAL = 3e38  # float32 holds no more
LONGEST_TEXT = 4096  # characters; the longest path that Linux opens
MOST_VALUES = 64  # of a tuple

# Keys that are declared where they are used: their fields, with bounds and defaults.
DECLARED = networks.KEYS | {f"augment.{field.name}": field for field in dataclasses.fields(Recipe)}

_NOT_NEGATIVE = Bound(lambda value: value >= 0, "0 or more")
_POSITIVE = Bound(lambda value: value > 0, "above 0")
_BELOW_1 = Bound(lambda value: isinstance(value, int | float) and 0 <= value < 1, "0 or more and below 1")
_BOUNDS: dict[str, tuple[Bound, ...]] = {
    "seed": (_NOT_NEGATIVE,),
    "data.labels": (
        Bound(
            lambda value: value in ("", "folders", "none") or value[:4] == "csv:" != value, "folders, none or csv:FILE"
        ),
    ),
    "data.bits": (Bound(lambda value: value == 0 or 8 <= value <= 16, "0 (detect from the images) or 8 to 16"),),
    "data.channels": (networks.CHANNELS,),
    "data.show_bands": (
        Bound(
            lambda value: len(value) in (0, 1, 3) and all(type(band) is int and band >= 0 for band in value),
            "1 or 3 numbers of channels, counted from 0",
        ),
    ),
    "data.images": (Bound(lambda value: value >= 0, "0 (count the source's images) or a number of images"),),
    "data.cache": (one_of(("host", "device")),),
    "data.identity": (one_of(("name", "position")),),
    "data.max_corrupt_fraction": (Bound(lambda value: 0 <= value < 1, "0 (no image may be unreadable) to below 1"),),
    "augment.placement": (one_of(("host", "device")),),
    "augment.image_size": (
        Bound(lambda value: value >= 1, "a number of pixels, at least 1"),
        at_most(4096, "one such view takes 192 MiB"),
    ),
    "loss.temperature": (Bound(lambda value: value >= 1e-4, "above 0, at least 1e-4; 0.1 to 0.5 is usual"),),
    "loss.chunk_size": (Bound(lambda value: value >= 0, "0 (automatic) or more"),),
    "loss.gather": (one_of(("all", "ring")),),
    "optimizer.learning_rate": (_POSITIVE,),
    "optimizer.momentum": (_BELOW_1,),
    "optimizer.nesterov": (Bound(lambda value: value in ("", "yes", "no"), 'yes, no, or "" (as usual)'),),
    "optimizer.betas": (
        Bound(lambda both: len(both) == 2 and all(map(_BELOW_1.holds, both)), "two numbers, each 0 to below 1"),
    ),
    "optimizer.weight_decay": (_NOT_NEGATIVE,),
    "optimizer.exclude": (
        Bound(lambda value: all(map(str.strip, value.split(","))), "none, all_but_kernels or parts of paths"),
    ),
    "optimizer.layer_decay": (
        Bound(lambda value: 0 < value <= 1, "above 0 and at most 1 (off); 0.65 to 0.9 is usual"),
    ),
    "optimizer.warmup_epochs": (_NOT_NEGATIVE,),
    "train.batch_size": (
        Bound(lambda value: value >= 2, "at least 2: the negatives are the views of the other images"),
        at_most(2**20, "the largest in the papers is 8,192"),
    ),
    "train.epochs": (_POSITIVE, at_most(10**6, "the most in the papers is 3,200")),
    "train.microbatch_size": (Bound(lambda value: value >= 0, "0 (the whole batch at once) or more"),),
    "train.on_nonfinite": (one_of(("stop", "skip")),),
    "train.max_skipped": (_NOT_NEGATIVE,),
    "online_probe.learning_rate": (Bound(lambda value: value >= 0, "0 (no online probe) or more"),),
    "checkpoint.every_epochs": (Bound(lambda value: value >= 0, "0 (only the last) or more"),),
    "checkpoint.every_steps": (Bound(lambda value: value >= 0, "0 (every_epochs counts) or more"),),
    "checkpoint.keep": (_POSITIVE,),
    "log.every_steps": (_POSITIVE,),
    **{key: field.metadata.get("bounds", ()) for key, field in networks.KEYS.items()},
}

# The part of a run's config that its readers need: the network, the data and the seed that cut the hold-outs, each with
# an example of its type.
_OF_A_RUN = {
    "seed": 0,
    "data.source": "",
    "data.dir": "",
    "data.labels": "",
    "data.train_split": "",
    "data.validation_split": "",
    "data.test_split": "",
    "data.holdout_fraction": 0.0,
    "data.limit": 0,
    "data.identity": "",
    "data.channels": 3,
    "data.show_bands": (),
    "augment.image_size": 0,
    INIT_FROM: "",
    **{key: field.default for key, field in networks.KEYS.items()},
}

_OF_OLD_OPTIMIZERS = {"momentum": 0.9, "nesterov": "", "betas": (0.9, 0.999), "exclude": "all_but_kernels"}
# Keys that came later, at what runs did before them: a config.json without them is read as if it had these.
CAME_LATER = {
    "data.identity": "position",
    "data.labels": "folders",
    "data.bits": 0,  # what such a run then did is told by `run_folder.read_bits`
    "data.images": 0,
    "data.channels": 3,
    "data.show_bands": (),
    "loss.name": "nt_xent",
    INIT_FROM: "",
    "optimizer.layer_decay": 1.0,
    **{f"optimizer.{name}": value for name, value in _OF_OLD_OPTIMIZERS.items()},
    "log.to": "tensorboard",
    **{key: field.metadata["before"] for key, field in DECLARED.items() if "before" in field.metadata},
}

# What else a reader needs that makes views as the run did, and compares them as its loss did.
_OF_ITS_VIEWS = {
    **{key: field.default for key, field in DECLARED.items() if key not in _OF_A_RUN},
    "augment.placement": "",
    "loss.name": "",
    "loss.temperature": 0.0,
    "train.batch_size": 0,
}

_repr = reprlib.Repr()
_repr.maxstring = _repr.maxother = _repr.maxlong = 120


def recipe_of(config: ConfigDict) -> Recipe:
    """Returns the recipe of a config's views; raises ValueError for a value that is out of its range.

    Of images without colours it may not change these.
    """
    recipe = Recipe(**{name: value for name, value in config.augment.items() if name != "placement"})
    recipe.check_channels(config.data.channels)
    return recipe


def bands_of(data: ConfigDict) -> tuple[int, ...]:
    """Returns which channels pictures show, three or one; raises ValueError for one that there is not."""
    shown_bands = tuple(data.show_bands) or ((0, 1, 2) if data.channels > 2 else (0,))
    if max(shown_bands) >= data.channels:
        raise ValueError(
            f"config.data.show_bands={shown_bands}, and data.channels={data.channels}: the highest is "
            f"{data.channels - 1}, since they are counted from 0"
        )
    return shown_bands


def network_of(config: ConfigDict) -> Network:
    """Returns the network that a config describes; raises ValueError for a value or an image size that does not fit."""
    keys = {name: value for name, value in config.model.items() if f"model.{name}" != INIT_FROM}
    network = Network(**keys, head=Head(**config.head), channels=config.data.channels)
    network.check_image_size(config.augment.image_size)
    return network


def normalization_is_to_be_found(config: ConfigDict) -> bool:
    """Whether images are normalised by the training images' own mean and deviation, and these are not known yet."""
    return config.model.normalize == "data" and not config.model.mean


def with_normalization(config: ConfigDict, mean: Sequence[float], deviation: Sequence[float]) -> ConfigDict:
    """Returns a config with these numbers, one a channel; raises ValueError where they are none."""
    return with_values(config, {"model.mean": tuple(mean), "model.deviation": tuple(deviation)})


def source_arguments(data: ConfigDict) -> dict[str, Any]:
    """Returns the keyword arguments that a data section gives to :func:`simclr_jax.data.sources.open_source`."""
    splits = (data.train_split, data.validation_split, data.test_split)
    return {"directory": data.dir, "labels": data.labels, "splits": splits, "channels": data.channels}


def split_arguments(data: ConfigDict, seed: int) -> dict[str, Any]:
    """Returns the keyword arguments that a data section gives to :class:`simclr_jax.data.sources.Splits`."""
    return {
        "train": data.train_split,
        "validation": data.validation_split,
        "test": data.test_split,
        "holdout_fraction": data.holdout_fraction,
        "limit": data.limit,
        "identity": data.identity,
        "seed": seed,
    }


def with_values(config: ConfigDict, values: Mapping[str, Any]) -> ConfigDict:
    """Returns a config with other values of some keys.

    Args:
      config: is left as it is.
      values: {"section.key": value}; whole numbers may stand for real ones, and lists for tuples.

    Raises:
      ValueError: a key that there is not, naming the nearest, or a value of another type or out of its bounds.
    """
    changed, known = config.copy_and_resolve_references(), flatten(config)
    for key, value in values.items():
        check_key(key, known)
        check_type(key, value, known[key])
        check_value(key, value)
        kind = type(known[key])
        changed.update_from_flattened_dict({key: kind(value) if kind in (float, tuple) else value})
    return changed


def check_keys(config: ConfigDict, known: ConfigDict) -> None:
    """Raises ValueError unless ``config`` has exactly the keys of ``known``; names the nearest known key."""
    have, want = flatten(config), flatten(known)
    for key in have:
        check_key(key, want)
    for key in want:
        if key not in have:
            raise ValueError(
                f"config.{key} is missing; start from `from simclr_jax.configs import default`: it defines every key"
            )
    for key, value in have.items():
        check_type(key, value, want[key])


def check_type(key: str, value: Any, example: Any) -> None:
    """Raises ValueError unless a key's value is of the type of an example; whole numbers may stand for real ones."""
    allowed = {float: (int, float), tuple: (tuple, list)}.get(type(example), type(example))
    if not isinstance(value, allowed) or (isinstance(value, bool) and not isinstance(example, bool)):
        like = f"{type(example).__name__}, like {example!r}"
        words = next((bound.words for bound in _BOUNDS.get(key, ()) if example == ""), like)
        raise ValueError(f"config.{key}={shown(value)} must be {words}")


def check_value(key: str, value: Any) -> None:
    """Raises ValueError for a value of the right type that is out of its key's bounds, or that no key may hold.

    No number may be infinite or more than 32 bits hold, no text longer than a path.
    """
    _check_size(key, value)
    for bound in _BOUNDS.get(key, ()):
        if not bound.holds(value):
            raise ValueError(f"config.{key}={value!r} must be {bound.words}")


def _check_size(key: str, value: Any) -> None:
    if isinstance(value, str):
        good, rule = (
            len(value) <= LONGEST_TEXT and "\0" not in value,
            f"at most {LONGEST_TEXT:,} characters, without NUL",
        )
    elif isinstance(value, tuple | list):
        good, rule = len(value) <= MOST_VALUES, f"up to {MOST_VALUES} values"
    elif not isinstance(value, int | float):
        good, rule = False, "a number, a text or a list of them"
    elif isinstance(value, int):
        good, rule = abs(value) <= LARGEST_WHOLE, f"up to {LARGEST_WHOLE:,}"
    else:
        good, rule = math.isfinite(value) and abs(value) <= LARGEST_REAL, f"finite, and up to {LARGEST_REAL:g}"
    if not good:
        raise ValueError(f"config.{key}={shown(value)} must be {rule}")
    for part in value if isinstance(value, tuple | list) else ():
        _check_size(key, part)


def shown(value: Any) -> str:
    """Returns a value as text that is short and in one line, whatever it is."""
    return _repr.repr(value)


def run_config(stored: Any, run: str, *, views: bool = False) -> ConfigDict:
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
        # A key that this version does not know would make another network.
        for section in ("model", "head"):
            for name in _section(stored, section):
                if f"{section}.{name}" not in {*networks.KEYS, INIT_FROM}:
                    raise ValueError(f"config.{section} has the key {shown(name)}, which this version does not know")
        for key, example in (_OF_A_RUN | (_OF_ITS_VIEWS if views else {})).items():
            section, _, name = key.rpartition(".")
            values = _section(stored, section)
            if name not in values and key not in CAME_LATER:
                raise ValueError(f"config.{key} is missing")
            value = values.get(name, CAME_LATER.get(key))
            if key == "data.labels" and name not in values and not found["data"]["source"].startswith("folder:"):
                value = ""  # which folders there are is a question of files alone
            check_type(key, value, example)
            check_value(key, value)
            found.setdefault(section, {})[name] = value
    except ValueError as error:
        raise ValueError(f"{run}: its config.json cannot be used: {error}") from error
    return ConfigDict(found.pop("") | found)


def whole_config(stored: dict[str, Any], known: ConfigDict, run: str) -> ConfigDict:
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


def _section(stored: Any, name: str) -> dict[str, Any]:
    """Returns a section of what a file holds, or all of it for ""."""
    values = stored.get(name) if name and isinstance(stored, dict) else stored
    if not isinstance(values, dict):
        raise ValueError(f"config.{name} is missing" if name else "it is not a JSON object")
    return values
