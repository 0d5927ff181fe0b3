"""A queue of rows: each in a process of its own, within its time; what it tells is on disk at once.

A row is a command. It prints figures as lines "FIGURE {"name", "value", "unit"}" in JSON, with "spread", [min, median,
max], and "note" where there are some; one of unit "status" says how far it came, else that it ended well. Which rows
there are, and what they measure, is said elsewhere: this file knows processes, time and results.jsonl alone.
"""

import contextlib
import datetime
import json
import os
import pathlib
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

ROOT = pathlib.Path(__file__).resolve().parents[1]
FIGURE = "FIGURE "  # a line of a row's output that is a figure, in JSON
LOG_BYTES = 2**20  # of one row's output; all rows stay below 16 MiB


class Row(NamedTuple):
    """A row, or a part of one.

    Attributes:
      number: of the table in docs/gpu.md.
      name: what gpu_rows.py calls it.
      seconds: that the rest of the budget must hold before it is started.
      most: after which it is ended, or before, where the rows after it need the time.
      needs_data: whether it trains on CIFAR-10.
    """

    number: int
    name: str
    seconds: float
    most: float
    needs_data: bool = False


class Results:
    """results.jsonl: a line a figure, on disk before the next one comes.

    Args:
      path: the file, which may hold lines already; a torn last one is passed over.
      facts: what every new line says besides, such as the card.
    """

    def __init__(self, path: pathlib.Path, facts: dict[str, Any]):
        self._path, self._facts = path, facts
        self.lines = read_lines(path)
        if path.exists() and not path.read_bytes().endswith(b"\n"):
            with path.open("a") as file:
                file.write("\n")

    def add(self, row: Row, figure: dict[str, Any]) -> None:
        """Writes a figure, {"name", "value", "unit", …}, and shows it."""
        line = {"row": row.number, "part": row.name, **figure, **self._facts, "date": now()}
        self.lines.append(line)
        with self._path.open("a") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())
        print(f"  {shown(line)}", flush=True)


def now() -> str:
    """Returns the time, UTC."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def read_lines(path: pathlib.Path) -> list[dict[str, Any]]:
    """Returns the whole lines of a results.jsonl; none where there is not a file."""
    found = []
    for line in path.read_text().splitlines() if path.exists() else ():
        with contextlib.suppress(ValueError):
            found.append(json.loads(line))
    return found


def done(lines: Iterable[dict[str, Any]], *, rehearsal: bool) -> set[str]:
    """Returns the parts that results say are done; a rehearsal's count for rehearsals alone."""
    return {
        line["part"]
        for line in lines
        if line.get("unit") == "status" and line["value"] == "done" and bool(line.get("rehearsal")) == rehearsal
    }


def take(
    rows: Iterable[Row],
    results: Results,
    *,
    end: float,
    skip: set[str],
    command_of: Callable[[Row, float], list[str]],
    environment: dict[str, str],
    log: pathlib.Path,
    has_data: bool = True,
    stop: threading.Event | None = None,
) -> None:
    """Takes rows in their order, as long as the time holds them.

    Args:
      rows, results: what to take, and where figures go.
      end: of the budget, by `time.monotonic`.
      skip: parts that stand.
      command_of: what takes a row in so many seconds.
      environment: of its process.
      log: takes in what the processes print.
      has_data: whether there are images for the rows that need some.
      stop: ends the row that is taken, and the queue, once it is set. A handler of signals sets it, and raises nothing:
        between two lines of this file that might leave a row's process behind.
    """
    waiting, stop = list(rows), stop or threading.Event()
    while waiting and not stop.is_set():
        row, rest = waiting.pop(0), end - time.monotonic()
        if row.name in skip:
            print(f"row {row.number}, {row.name}: stands already", flush=True)
        elif row.needs_data and not has_data:
            results.add(row, status("left out: it needs --data"))
        elif rest < row.seconds:
            said = f"left out: it is budgeted {row.seconds:,.0f} s, and {max(0, rest):,.0f} s of --budget are left"
            results.add(row, status(said))
        else:
            after = [other for other in waiting if other.name not in skip and (has_data or not other.needs_data)]
            seconds = min(row.most, row.seconds + spare(rest - row.seconds, after))
            command = command_of(row, seconds)
            print(f"row {row.number}, {row.name}: {seconds:,.0f} s at most", flush=True)
            results.add(row, status(run(command, row, results, seconds, environment, log, stop)))


def spare(rest: float, rows: Iterable[Row]) -> float:
    """Returns what of the rest is left when each of the rows after this one that fits has been given what it needs."""
    for row in rows:
        rest -= row.seconds if row.seconds <= rest else 0
    return rest


def status(said: str) -> dict[str, str]:
    """Returns the line that tells what became of a row."""
    return {"name": "status", "value": said, "unit": "status"}


def run(
    command: list[str],
    row: Row,
    results: Results,
    seconds: float,
    environment: dict[str, str],
    log: pathlib.Path,
    stop: threading.Event,
) -> str:
    """Runs a row's process, takes in its figures as they come, and returns what became of it.

    Whatever ends this, no process of the row is left: one that holds the GPU's memory would fail the next row.
    """
    start, said = time.monotonic(), {"status": "done", "last": "it printed nothing"}
    with log.open("a") as file:
        print(f"\n== row {row.number}, {row.name}: {shlex.join(command)}", file=file, flush=True)
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "stdin": subprocess.DEVNULL}
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, text=True, errors="replace", start_new_session=True, **streams
        )

        def read() -> None:
            left = LOG_BYTES
            for line in process.stdout:
                if line.startswith(FIGURE):
                    with contextlib.suppress(ValueError):  # a line that two processes wrote at once
                        figure = json.loads(line.removeprefix(FIGURE))
                        if figure["unit"] == "status":
                            said["status"] = figure["value"]
                        else:
                            results.add(row, {**figure, "command": shlex.join(command)})
                elif line.strip():
                    said["last"] = line.strip()[:300]
                if left > 0:
                    file.write(line if len(line) < left else "\n… the rest is left out\n")
                    file.flush()
                left -= len(line)

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        try:
            while (code := process.poll()) is None:
                if stop.is_set():
                    return f"ended after {time.monotonic() - start:,.0f} s: told to stop"
                if time.monotonic() - start > seconds:
                    return f"ended at its limit of {seconds:,.0f} s; last line: {said['last']}"
                time.sleep(0.05)
        finally:
            end_session(process.pid)
            process.wait()
            reader.join(5)
            if not reader.is_alive():
                process.stdout.close()
    if code:
        what = f"exit code {code}" if code > 0 else f"killed by {signal.Signals(-code).name}"
        return f"failed after {time.monotonic() - start:,.0f} s, {what}: {said['last']}"
    return said["status"]


def end_session(leader: int) -> None:
    """Kills the processes of a session: those in process groups of their own, stopped ones and orphans too."""
    for _ in range(100):
        living = list(members(leader))
        for number in living:
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        if not living:
            return
        time.sleep(0.1)


def members(leader: int) -> Iterator[int]:
    """Yields the processes of a session that have not ended."""
    for file in pathlib.Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            state, _, _, session = file.read_text().rpartition(")")[2].split()[:4]
            if int(session) == leader and state not in "ZX":
                yield int(file.parent.name)


# The table


def shown(line: dict[str, Any]) -> str:
    """Returns a figure in words: its median where it has a spread, min – max behind it."""
    value, unit = line["value"], "" if line["unit"] == "status" else f" {line['unit']}"
    if value is None:
        number, unit = "not measured", ""
    else:
        number = value if isinstance(value, str) else f"{value:,.4g}"
    spread = f"  ({line['spread'][0]:,.4g} – {line['spread'][-1]:,.4g})" if line.get("spread") else ""
    return f"{line['name']}: {number}{unit}{spread}" + (f"  [{line['note']}]" if line.get("note") else "")


def print_table(lines: list[dict[str, Any]]) -> None:
    """Prints the newest figure of each name, row by row, in the order in which they first came."""
    newest = {(line["row"], line["part"], line["name"]): line for line in lines}
    print("\n| row | figure | value | card |\n|---|---|---|---|")
    for line in sorted(newest.values(), key=lambda line: line["row"]):
        value = shown(line).removeprefix(f"{line['name']}: ")
        print(f"| {line['row']} {line['part']} | {line['name']} | {value} | {line.get('card', '?')} |")
    sys.stdout.flush()
