"""The screen: progress bars, and lines beside them."""

import contextlib
import sys
import threading
from collections.abc import Iterable, Iterator

from tqdm import tqdm

_LONG_SILENCE = 30.0  # seconds between two lines of a progress bar that goes to a file


def progress(iterable: Iterable | None = None, **options) -> tqdm:
    """Returns a progress bar; one that goes to a file instead of a screen is a line now and then, and a last one."""
    if sys.stderr.isatty():
        return tqdm(iterable, mininterval=0.2, dynamic_ncols=True, **options)
    bar = tqdm(iterable, mininterval=_LONG_SILENCE, file=_Lines(), delay=_LONG_SILENCE, **options)
    bar.delay = 0  # it kept tqdm from a line at the very start; now it would keep a short bar from its last one
    return bar


class _Lines:
    """Standard error, where it is a file: what tqdm would draw anew at the same place is a line each time."""

    def write(self, text: str) -> None:
        """Writes what a bar shows; tqdm's carriage returns, and spaces over what was longer, are left out."""
        if text.strip():
            sys.stderr.write(text.strip() + "\n")

    def flush(self) -> None:
        """Makes sure that it is in the file."""
        sys.stderr.flush()


def say(text: str) -> None:
    """Prints a line without tearing a progress bar."""
    tqdm.write(text)
    sys.stdout.flush()


@contextlib.contextmanager
def waiting(what: str) -> Iterator[None]:
    """Shows for how long something has taken that cannot tell how far it is; one line of it goes to a file."""
    if not sys.stderr.isatty():
        print(f"{what} …", file=sys.stderr, flush=True)
        yield
        return
    ended = threading.Event()

    def show() -> None:
        with progress(bar_format="{desc} … {elapsed}", desc=what, leave=False) as bar:
            while not ended.wait(1.0):
                bar.refresh()

    thread = threading.Thread(target=show, daemon=True)
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
