"""What went wrong, told in one line with its mend; a fault of the program itself keeps its traceback."""

import contextlib
import errno
import re
import sys
from collections.abc import Iterator
from typing import NoReturn

import jax
from absl import logging

from simclr_jax.runtime import console

ONE_LINE = (ValueError, ArithmeticError, OSError)  # whose message is the line
_LONGEST_LINE = 2000  # characters of an error; a value that it shows may be of any length
_LONGEST_REASON = 300  # characters of what jax says, which may go on for pages
_NO_MEMORY = re.compile("RESOURCE_EXHAUSTED|out[ _]of[ _]memory", re.IGNORECASE)


def stop(error: Exception) -> NoReturn:
    """Ends the program with an error's message in one line, and exit code 1.

    Raises:
      Exception: the error itself where memory has run out, which `told` knows more about.
    """
    if is_out_of_memory(error):
        raise error
    logging.debug("", exc_info=error)
    line = " ".join(str(error).split())
    if len(line) > _LONGEST_LINE:
        line = f"{line[: _LONGEST_LINE // 2]} … {line[-_LONGEST_LINE // 2 :]}"
    # File names and configs may be anybody's, and a terminal would obey what they hold of control characters.
    line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)
    console.event("error", console.Level.RESULTS, text=line, exit_code=1)
    sys.exit(f"error: {line}")


@contextlib.contextmanager
def told(mend: str) -> Iterator[None]:
    """Ends the program in one line where memory runs out, or jax or its devices fail, inside of this.

    Args:
      mend: what takes less memory.
    """
    try:
        yield
    except Exception as error:
        if is_out_of_memory(error):
            logging.debug("", exc_info=error)
            stop(ValueError(f"out of memory: {_reason(error)}; {mend}"))
        if isinstance(error, jax.errors.JaxRuntimeError):
            logging.debug("", exc_info=error)
            stop(ValueError(f"jax: {_reason(error)}; --verbose shows where"))
        raise


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
