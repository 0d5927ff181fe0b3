"""The rows that are owed on a GPU, in order, in the time there is; each figure is on disk as soon as it stands.

    python benchmarks/gpu.py --budget=570 --out=FOLDER --data=cifar10.npz --wheels=WHEELS
    python benchmarks/gpu.py --rehearse --budget=600 --out=FOLDER

A row is a process of its own (gpu_rows.py). One that fails, hangs or is killed leaves the figures that it has told, and
a line that says what became of it; the next one follows. A row is left out where the rest of the budget does not hold
what it is budgeted, and skipped where results say that it is done. --rehearse runs the same code at toy sizes wherever
jax finds itself. docs/gpu.md says what to copy and how to read the table. This file needs nothing but Python.
"""

import argparse
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from typing import Any

from gpu_queue import ROOT, Results, Row, done, print_table, read_lines, take

HERE = pathlib.Path(__file__).resolve().parent
KEPT = HERE / "results" / "gpu" / "results.jsonl"  # what the project holds already
TOY_SHARE = 0.2  # of a row's seconds, which a rehearsal is budgeted

ROWS = (
    Row(1, "smoke", 45, 150),
    Row(1, "against_cpu", 30, 120),
    Row(1, "memory", 50, 150),
    Row(2, "step_32", 80, 200),
    Row(2, "step_224", 150, 400),
    Row(3, "views", 40, 120),
    Row(4, "loss", 40, 120),
    Row(5, "cifar10", 480, 600, True),
    Row(6, "ten_minutes", 480, 600, True),
    Row(7, "thousand_epochs", 300, 600, True),
    Row(8, "ablations", 120, 600, True),
)


def check(environment: dict[str, str]) -> dict[str, Any]:
    """Returns the card and the versions as a row would see them; ends the program where a row could not run."""
    asked = [sys.executable, str(HERE / "gpu_rows.py"), "check"]
    found = subprocess.run(asked, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    try:
        facts = json.loads(found.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        sys.exit(f"what the rows need cannot be looked for:\n{found.stdout}{found.stderr}")
    if facts["missing"]:
        names = " ".join(facts["missing"])
        sys.exit(
            f"not installed, and needed: {names}. Where there is a network: pip download --no-deps -d wheels {names}; "
            "copy the folder here and add --wheels=wheels"
        )
    if facts["error"]:
        sys.exit(f"the library cannot be imported: {facts['error']}")
    return facts


def unpack_wheels(folder: str, place: pathlib.Path) -> None:
    """Unpacks wheels, which are zip archives, into a folder for PYTHONPATH; nothing is installed."""
    wheels = sorted(pathlib.Path(folder).glob("*.whl"))
    if not wheels:
        sys.exit(f"--wheels={folder} holds no wheel; pip download --no-deps -d {folder} ml-collections tensorboardX")
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(place)


def pack(scratch: pathlib.Path, out: pathlib.Path) -> None:
    """Adds what rows keep of their runs, configs, metrics and probes' results, to OUT/runs.zip."""
    kept = [path for path in sorted((scratch / "kept").rglob("*")) if path.is_file()]
    with zipfile.ZipFile(out / "runs.zip", "a", zipfile.ZIP_DEFLATED) as archive:
        there = set(archive.namelist())
        for path in kept:
            name = str(path.relative_to(scratch / "kept"))
            if name not in there:
                archive.write(path, name)


def arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", type=float, required=True, help="seconds for everything")
    parser.add_argument("--out", required=True, help="FOLDER for results.jsonl, rows.log and runs.zip")
    parser.add_argument("--rows", default="", help="numbers or names, as 1,2,step_224; all by default")
    parser.add_argument("--data", default="", help="CIFAR-10: an archive, several with commas between, or a folder")
    parser.add_argument("--wheels", default="", help="folder of wheels of packages that are not installed")
    parser.add_argument("--scratch", default="", help="folder for runs, data and compiled programs; kept between calls")
    parser.add_argument("--recipe", default="", help="rows 6 and 7: key=value …, in the place of theirs")
    parser.add_argument("--state", default="", help="row 7: FOLDER of the part before this one")
    parser.add_argument("--study", default="augmentation", help="row 8: a study of `ablate`")
    parser.add_argument("--again", action="store_true", help="also take rows that stand")
    parser.add_argument("--rehearse", action="store_true", help="toy sizes, on whatever there is")
    return parser.parse_args()


def main() -> None:
    """Takes the rows and prints the table, also where it is told to stop."""
    given, start = arguments(), time.monotonic()
    out = pathlib.Path(given.out).resolve()
    out.mkdir(parents=True, exist_ok=True)
    name = "simclr_jax_rehearsal" if given.rehearse else "simclr_jax_gpu"
    scratch = pathlib.Path(given.scratch or pathlib.Path(tempfile.gettempdir()) / name).resolve()
    scratch.mkdir(parents=True, exist_ok=True)
    chosen = {word for word in given.rows.split(",") if word}
    known = {str(row.number) for row in ROWS} | {row.name for row in ROWS}
    if strange := sorted(chosen - known):
        sys.exit(f"--rows={given.rows}: there is no row {', '.join(strange)}; there are {', '.join(sorted(known))}")
    rows = [row for row in ROWS if not chosen or {str(row.number), row.name} & chosen]
    if given.rehearse:
        rows = [row._replace(seconds=row.seconds * TOY_SHARE, most=600) for row in rows]  # the machine may be busy
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    if given.wheels:
        unpack_wheels(given.wheels, scratch / "site")
        paths.insert(0, str(scratch / "site"))
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "PYTHONUNBUFFERED": "1",
        # Rows compile what others have compiled; any size and time, so that a second process compiles nothing.
        "JAX_COMPILATION_CACHE_DIR": str(scratch / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "TORCHINDUCTOR_CACHE_DIR": str(scratch / "inductor"),
    }
    if given.rehearse:  # programs of toys run for a moment
        flags = "--xla_backend_optimization_level=0"
        environment["XLA_FLAGS"] = f"{environment.get('XLA_FLAGS', '')} {flags}".strip()
    facts = check(environment)
    if facts["card"] == "cpu" and not given.rehearse:
        sys.exit("jax finds no accelerator here, and these rows are measured on one; --rehearse tries them as toys")
    if facts["without"]:
        print(f"not installed: {', '.join(facts['without'])}; what is measured beside it has no ratio")
    print(f"{facts['card']}, {facts['versions']}; {given.budget:,.0f} s", flush=True)
    said = {"card": facts["card"], "versions": facts["versions"]} | ({"rehearsal": True} if given.rehearse else {})
    results = Results(out / "results.jsonl", said)
    options = [f"--scratch={scratch}", f"--out={out}", f"--study={given.study}"]
    options += [f"--{name}={getattr(given, name)}" for name in ("data", "recipe", "state") if getattr(given, name)]
    options += ["--toy"] * given.rehearse

    def command_of(row: Row, seconds: float) -> list[str]:
        return [sys.executable, str(HERE / "gpu_rows.py"), row.name, f"--seconds={seconds:.0f}", *options]

    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: stop.set())
    try:
        take(
            rows,
            results,
            end=start + given.budget,
            skip=set() if given.again else done(read_lines(KEPT) + results.lines, rehearsal=given.rehearse),
            command_of=command_of,
            environment=environment,
            log=out / "rows.log",
            has_data=bool(given.data) or given.rehearse,
            stop=stop,
        )
    finally:
        pack(scratch, out)
        print_table(results.lines)
    if stop.is_set():
        sys.exit("told to stop; the figures that stand are above")


if __name__ == "__main__":
    main()
