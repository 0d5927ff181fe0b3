"""The report of a run, or of several: reads what they left, makes what is missing, writes one HTML file."""

import contextlib
import json
from collections.abc import Callable, Iterator
from typing import Any

from etils import epath

import simclr_jax
from simclr_jax.evaluate import html as report
from simclr_jax.evaluate import results
from simclr_jax.runtime import checkpoint, run_folder
from simclr_jax.runtime.config import flatten
from simclr_jax.runtime.console import say
from simclr_jax.runtime.metrics import read_rows

MOST_RUNS = 64
_MOST_LINES = 10**6  # of a run's metrics

# Pictures of RUN/eval by the endings of their names, with the headings that they come under, in the report's order.
HEADINGS = {
    "curves": "Training",
    "similarities": "Is it collapsing?",
    "tsne": "What it learned",
    "neighbours": "What it learned",
    "views": "What it saw",
    "confusion": "What is mistaken for what",
}


def run(workdirs: list[str], *, out: str | None, make: dict[str, Callable[[str], Any]]) -> None:
    """Writes the report of runs.

    Args:
      workdirs: RUNs; several are compared.
      out: the HTML file; None = report.html in the first run.
      make: {name: what makes RUN/eval/NAME.json or NAME.png, from RUN}, called where neither is there.

    Raises:
      ValueError: no run, or too many; the file cannot be written. What cannot be made is said in the report.
    """
    if len(workdirs) > MOST_RUNS:
        raise ValueError(f"{len(workdirs)} runs are too many for a page; give up to {MOST_RUNS}")
    path = epath.Path(out).expanduser() if out else run_folder.inside(workdirs[0], "report.html")
    for workdir in workdirs:
        run_folder.read_config(workdir)
    if not path.parent.is_dir() or path.is_dir():
        raise ValueError(f"--out={out}: " + ("it is a folder" if path.is_dir() else "there is no such folder"))
    runs = [_left(workdir, _made(workdir, make)) for workdir in workdirs]
    run_folder.replace_text(path, report.render(runs, version=simclr_jax.__version__))
    say(f"written to {path}")


def _made(workdir: str, make: dict[str, Callable[[str], Any]]) -> list[str]:
    """Makes what is not there; returns lines that say what could not be made."""
    lines = []
    for name, maker in make.items():
        if any((results.place(workdir, name).with_suffix(end)).exists() for end in (".json", ".png")):
            continue
        say(f"\n{workdir}: {name}")
        try:
            maker(workdir)
        except (ValueError, OSError) as error:
            lines.append(f"{name} was not made: {' '.join(str(error).split())}")
            say(lines[-1])
    return lines


def _left(workdir: str, notes: list[str]) -> report.Left:
    folder = run_folder.folder(workdir)
    read, found = results.read(workdir), {}
    for name, data in _pictures(folder / "eval"):
        if data is None:
            notes.append(f"{name} is too large for a page, and is left out")
        else:
            found[_heading(name), _caption(name)] = data
    order = [*dict.fromkeys(HEADINGS.values()), "Pictures"]
    return report.Left(
        name=workdir,
        config=flatten(run_folder.read_config(workdir)),
        starts=_lines(folder / "versions.jsonl"),
        rows=read_rows(workdir),
        results=read,
        pictures=dict(sorted(found.items(), key=lambda item: order.index(item[0][0]))),
        notes=[*notes, *_of_other_steps(workdir, read)],
    )


def _of_other_steps(workdir: str, read: dict[str, dict[str, Any]]) -> list[str]:
    newest = checkpoint.latest_step(workdir)
    others = {name: result["step"] for name, result in read.items() if result.get("step", newest) != newest}
    return [f"{name} is of step {step}; the newest checkpoint is of step {newest}" for name, step in others.items()]


def _pictures(folder: epath.Path) -> Iterator[tuple[str, bytes | None]]:
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.suffix == ".png" and path.is_file():
            yield path.stem, path.read_bytes() if path.stat().length <= report.MOST_PICTURE_BYTES else None


def _lines(path: epath.Path) -> list[dict[str, Any]]:
    """The rows of a file of JSON lines; those that are none are passed over."""
    rows = []
    for line in path.read_text().splitlines()[:_MOST_LINES] if path.is_file() else ():
        with contextlib.suppress(ValueError, RecursionError):
            row = json.loads(line)
            rows += [row] if isinstance(row, dict) else []
    return rows


def _heading(name: str) -> str:
    return next((heading for end, heading in HEADINGS.items() if name.endswith(end)), "Pictures")


def _caption(name: str) -> str:
    stem, _, end = name.rpartition("_")
    title = report.PROBES.get(stem, (stem.replace("_", " "),))[0]
    return f"{title}: {end}" if stem else end
