"""What went wrong, told in one line with its mend; a fault of the program itself keeps its traceback."""

import contextlib
import errno
import re
import sys
import traceback
from collections.abc import Iterator
from typing import NoReturn

import jax

from simclr_jax.runtime import console

ONE_LINE = (ValueError, ArithmeticError, OSError)  # whose message is the line
_LONGEST_LINE = 2000  # characters of an error; a value that it shows may be of any length
_LONGEST_REASON = 300  # characters of what jax says, which may go on for pages
_NO_MEMORY = re.compile("RESOURCE_EXHAUSTED|out[ _]of[ _]memory", re.IGNORECASE)


class NoMemory(MemoryError):
    """Memory ran out; the message is one line and says what needs less."""


class DeviceFailure(RuntimeError):
    """jax or one of its devices failed; the message is one line."""


def stop(error: Exception) -> NoReturn:
    """Ends the program with an error's message in one line, and exit code 1; with ``--verbose`` after its traceback.

    Raises:
      Exception: the error itself if memory has run out, for which `told` has a better message.
    """
    if is_out_of_memory(error) and not isinstance(error, NoMemory):
        raise error
    if console.shows(console.Level.DETAILS):
        traceback.print_exception(error)
    line = " ".join(str(error).split())
    if len(line) > _LONGEST_LINE:
        line = f"{line[: _LONGEST_LINE // 2]} … {line[-_LONGEST_LINE // 2 :]}"
    # File names and configs may be anybody's, and a terminal would obey what they hold of control characters.
    line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)
    console.event("error", console.Level.RESULTS, text=line, exit_code=1)
    sys.exit(f"error: {line}")


@contextlib.contextmanager
def in_one_line(mend: str, *, where: str = "") -> Iterator[None]:
    """Turns what is raised inside, where memory runs out or jax fails, into an error whose message is one line.

    Args:
      mend: what takes less memory.
      where: appended to what jax says, if it fails: how to see more.

    Raises:
      NoMemory: memory ran out.
      DeviceFailure: jax or one of its devices failed.
    """
    try:
        yield
    except Exception as error:
        if is_out_of_memory(error):
            raise NoMemory(f"out of memory: {_reason(error)}; {mend}") from error
        if isinstance(error, jax.errors.JaxRuntimeError):
            raise DeviceFailure(f"jax: {_reason(error)}{where}") from error
        raise


@contextlib.contextmanager
def told(mend: str) -> Iterator[None]:
    """Ends the program in one line where memory runs out, or jax or its devices fail, inside of this.

    Args:
      mend: what takes less memory.
    """
    try:
        with in_one_line(mend, where="; --verbose shows where"):
            yield
    except (NoMemory, DeviceFailure) as error:
        stop(error)


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error, of Python, jax or TensorFlow, says that there is no memory left."""
    of_system = isinstance(error, OSError) and error.errno == errno.ENOMEM
    of_jax = isinstance(error, jax.errors.JaxRuntimeError) and _NO_MEMORY.search(str(error))
    of_tensorflow = type(error).__name__ == "ResourceExhaustedError"  # by name: it may not be installed
    return isinstance(error, MemoryError) or of_system or bool(of_jax) or of_tensorflow


def _reason(error: Exception) -> str:
    """What an error says first."""
    line = (str(error).strip() or type(error).__name__).splitlines()[0].removeprefix("RESOURCE_EXHAUSTED: ")
    line = line.removesuffix(".")
    return line if len(line) <= _LONGEST_REASON else f"{line[:_LONGEST_REASON]} …"
