"""Being told to stop: by a scheduler (SIGTERM, SIGUSR1, SIGUSR2), a closed terminal (SIGHUP) or Ctrl-C (SIGINT).

The first asks for a checkpoint at the end of the step. A second Ctrl-C leaves at once; the others do not, however often
they come, since schedulers repeat theirs. Before the first step there is nothing to save, so there the first leaves at
once too.
"""

import contextlib
import os
import signal
import sys
import threading
from typing import Any

from simclr_jax.runtime import console

# Exit code: stopped by a signal with everything saved; the same command goes on. EX_TEMPFAIL of sysexits.h
STOPPED = 75
_AT_ONCE = 130  # exit code of a second Ctrl-C, the shell's for a program that it stopped
_ALWAYS = (signal.SIGTERM, signal.SIGINT)
# Taken where the platform has them and nobody has had them ignored, as nohup does.
_IF_NOT_IGNORED = [getattr(signal, name) for name in ("SIGHUP", "SIGUSR1", "SIGUSR2") if hasattr(signal, name)]


class Stopped(Exception):
    """The run was told to stop, and has saved everything."""


class StopRequest:
    """Whether a signal has asked the run to stop; signals are taken while this is entered.

    A thread reads them, so that none waits for a compilation to end. Only the main thread can take signals; entered in
    another thread it does nothing.

    Attributes:
      requested: whether to stop after this step.
    """

    def __init__(self):
        self.requested = False
        self._steps_run = False
        self._handlers, self._pipe, self._wakeup = {}, (), -1

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            self._pipe = os.pipe()
            os.set_blocking(self._pipe[1], False)
            # The numbers of signals go through the pipe even while the main thread is outside of Python.
            self._wakeup = signal.set_wakeup_fd(self._pipe[1], warn_on_full_buffer=False)
            heard = [number for number in _IF_NOT_IGNORED if signal.getsignal(number) is not signal.SIG_IGN]
            self._handlers = {number: signal.signal(number, lambda *_: None) for number in (*_ALWAYS, *heard)}
            threading.Thread(target=self._read, args=self._pipe[:1], daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        if self._pipe:
            for number, handler in self._handlers.items():
                signal.signal(number, handler or signal.SIG_DFL)  # None: it was not set by Python, and is lost
            signal.set_wakeup_fd(self._wakeup)
            os.close(self._pipe[1])  # ends the thread

    def steps_run(self) -> None:
        """Says that from now on there is something to save."""
        self._steps_run = True

    def _read(self, pipe: int) -> None:
        while number := os.read(pipe, 1):
            if number[0] not in self._handlers:
                continue
            name = signal.Signals(number[0]).name
            if self.requested and name == "SIGINT":
                _leave("stopped at once; the same command resumes from the last checkpoint", _AT_ONCE)
            elif not self.requested and not self._steps_run:
                _leave(f"{name}: stopped before the first step; the same command starts again", STOPPED)
            elif not self.requested:
                self.requested = True
                _tell(f"{name}: saving a checkpoint after this step; Ctrl-C stops at once")
        os.close(pipe)


class Interrupt:
    """Whether Ctrl-C has asked to stop, in a process that is a notebook's or another program's.

    The first one asks for a checkpoint at the end of the step. Before the first step, where there is nothing to save,
    and from the second one on it is a KeyboardInterrupt, as everywhere in Python. Other signals are left alone.

    Attributes:
      requested: whether to stop after this step.
    """

    def __init__(self) -> None:
        self.requested = False
        self._steps_run = False
        self._handler: Any = None

    def __enter__(self) -> "Interrupt":
        if threading.current_thread() is threading.main_thread():
            self._handler = signal.signal(signal.SIGINT, self._take)
        return self

    def __exit__(self, *_) -> None:
        if self._handler is not None:
            signal.signal(signal.SIGINT, self._handler)

    def steps_run(self) -> None:
        """Says that from now on there is something to save."""
        self._steps_run = True

    def _take(self, *_) -> None:
        if self.requested or not self._steps_run:
            raise KeyboardInterrupt
        self.requested = True
        with contextlib.suppress(RuntimeError):  # it came in the middle of another line
            console.say("writing a checkpoint after this step; Ctrl-C again leaves at once")


def _leave(text: str, code: int) -> None:
    """Ends the process without waiting for anything: whatever is being written is complete or absent on disk."""
    _tell(text)
    os._exit(code)


def _tell(text: str) -> None:
    with contextlib.suppress(OSError, ValueError):  # of a terminal that is gone
        print(f"\n{text}", file=sys.stderr, flush=True)
