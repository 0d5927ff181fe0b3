"""Functions of a user's own that a config names: losses, optimizers and the like. One rule for their names.

The one file of this room that any other may import: it imports nothing of ours.
"""

import difflib
import re
from collections.abc import Callable, Collection
from typing import Any, Generic, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])


class Registry(Generic[Function]):
    """What users registered of one kind, by name.

    Args:
      kind: "loss", "view function"; `simclr_jax.register_KIND` registers one.
      key: the config key that names one, for messages.
      taken: names of this library's own.
      argument: what a call of `simclr_jax.register_KIND` passes beside the name, for messages.
      signature: how a function of the kind is called, for messages.

    Attributes:
      own: name → function, of what was registered.
    """

    def __init__(self, kind: str, *, key: str, taken: Collection[str] = (), argument: str, signature: str):
        self._kind, self._key, self._taken = kind, key, taken
        self._argument, self._signature = argument, signature
        self.own: dict[str, Function] = {}

    def register(self, name: str, function: Function) -> None:
        """Gives a function a name. One that was defined anew, as by a notebook's cell run again, replaces the first.

        Raises:
          ValueError: the name is no word, one of this library's, or that of another function; or the function cannot be
            called.
        """
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", name):
            raise ValueError(
                f"{self._kind} {name!r}: a name has letters, digits, _ and - alone, and begins with a letter"
            )
        if name in self._taken:
            raise ValueError(
                f"{self._kind} {name!r} is one of this library; give yours another name, such as 'my_{name}'"
            )
        if not callable(function):
            raise ValueError(
                f"{self._kind} {name!r} must be a function {self._signature}, not a {type(function).__name__}"
            )
        if name in self.own and _definition(self.own[name]) != _definition(function):
            raise ValueError(f"{self._kind} {name!r} is registered already, as another function; choose another name")
        self.own[name] = function

    def check(self, name: str) -> None:
        """Raises ValueError unless the name is one of this library's or registered; tells the nearest and the mend."""
        known = (*self._taken, *self.own)
        if name in known:
            return
        call = f"simclr_jax.register_{self._kind.replace(' ', '_')}({name!r}, {self._argument})"
        register = f"register your own first: {call}, or on the command line --import=FILE.py"
        if near := difflib.get_close_matches(name.lower(), known, n=1):
            raise ValueError(
                f"{self._key} {name!r} is not one of {', '.join(known)}; did you mean {near[0]}? Or {register}"
            )
        others = f"; else choose one of {', '.join(known)}" if known else ""
        raise ValueError(f"{self._key} {name!r} is not registered; {register}{others}")


def _definition(function: Any) -> Any:
    """Where a function is defined, which a cell that is run again does not change; of what has no name, itself."""
    name = getattr(function, "__qualname__", None)
    return (function.__module__, name) if name else id(function)
