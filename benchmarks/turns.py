"""Programs that take turns: what is measured side by side meets the same noise.

A program is a generator function that yields after every batch, for ever; it and its arguments can be pickled. It runs
in processes of its own, which are stopped whenever it is not its turn, so that none works ahead while another is
measured.
"""

import contextlib
import multiprocessing
import os
import pathlib
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

Program = Callable[[], Iterator[None]]


class Turn(NamedTuple):
    """What a program did in a turn."""

    rate: float  # batches/s
    cost: float  # seconds of processor time a batch, of all its processes


def take_turns(programs: dict[str, Program], *, rounds: int, seconds: float) -> dict[str, list[Turn]]:
    """Runs programs in turn; a turn lasts this long and to the end of a batch. The first round is not counted."""
    with contextlib.ExitStack() as stack:
        running = {name: stack.enter_context(_running(program)) for name, program in programs.items()}
        turns = {name: [] for name in programs}
        for _ in range(rounds + 1):
            for name, program in running.items():
                turns[name].append(program.turn(seconds))
    return {name: values[1:] for name, values in turns.items()}


def watch_memory(program: Program, batches: Iterable[int]) -> list[float]:
    """Returns the memory in MiB that a program's first process holds after so many batches, for each number of them."""
    with _running(program) as running:
        return [running.resident_mebibytes(number) for number in batches]


def spread(values: Iterable[float]) -> list[float]:
    """Returns min, median and max."""
    values = sorted(values)
    return [values[0], statistics.median(values), values[-1]]


def show(values: list[float], form: str) -> str:
    """Returns min – median – max as text, each in this format."""
    return " – ".join(format(value, form) for value in values)


class _Running:
    def __init__(self, process: Any, count: Any):
        self._process, self._count = process, count

    def run_to(self, batches: int) -> None:
        """Waits for this many batches in all."""
        while self._count.value < batches:
            if not self._process.is_alive():
                raise RuntimeError("a measured program has ended; its error is above")
            time.sleep(0.0005)

    def signal(self, number: int) -> None:
        """Sends a signal to the program and to its workers, which are in its process group."""
        os.killpg(self._process.pid, number)

    def turn(self, seconds: float) -> Turn:
        """Runs for this long and to the end of a batch, after one that takes longer since it was stopped."""
        self.signal(signal.SIGCONT)
        self.run_to(self._count.value + 1)
        batches, used, start = self._count.value, self._processor_seconds(), time.perf_counter()
        time.sleep(seconds)
        self.run_to(self._count.value + 1)
        elapsed = time.perf_counter() - start
        self.signal(signal.SIGSTOP)
        batches = self._count.value - batches
        return Turn(batches / elapsed, (self._processor_seconds() - used) / batches)

    def resident_mebibytes(self, batches: int) -> float:
        """Runs to this many batches in all, and on."""
        self.signal(signal.SIGCONT)
        self.run_to(batches)
        pages = int(pathlib.Path(f"/proc/{self._process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    def _processor_seconds(self) -> float:
        ticks = 0
        for file in pathlib.Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # others' processes come and go
                fields = file.read_text().rpartition(")")[2].split()  # from the third on: state, parent, group, …
                ticks += (int(fields[11]) + int(fields[12])) * (int(fields[2]) == self._process.pid)
        return ticks / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def _running(program: Program) -> Iterator[_Running]:
    """Starts a program, and stops it at its first batch; kills it in the end."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))  # else nobody would kill it then
    spawn = multiprocessing.get_context("spawn")
    count = spawn.RawValue("q")
    process = spawn.Process(target=_count_batches, args=(count, program))
    process.start()
    try:
        running = _Running(process, count)
        running.run_to(1)
        running.signal(signal.SIGSTOP)
        yield running
    finally:
        process.kill()
        with contextlib.suppress(ProcessLookupError):  # it has ended by itself, or has not come to make its group
            os.killpg(process.pid, signal.SIGKILL)
        process.join()


def _count_batches(count: Any, program: Program) -> None:
    """Runs a program for as long as somebody reads the count."""
    os.setpgid(0, 0)  # a group of its own, for signals that reach its workers too and nobody else
    parent = os.getppid()
    for _ in program():
        count.value += 1
        if os.getppid() != parent:
            os.killpg(0, signal.SIGKILL)
