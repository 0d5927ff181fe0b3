"""What hundreds of bad inputs to the real commands end in: a line that says what is wrong, and nothing else.

    python benchmarks/bad_input.py [--show] [--only=KIND]

An input counts where its command ends with exactly one line on its standard error, which begins with "error: ", with an
exit code that is not 0, and has written nothing. bad_cases.py has the table. Since a Python with JAX and TensorFlow
takes seconds to start, this process imports them once and each command runs in a fork of it, with its streams at files
of its own; every 20th runs as a process of its own besides, and has to end alike. The last line is one JSON object.
"""

import argparse
import collections
import json
import os
import pathlib
import resource
import runpy
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from typing import NamedTuple

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import bad_cases  # noqa: E402  (a script finds its own folder itself)
import bad_files  # noqa: E402

LIMIT = 60.0  # seconds after which a command hangs
EVERY = 20  # how many commands in forks there are to one that runs by itself besides
PROGRAMS = {"train": ["train.py"], "probe": ["eval_linear.py"], "simclr_jax": ["-m", "simclr_jax"]}
LOAD = """
import simclr_jax
try:
    simclr_jax.load_encoder({!r})
except ValueError as error:
    raise SystemExit(f"error: {{error}}")
"""


class End(NamedTuple):
    """How a command ended."""

    code: int | None  # None where it had to be killed
    errors: str
    seconds: float
    memory: int  # MiB at most
    written: tuple[str, ...]

    @property
    def fault(self) -> str:
        """What is wrong with it, or nothing."""
        lines = self.errors.splitlines()
        faults = {
            "hangs": self.code is None,
            "succeeds": self.code == 0,
            "a traceback": "Traceback" in self.errors,
            f"{len(lines)} lines": len(lines) != 1,
            "no error:": not self.errors.startswith("error: "),
            f"writes {', '.join(self.written[:3])}": bool(self.written),
        }
        return ", ".join(name for name, holds in faults.items() if holds)


def main() -> None:
    """Runs the table, prints it by kind, and exits with 1 where an input is not answered as it should be."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--show", action="store_true", help="print the line of every input")
    options.add_argument("--only", default="", help="inputs of this kind alone")
    options = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        scratch = pathlib.Path(folder)
        bad_files.plant(scratch, lambda *command: _by_itself(command, scratch))
        cases = [case for case in bad_cases.table(scratch) if options.only in case.kind]
        _import_all()
        ends = []
        for number, case in enumerate(cases):
            end = _in_fork(case, scratch)
            ends.append(end)
            if options.show or end.fault:
                print(
                    f"{case.kind}: {case.program} {' '.join(case.arguments)[-150:]!r}\n    {end.errors.strip()[-600:]}"
                )
                print(f"    {end.fault or 'as it should be'}, {end.seconds:.1f} s", flush=True)
            if number % EVERY == 0:
                _compare(case, end, scratch)
    _report(cases, ends)
    sys.exit(any(end.fault for end in ends))


def _report(cases: list, ends: list[End]) -> None:
    kinds = collections.defaultdict(list)
    for case, end in zip(cases, ends, strict=True):
        kinds[case.kind].append(end)
    print(f"\n{'kind of input':32}{'inputs':>8}{'one line':>10}{'slowest':>10}{'memory':>12}")
    for kind, found in [*kinds.items(), ("all", ends)]:
        good = sum(not end.fault for end in found)
        slowest, memory = max(end.seconds for end in found), max(end.memory for end in found)
        print(f"{kind:32}{len(found):8}{good:10}{slowest:8.1f} s{memory:8,} MiB")
    good = sum(not end.fault for end in ends)
    result = {"inputs": len(ends), "one_line": good, "slowest_s": round(max(end.seconds for end in ends), 1)}
    print(json.dumps(result | {"kinds": {kind: len(found) for kind, found in kinds.items()}}))


def _import_all() -> None:
    """Imports what the commands do, and starts nothing: no device and no thread may be there when they are forked."""
    from simclr_jax.commands.settle import settle_process

    settle_process()
    from simclr_jax.augment import device  # noqa: F401
    from simclr_jax.commands import (
        check_data,  # noqa: F401
        pretrain,  # noqa: F401
        preview,  # noqa: F401
        probes,  # noqa: F401
    )
    from simclr_jax.data import pipeline, tfds  # noqa: F401
    from simclr_jax.evaluate import encoder  # noqa: F401

    warnings.filterwarnings("ignore", "os.fork")  # JAX's, that it may be running; it is not


def _in_fork(case: bad_cases.Case, scratch: pathlib.Path) -> End:
    before, start = _written(scratch), time.monotonic()
    errors = scratch / "errors"
    child = os.fork()
    if not child:
        _become(case, errors, scratch / "output")
    code, usage = _wait(child, start)
    now = _written(scratch)
    changed = tuple(sorted(str(path) for path in now.keys() | before.keys() if now.get(path) != before.get(path)))
    return End(code, errors.read_text(errors="replace"), time.monotonic() - start, usage.ru_maxrss // 1024, changed)


def _wait(child: int, start: float) -> tuple[int | None, resource.struct_rusage]:
    while time.monotonic() < start + LIMIT:
        found, status, usage = os.wait4(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status), usage
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    return None, os.wait4(child, 0)[2]


def _become(case: bad_cases.Case, errors: pathlib.Path, output: pathlib.Path) -> None:
    """Runs a command in this process as Python would, and ends it."""
    for stream, path in ((1, output), (2, errors)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
    os.chdir(ROOT)
    code = 1
    try:
        if case.program == "load":
            exec(LOAD.format(case.arguments[0]))
        elif case.program == "simclr_jax":
            sys.argv = ["simclr_jax", *case.arguments]
            runpy.run_module("simclr_jax", run_name="__main__", alter_sys=True)
        else:
            sys.argv = [*PROGRAMS[case.program], *case.arguments]
            runpy.run_path(PROGRAMS[case.program][0], run_name="__main__")
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _by_itself(command: tuple[str, ...], scratch: pathlib.Path) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=False)


def _compare(case: bad_cases.Case, end: End, scratch: pathlib.Path) -> None:
    """Raises RuntimeError unless a command that runs by itself ends as its fork."""
    start = ["-c", LOAD.format(case.arguments[0])] if case.program == "load" else PROGRAMS[case.program]
    alone = _by_itself((*start, *(() if case.program == "load" else case.arguments)), scratch)
    if (alone.returncode, alone.stderr) != (end.code, end.errors):
        raise RuntimeError(f"{case} ended otherwise by itself: {alone.returncode}, {alone.stderr}\nnot\n{end}")


def _written(scratch: pathlib.Path) -> dict[pathlib.Path, tuple[int, int]]:
    """Returns {path: size and time} of all that may be written, but for Python's caches and the streams."""
    found = {}
    for path in [*ROOT.iterdir(), *scratch.rglob("*")]:
        if (
            path.name not in ("errors", "output", "__pycache__", ".pytest_cache", ".ruff_cache")
            and path.suffix != ".pyc"
        ):
            status = path.lstat()
            found[path] = (status.st_size, status.st_mtime_ns) if not path.is_dir() else (0, 0)
    return found


if __name__ == "__main__":
    main()
