"""Settings of the whole process. A program makes them before it imports anything else, the library never.

This file imports nothing but Python's own, so that what is imported after it finds the settings made.
"""

import io
import os
import select
import sys
from logging import LogRecord, getLogger


def settle_process() -> None:
    """Makes the settings of the whole process; a second call changes nothing more.

    jax and TensorFlow read the environment when they are imported, and jax sets a log level of its own there; absl
    keeps the stderr that it finds. TensorFlow's notes on the machine and on each damaged JPEG are noise beside the one
    line that tells a failure, and without oneDNN its arithmetic does not depend on the processor. TFDS uses what
    TensorFlow calls deprecated, line after line. Where there is no GPU and NVIDIA's compiler is installed for plans,
    jax would print a traceback at each start.
    """
    from simclr_jax.data import process

    _keep_printing()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    getLogger("tensorflow").setLevel("ERROR")
    if not any(map(os.path.exists, _NVIDIA)):
        getLogger("jax._src.xla_bridge").addFilter(_tells_no_missing_driver)
    process.own()


_NVIDIA = ("/dev/nvidiactl", "/dev/dxg")  # what a driver of NVIDIA's makes, on Linux and in its Windows


def _tells_no_missing_driver(record: LogRecord) -> bool:
    return "plugin configuration error" not in record.getMessage()


class _Lasting(io.FileIO):
    """A program's output, which never ends it: what nobody reads any more, or a full disk does not take, is left out.

    A run of days may have begun in a terminal that is closed, in ``| head``, or with its log on another disk.
    """

    def write(self, data: bytes) -> int:
        """Writes what it can, and returns how much of it need not be written again."""
        try:
            while (written := super().write(data)) is None:  # a pipe that does not block, and is full now
                select.select([], [self], [])
        except OSError:
            return len(data)
        return written


def _keep_printing() -> None:
    """Makes stdout and stderr take any text, for ever.

    A character that they cannot show, as × in ASCII or half of a file name in another encoding, is shown as its code.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # closed, as by >&-: else the next file that is opened would get what is printed
            os.open(os.devnull, os.O_RDWR)
    for number, name in ((1, "stdout"), (2, "stderr")):
        stream = getattr(sys, name)
        if stream is not getattr(sys, f"__{name}__"):  # somebody else's, who has put it there
            continue
        kept = io.TextIOWrapper(
            io.BufferedWriter(_Lasting(number, "w", closefd=False)),
            encoding=getattr(stream, "encoding", "utf-8"),
            errors="backslashreplace",
            line_buffering=number == 2 or getattr(stream, "line_buffering", False),
            write_through=getattr(stream, "write_through", False),
        )
        setattr(sys, name, kept)
