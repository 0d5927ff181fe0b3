"""What --over asks for: keys and their values become a grid of variants, and the seeds of the runs."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from simclr_jax.commands.command_line import PREFIX, check_text
from simclr_jax.commands.comparison import Sweep, Variant, written
from simclr_jax.configs import default
from simclr_jax.runtime.config import check_type, check_value, flatten
from simclr_jax.runtime.differences import NOT_MATHEMATICS
from simclr_jax.runtime.key_names import check_key

MOST_RUNS = 1000
MEASURES = ("validation_top1", "top1_h", "top1_z", "contrastive_accuracy")
AS_CONFIGURED = "as configured"  # a variant that changes nothing
_EXAMPLE = "--over=loss.temperature=0.1,0.2,0.5"
_NOT_LEARNING = ("online_probe.", "checkpoint.", "log.")
_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}


def grid(over: Sequence[str], config: ConfigDict) -> tuple[Sweep, tuple[int, ...]]:
    """Returns every combination of the values as a variant, and the seeds; those of the config where none are given.

    The picture's axis is the first key with several numbers; each combination of the others is a line in it.

    Args:
      over: texts like "loss.temperature=0.1,0.2,0.5".
      config: what the runs have in common.

    Raises:
      ValueError: a key that there is not or that cannot be compared, a value of another type or out of its bounds, or
        given twice; or more than `MOST_RUNS` runs.
    """
    values: dict[str, tuple[Any, ...]] = {}
    for text in over:
        key, found = _parsed(text)
        if key in values:
            both = ",".join(map(written, dict.fromkeys((*values[key], *found))))
            raise ValueError(f"--over={key} is given twice; give its values together: --over={key}={both}")
        values[key] = found
    lengths = [len(found) for found in values.values()]
    if (runs := math.prod(lengths)) > MOST_RUNS:
        raise ValueError(
            f"--over asks for {runs:,} runs ({' × '.join(map(str, lengths))}), and at most {MOST_RUNS:,} are made; "
            "leave out values"
        )
    seeds = values.pop("seed", (config.seed,))
    several = [key for key, found in values.items() if len(found) > 1]
    axis = next((key for key in several if type(values[key][0]) in (int, float)), None)
    beside = [key for key in several if key != axis]
    variants = []
    for combination in itertools.product(*values.values()):
        settings = dict(zip(values, combination, strict=True))
        others = ", ".join(written(settings[key]) for key in beside)
        place = {"x": settings[axis], "line": others} if axis else {"tick": others}
        variants.append(Variant(in_words(settings) or AS_CONFIGURED, settings, **place))
    labels = {"x": axis, "lines": ", ".join(beside)} if axis else {"x": ", ".join(beside)}
    return Sweep(variants, MEASURES, **labels, keys=tuple(values)), seeds


def in_words(settings: Mapping[str, Any]) -> str:
    """Returns settings as text: "loss.temperature=0.1, head.dim=64"."""
    return ", ".join(f"{key}={written(value)}" for key, value in settings.items())


def _parsed(text: str) -> tuple[str, tuple[Any, ...]]:
    """Returns the key and the values of one --over."""
    known = flatten(default.get_config())
    key, _, listed = text.partition("=")
    key = key.strip().removeprefix(PREFIX)
    check_key(key, known)
    _check_comparable(key)
    if isinstance(known[key], tuple):
        raise ValueError(
            f"config.{key} cannot be swept: each of its values is a list, and commas separate values; start a sweep "
            f'for each, with its own --workdir: --config.{key}="{known[key]}"'
        )
    if not listed:
        raise ValueError(f"--over={text} has no values; write them behind the key: {_EXAMPLE}")
    values = tuple(_value(key, part.strip(), known[key]) for part in listed.split(","))
    if again := [value for value in values if values.count(value) > 1]:
        raise ValueError(f"--over={text} has {written(again[0])} twice; leave one out")
    return key, values


def _check_comparable(key: str) -> None:
    """Raises ValueError for a key whose values make no runs that can be compared."""
    if key.startswith("data."):
        raise ValueError(
            f"config.{key} cannot be swept: runs are compared on the same images; give all of them "
            f"--config.{key}=VALUE, or start a sweep for each value, with its own --workdir"
        )
    if key in NOT_MATHEMATICS or key.startswith(_NOT_LEARNING):
        raise ValueError(
            f"config.{key} cannot be swept: it does not change what the encoder learns, so the runs would be alike; "
            f"to set it for all of them: --config.{key}=VALUE"
        )


def _value(key: str, text: str, example: Any) -> Any:
    """Returns a text as a value of the example's type, within the bounds of its key."""
    value: Any = text
    try:
        value = _BOOLEANS[text.lower()] if isinstance(example, bool) else type(example)(text)
    except (ValueError, KeyError):
        check_text(f"{PREFIX}{key}", text, example)
    check_type(key, value, example)
    check_value(key, value)
    return value
