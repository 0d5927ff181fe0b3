"""The report of a run, or of several: reads what they left, makes what is missing, writes one HTML file."""

import contextlib
import functools
import itertools
import json
from collections.abc import Callable
from typing import Any

from etils import epath

import simclr_jax
from simclr_jax.evaluate import html, results
from simclr_jax.runtime import checkpoint, disk, run_folder
from simclr_jax.runtime.config import flatten, whole_config
from simclr_jax.runtime.console import say
from simclr_jax.runtime.metrics import read_rows

MOST_RUNS = 64
_MOST_STARTS = 10**6  # lines of a run's versions.jsonl

# Pictures of RUN/eval by the endings of their names, with the headings that they come under.
HEADINGS = {
    "curves": "Training",
    "similarities": html.COLLAPSE,
    "tsne": "What the encoder learned",
    "neighbours": "What the encoder learned",
    "views": "What the encoder saw",
    "confusion": "Confusion between classes",
}


def run(
    workdirs: list[str],
    *,
    out: str | None,
    make: dict[str, Callable[[str, str | None], Any]],
    defaults: dict[str, dict[str, Any]],
) -> str:
    """Writes the report of runs.

    Args:
      workdirs: RUNs; several are compared.
      out: the file, NAME.html; or, of one run, a folder that receives report.html and what is made for it. None =
        report.html in the first run.
      make: {name: what makes RUN/eval/NAME.json or NAME.png, from RUN and the folder, if that is another}, called
        where neither is there.
      defaults: of the probes' configs, as `html.render`.

    Returns:
      The path of the file.

    Raises:
      ValueError: no run, or too many; the file cannot be written. What cannot be made is said in the report.
    """
    if len(workdirs) > MOST_RUNS:
        raise ValueError(f"{len(workdirs)} runs are too many for one page; give at most {MOST_RUNS}")
    for workdir in workdirs:
        run_folder.read_config(workdir)
    path, folder = _place(workdirs, out)
    runs = []
    for workdir in workdirs:
        failed = {}
        for name, maker in make.items():
            ends = itertools.product({workdir, folder or workdir}, (".json", ".png"))
            if any((run_folder.folder(place) / "eval" / f"{name}{end}").exists() for place, end in ends):
                continue
            say(f"\n{workdir}: {name}")
            try:
                maker(workdir, folder)
            except (ValueError, ArithmeticError, OSError) as error:
                failed[name] = " ".join(str(error).split())
                say(f"{name} could not be made: {failed[name]}")
        runs.append(read(workdir, folder, failed))
    disk.replace_text(path, html.render(runs, version=simclr_jax.__version__, defaults=defaults))
    say(f"saved as {path}")
    return str(path)


def _place(workdirs: list[str], out: str | None) -> tuple[epath.Path, str | None]:
    """Returns the file to be written, and the folder that stands in for RUN, if one does."""
    if not out:
        path, folder = run_folder.inside(workdirs[0], "report.html"), None
    elif out.endswith((".html", ".htm")):
        path, folder = epath.Path(out).expanduser(), None
        if not path.parent.is_dir():
            raise ValueError(f"--out={out}: its folder does not exist")
    elif len(workdirs) > 1:
        raise ValueError(
            f"--out={out} is a folder, which works for one run only; for several give a file: --out=NAME.html"
        )
    else:
        path, folder = run_folder.inside(out, "report.html"), out
    if path.is_dir():
        raise ValueError(f"--out={out}: {path} is a folder")
    disk.check_writable(path.parent)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path, folder


def read(workdir: str, folder: str | None, failed: dict[str, str]) -> html.RunFiles:
    """Returns what a run left; what is no JSON or too large for a page is passed over.

    Args:
      workdir: RUN.
      folder: where else results of it are, if anywhere.
      failed: {name: why} of what could not be made.
    """
    places = [workdir, folder] if folder else [workdir]
    found = {name: result for place in places for name, result in results.read(place).items()}

    pictures, notes = {}, []
    evals = [(place, run_folder.folder(place) / "eval") for place in places]
    for place, path in [(place, path) for place, of in evals if of.is_dir() for path in sorted(of.iterdir())]:
        if path.suffix != ".png":
            continue
        # A link would put any picture of this machine onto the page.
        own = run_folder.lies_inside(place, "eval", path.name)
        if not (own and disk.is_file(path, html.MOST_PICTURE_BYTES)):
            notes.append(
                f"{path.stem} is {'not a file, or too large for a page' if own else 'a link'}, and is left out"
            )
            continue
        stem, _, end = path.stem.rpartition("_")
        title = html.PROBES.get(stem, stem.replace("_", " "))
        heading = next((heading for name, heading in HEADINGS.items() if path.stem.endswith(name)), "Pictures")
        pictures[heading, f"{title}: {end}" if stem else end] = path.read_bytes()
    starts, versions = [], run_folder.folder(workdir) / "versions.jsonl"
    told = run_folder.lies_inside(workdir, versions.name) and disk.is_file(versions, disk.MOST_TEXT)
    for line in versions.read_text().splitlines()[:_MOST_STARTS] if told else ():
        with contextlib.suppress(ValueError, RecursionError):
            start = json.loads(line)
            starts += [start] if isinstance(start, dict) else []

    newest = checkpoint.latest_step(workdir)
    others = {name: result["step"] for name, result in found.items() if result.get("step", newest) != newest}
    notes += [
        f"{name} was made from step {step}, but the newest checkpoint is step {newest}" for name, step in others.items()
    ]
    for name, result in found.items():
        lines = result.get("left_out")
        notes += [f"{name}: {line}" for line in lines] if isinstance(lines, list) else []
    return html.RunFiles(
        name=workdir,
        config=flatten(run_folder.read_config(workdir)),
        starts=starts,
        rows=read_rows(workdir),
        results=found,
        pictures=pictures,
        failed=failed,
        notes=list(dict.fromkeys(notes)),
    )


def makers() -> tuple[dict[str, Callable[[str, str | None], Any]], dict[str, dict[str, Any]]]:
    """Returns the arguments ``make`` and ``defaults`` of `run`: the probes and pictures that a report has made."""
    from simclr_jax.commands import diagnose, pictures, preview, probes
    from simclr_jax.configs import default, finetune, knn, lbfgs, linear, linear_augmented
    from simclr_jax.configs import diagnose as of_diagnose
    from simclr_jax.configs import pictures as of_pictures

    modules = {"linear": linear, "linear_augmented": linear_augmented, "lbfgs": lbfgs, "knn": knn, "finetune": finetune}
    modules |= {"diagnose": of_diagnose, "pictures": of_pictures}
    of = {name: module.get_config() for name, module in modules.items()}

    def views(workdir: str, folder: str | None) -> None:
        config = whole_config(run_folder.read_config(workdir), default.get_config(), workdir)
        run_folder.check_places(workdir, config.data.source, config.data.dir)
        path = run_folder.inside(folder or workdir, "eval", "views.png")
        disk.check_writable(path.parent)
        path.parent.mkdir(parents=True, exist_ok=True)
        preview.run(config, str(path), images=6)

    make = {
        **{name: functools.partial(probes.run, name, of[name]) for name in ("linear", "lbfgs", "knn")},
        "diagnose": functools.partial(diagnose.run, of["diagnose"]),
        "tsne": functools.partial(pictures.run, of["pictures"]),
        "views": views,
    }
    return make, {name: flatten(config) for name, config in of.items()}


def main() -> None:
    """Runs the command from its flags."""
    from absl import flags

    from simclr_jax.commands import launch

    flags.DEFINE_multi_string("workdir", None, "RUN: the folder of a pretraining run; give several to compare them")
    flags.DEFINE_string(
        "out",
        None,
        "NAME.html: the page, RUN/report.html if not given; or a folder for all results if RUN is read-only",
    )
    flags.DEFINE_bool("compute", True, "make missing probes and pictures first")

    def report(workdir: list[str]) -> None:
        make, defaults = makers()
        run(workdir, out=flags.FLAGS.out, make=make if flags.FLAGS.compute else {}, defaults=defaults)

    launch.launch(report, known=None, arguments=["workdir"])
