"""The screen: progress bars, and lines beside them."""

import sys
from collections.abc import Iterable

from tqdm import tqdm

_LONG_SILENCE = 30.0  # seconds between two lines of a progress bar that goes to a file


def progress(iterable: Iterable | None = None, **options) -> tqdm:
    """Returns a progress bar; one that goes to a file instead of a screen prints a line now and then."""
    interval = 0.2 if sys.stderr.isatty() else _LONG_SILENCE
    return tqdm(iterable, mininterval=interval, dynamic_ncols=True, **options)


def say(text: str) -> None:
    """Prints a line without tearing a progress bar."""
    tqdm.write(text)
    sys.stdout.flush()
