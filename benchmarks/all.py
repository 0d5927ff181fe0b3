"""The CPU part of all benchmarks, shortened: one table of ratios, in under 15 minutes on 2 cores.

    make bench

Each part is a benchmark of this folder with fewer rounds and sizes; its own figures are in RESULTS.md. What it is
compared with and is not installed is left out: `pip install torch==2.13.0 torchvision==0.28.0 faiss-cpu`.
"""

import importlib.util
import json
import pathlib
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

HERE = pathlib.Path(__file__).parent
PARTS = {
    "step": ["step.py", "--rounds=2", "--seconds=4", "--loop-rounds=3"],
    "input": ["input.py", "--views", "--step", "--rounds=2", "--seconds=2", "--sizes", "32", "224"],
    "loss": ["loss.py", "--rounds=3", "--images", "512", "2048"],
    "probes": ["probes.py", "--rounds=1", "--images=20000", "--queries=4000", "--sweep_images=5000", "--dim=128"],
    "robustness": ["chaos.py", "--kills=2", "--stops=1", "--damages=2", "--inputs=0", "--rounds=1"],
}
NEEDS = {"probes": "faiss"}
SHOWN = (", ratio", "percent", "share", "differ", "lost", "MiB")  # in names of figures that mean something elsewhere


def measure(command: list[str]) -> Any:
    """Runs a benchmark, shows what it prints, and returns the JSON object of its last line; None where it fails."""
    process = subprocess.Popen([sys.executable, HERE / command[0], *command[1:]], stdout=subprocess.PIPE, text=True)
    last = ""
    for line in process.stdout:
        if not line.startswith("{"):
            print(line, end="", flush=True)
        last = line
    try:
        return None if process.wait() else json.loads(last)
    except ValueError:
        return None


def figures(found: Any, name: str = "") -> Iterator[tuple[str, list[float]]]:
    """Yields the names and values of the figures that are shown, a number or min, median and max."""
    if isinstance(found, dict):
        for key, value in found.items():
            yield from figures(value, f"{name}, {key}" if name else key)
    elif any(word in name for word in SHOWN) and not isinstance(found, str | bool | None):
        values = found if isinstance(found, list) else [found]
        if all(isinstance(value, int | float) for value in values):
            yield name, values


def main() -> None:
    """Runs the parts and prints the table."""
    table, failed = [], []
    for part, command in PARTS.items():
        if part in NEEDS and importlib.util.find_spec(NEEDS[part]) is None:
            print(f"\n== {part}: left out, {NEEDS[part]} is not installed")
            continue
        print(f"\n== {part}: {' '.join(command)}", flush=True)
        start = time.perf_counter()
        found = measure(command)
        table += [(part, name, values) for name, values in figures(found)]
        failed += [part] * (found is None)
        print(f"   {time.perf_counter() - start:,.0f} s", flush=True)
    print(f"\n{'':12}{'':70}{'min – median – max':>28}")
    for part, name, values in table:
        print(f"{part:12}{name:70}{' – '.join(f'{value:,.3g}' for value in values):>28}")
    sys.exit(f"these parts failed: {', '.join(failed)}" if failed else None)


if __name__ == "__main__":
    main()
