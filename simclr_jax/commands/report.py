"""The report of a run, or of several: reads what they left, makes what is missing, writes one HTML file."""

import contextlib
import functools
import json
from collections.abc import Callable
from typing import Any

from etils import epath

import simclr_jax
from simclr_jax.evaluate import html, results
from simclr_jax.runtime import checkpoint, run_folder
from simclr_jax.runtime.config import flatten, whole_config
from simclr_jax.runtime.console import say
from simclr_jax.runtime.metrics import read_rows

MOST_RUNS = 64
_MOST_STARTS = 10**6  # lines of a run's versions.jsonl

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
    runs = []
    for workdir in workdirs:
        notes = []
        for name, maker in make.items():
            if any((results.place(workdir, name).with_suffix(end)).exists() for end in (".json", ".png")):
                continue
            say(f"\n{workdir}: {name}")
            try:
                maker(workdir)
            except (ValueError, OSError) as error:
                notes.append(f"{name} was not made: {' '.join(str(error).split())}")
                say(notes[-1])
        runs.append(read(workdir, notes))
    run_folder.replace_text(path, html.render(runs, version=simclr_jax.__version__))
    say(f"written to {path}")


def read(workdir: str, notes: list[str]) -> html.RunFiles:
    """Returns what a run left; what is no JSON or too large for a page is passed over.

    Args:
      workdir: RUN.
      notes: lines that say what could not be made.
    """
    folder = run_folder.folder(workdir)
    found = results.read(workdir)

    pictures, notes = {}, list(notes)
    for path in sorted((folder / "eval").iterdir()) if (folder / "eval").is_dir() else ():
        if path.suffix != ".png":
            continue
        # A link would put any picture of this machine onto the page.
        own = run_folder.lies_inside(workdir, "eval", path.name)
        if not (own and run_folder.is_file(path, html.MOST_PICTURE_BYTES)):
            notes.append(f"{path.stem} is {'no file, or too large for a page' if own else 'a link'}, and is left out")
            continue
        stem, _, end = path.stem.rpartition("_")
        title = html.PROBES.get(stem, (stem.replace("_", " "),))[0]
        heading = next((heading for name, heading in HEADINGS.items() if path.stem.endswith(name)), "Pictures")
        pictures[heading, f"{title}: {end}" if stem else end] = path.read_bytes()
    order = [*dict.fromkeys(HEADINGS.values()), "Pictures"]

    starts, versions = [], folder / "versions.jsonl"
    told = run_folder.lies_inside(workdir, versions.name) and run_folder.is_file(versions, run_folder.MOST_TEXT)
    for line in versions.read_text().splitlines()[:_MOST_STARTS] if told else ():
        with contextlib.suppress(ValueError, RecursionError):
            start = json.loads(line)
            starts += [start] if isinstance(start, dict) else []

    newest = checkpoint.latest_step(workdir)
    others = {name: result["step"] for name, result in found.items() if result.get("step", newest) != newest}
    notes += [f"{name} is of step {step}; the newest checkpoint is of step {newest}" for name, step in others.items()]
    return html.RunFiles(
        name=workdir,
        config=flatten(run_folder.read_config(workdir)),
        starts=starts,
        rows=read_rows(workdir),
        results=found,
        pictures=dict(sorted(pictures.items(), key=lambda item: order.index(item[0][0]))),
        notes=notes,
    )


def main() -> None:
    """Runs the command from its flags."""
    from absl import flags

    from configs import default, knn, lbfgs, linear, pictures
    from configs import diagnose as of_diagnose
    from simclr_jax.commands import diagnose, launch, preview, probes
    from simclr_jax.commands import pictures as draw

    flags.DEFINE_multi_string("workdir", None, "RUN, the folder of a pretraining run; several are compared")
    flags.DEFINE_string("out", None, "The HTML file to write; by default report.html in the first RUN.")
    flags.DEFINE_bool("compute", True, "Make the probes and pictures that are missing.")

    def views(workdir: str) -> None:
        config = whole_config(run_folder.read_config(workdir), default.get_config(), workdir)
        run_folder.check_places(workdir, config.data.source, config.data.dir)
        out = run_folder.inside(workdir, "eval", "views.png")
        out.parent.mkdir(exist_ok=True)
        preview.run(config, str(out), images=6)

    make = {
        "linear": functools.partial(probes.run, "linear", linear.get_config()),
        "lbfgs": functools.partial(probes.run, "lbfgs", lbfgs.get_config()),
        "knn": functools.partial(probes.run, "knn", knn.get_config()),
        "diagnose": functools.partial(diagnose.run, of_diagnose.get_config()),
        "tsne": functools.partial(draw.run, pictures.get_config()),
        "views": views,
    }

    def report(workdir: list[str]) -> None:
        run(workdir, out=flags.FLAGS.out, make=make if flags.FLAGS.compute else {})

    launch.launch(report, known=None, arguments=["workdir"])
