"""The screen: lines, results and progress bars, as much of them as was asked for."""

import contextlib
import contextvars
import dataclasses
import enum
import json
import math
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from tqdm import tqdm

_LONG_SILENCE = 30.0  # seconds between two lines of a progress bar that goes to a file


class Level(enum.IntEnum):
    """How much is shown: each level shows what those above it show, and more."""

    NOTHING = 0
    RESULTS = 1
    MESSAGES = 2  # and progress bars
    DETAILS = 3


@dataclasses.dataclass(frozen=True)
class Console:
    """What is shown, and how.

    Attributes:
      level: how much.
      as_json: one JSON object a line on stdout, {"event": "message", "result", "metrics", "progress" or "error", …},
        in the place of text and bars.
    """

    level: Level = Level.MESSAGES
    as_json: bool = False


_SCREEN = Console()
_CONSOLE = contextvars.ContextVar("console", default=_SCREEN)


def use(console: Console) -> contextvars.Token:
    """Makes a console that of this context and of those that are copied from it."""
    return _CONSOLE.set(console)


@contextlib.contextmanager
def using(console: Console) -> Iterator[None]:
    """Makes a console that of what is done inside."""
    token = use(console)
    try:
        yield
    finally:
        _CONSOLE.reset(token)


def shows(level: Level) -> bool:
    """Whether as much as this is shown."""
    return _CONSOLE.get().level >= level


def say(text: str) -> None:
    """Prints a line of what happens, without tearing a progress bar."""
    _print(text, Level.MESSAGES)


def detail(text: str) -> None:
    """Prints a line that few want to read."""
    _print(text, Level.DETAILS)


def show(text: str) -> None:
    """Prints a result for people. Programs read it from `result`."""
    if not _CONSOLE.get().as_json:
        _print(text, Level.RESULTS)


def result(name: str, values: Mapping[str, Any]) -> None:
    """Prints a result for programs, where they are to read it. People read it from `show`."""
    event("result", Level.RESULTS, name=name, **values)


def event(kind: str, level: Level = Level.MESSAGES, **values: Any) -> None:
    """Prints an event as JSON; nothing where text is shown. JSON has no NaN: what is not finite is null."""
    if _CONSOLE.get().as_json and shows(level):
        sys.stdout.write(json.dumps({"event": kind, **_plain(values)}, default=str) + "\n")
        sys.stdout.flush()


def progress(iterable: Iterable | None = None, **options) -> tqdm:
    """Returns a progress bar; one that goes to a file instead of a screen is a line now and then, and a last one."""
    if not shows(Level.MESSAGES):
        return tqdm(iterable, disable=True, **options)
    if _CONSOLE.get().as_json:
        return _Events(iterable, mininterval=_LONG_SILENCE, file=_Nowhere(), **options)
    if _is_screen():
        return tqdm(iterable, mininterval=0.2, dynamic_ncols=True, **options)
    bar = tqdm(iterable, mininterval=_LONG_SILENCE, file=_Lines(), delay=_LONG_SILENCE, **options)
    bar.delay = 0  # it kept tqdm from a line at the very start; now it would keep a short bar from its last one
    return bar


@contextlib.contextmanager
def waiting(what: str) -> Iterator[None]:
    """Shows for how long something has taken that cannot tell how far it is; one line of it goes to a file."""
    drawn = shows(Level.MESSAGES) and not _CONSOLE.get().as_json
    if not (drawn and _is_screen()):
        event("message", text=f"{what} …")
        if drawn:
            print(f"{what} …", file=sys.stderr, flush=True)
        yield
        return
    ended = threading.Event()

    def show() -> None:
        with progress(bar_format="{desc} … {elapsed}", desc=what, leave=False) as bar:
            while not ended.wait(1.0):
                bar.refresh()

    thread = threading.Thread(target=contextvars.copy_context().run, args=(show,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def duration(seconds: float) -> str:
    """Returns seconds in the two largest units that they have: "3 h 20 min"."""
    whole = max(1, round(seconds))
    days, hours, minutes = whole // 86400, whole // 3600, whole // 60
    if days:
        return f"{days} d {hours % 24} h"
    if hours:
        return f"{hours} h {minutes % 60} min"
    return f"{minutes} min {whole % 60} s" if minutes else f"{whole} s"


class _Lines:
    """Standard error, where it is a file: what tqdm would draw anew at the same place is a line each time."""

    def write(self, text: str) -> None:
        """Writes what a bar shows; tqdm's carriage returns, and spaces over what was longer, are left out."""
        if text.strip():
            sys.stderr.write(text.strip() + "\n")

    def flush(self) -> None:
        """Makes sure that it is in the file."""
        sys.stderr.flush()


class _Nowhere:
    """Takes what tqdm would draw."""

    def write(self, text: str) -> None:
        """Does nothing."""

    def flush(self) -> None:
        """Does nothing."""


class _Events(tqdm):
    """A progress bar that is an event now and then, and a last one."""

    def display(self, msg: str | None = None, pos: int | None = None) -> bool:
        """Prints how far it is."""
        if self.n:
            seconds = round(self.format_dict["elapsed"], 3)
            event("progress", what=self.desc.removesuffix(": "), done=self.n, of=self.total, seconds=seconds)
        return True


def _print(text: str, level: Level) -> None:
    if _CONSOLE.get().as_json:
        event("message", level, text=text.strip())
    elif shows(level):
        tqdm.write(text)
        sys.stdout.flush()


def _is_screen() -> bool:
    """Whether what stderr shows may be drawn over: a terminal, or a notebook's cell."""
    return sys.stderr.isatty() or "ipykernel" in type(sys.stderr).__module__


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(child) for name, child in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(child) for child in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
