"""How large a value of a config may be, and how it is shown. A config may be somebody else's, or hold a zero too many.

What a single key may hold belongs to :mod:`simclr_jax.runtime.config`.
"""

import math
import reprlib
from typing import Any

LARGEST_WHOLE = 2**31 - 1  # steps, ids and seeds are int32 on the devices
LARGEST_REAL = 3e38  # float32 holds no more
LONGEST_TEXT = 4096  # characters; the longest path that Linux opens
MOST_VALUES = 64  # of a tuple

_repr = reprlib.Repr()
_repr.maxstring = _repr.maxother = _repr.maxlong = 120


def shown(value: Any) -> str:
    """Returns a value as text that is short and in one line, whatever it is."""
    return _repr.repr(value)


def check_type(key: str, value: Any, example: Any) -> None:
    """Raises ValueError unless a key's value is of the type of an example; whole numbers may stand for real ones."""
    allowed = {float: (int, float), tuple: (tuple, list)}.get(type(example), type(example))
    if not isinstance(value, allowed) or (isinstance(value, bool) and not isinstance(example, bool)):
        raise ValueError(f"config.{key}={shown(value)} must be {type(example).__name__}, like {example!r}")


def check_size(key: str, value: Any) -> None:
    """Raises ValueError for a number that is not finite or that 32 bits do not hold, and for a text that is no path."""
    if isinstance(value, str):
        good, rule = (
            len(value) <= LONGEST_TEXT and "\0" not in value,
            f"up to {LONGEST_TEXT:,} characters, none of them NUL",
        )
    elif isinstance(value, tuple | list):
        good, rule = len(value) <= MOST_VALUES, f"up to {MOST_VALUES} values"
    elif not isinstance(value, int | float):
        good, rule = False, "a number, a text or several of them"
    elif isinstance(value, int):
        good, rule = abs(value) <= LARGEST_WHOLE, f"up to {LARGEST_WHOLE:,}"
    else:
        good, rule = math.isfinite(value) and abs(value) <= LARGEST_REAL, f"finite, and up to {LARGEST_REAL:g}"
    if not good:
        raise ValueError(f"config.{key}={shown(value)} must be {rule}")
    for part in value if isinstance(value, tuple | list) else ():
        check_size(key, part)
