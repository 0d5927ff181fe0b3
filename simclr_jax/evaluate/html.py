"""From what a run left to one HTML file that needs nothing else: no network, no other file.

Runs may be anybody's: what is read of them is shown as text, whatever it holds.
"""

import base64
import dataclasses
import datetime
import shlex
import sys
from typing import Any

import jinja2

from simclr_jax.evaluate.scores import NO_VALUE, number, percent, printable
from simclr_jax.runtime.config import CAME_LATER

# File names in RUN/eval, with what they are called; in the order of the report.
PROBES = {
    "linear": "linear probe",
    "linear_augmented": "linear probe, augmented",
    "lbfgs": "logistic regression (L-BFGS)",
    "knn": "kNN",
    "finetune": "fine-tuning",
    "finetune_0.1": "10 % of labels",
    "finetune_0.01": "1 % of labels",
}
_FEW_LABELS = {f"finetune_{share}": {"label_fraction": share} for share in (0.1, 0.01)}
# What makes them, by the beginnings of their names.
PROGRAMS = {
    "linear": "simclr-jax linear",
    "linear_augmented": "simclr-jax linear-augmented",
    "lbfgs": "simclr-jax lbfgs",
    "knn": "simclr-jax knn",
    "finetune": "simclr-jax finetune",
    "diagnose": "simclr-jax diagnose",
    "pictures": "simclr-jax pictures",
}
COLLAPSE = "Has it collapsed?"
HEADINGS = (
    "Training",
    COLLAPSE,
    "What the encoder learned",
    "What the encoder saw",
    "Confusion between classes",
    "Pictures",
)
MOST_PICTURE_BYTES = 2**24  # of one picture; the report would hold no more of them comfortably
_HEADLINES = 8  # figures at the top of a run
_LONGEST = 60  # characters of a class's name
_TOLD = ("step", "layer", "label_fraction", "data.source")  # settings of a probe that its row and title tell


@dataclasses.dataclass(frozen=True)
class RunFiles:
    """What a run left, as it was read.

    Attributes:
      name: RUN, as the user spells it.
      config: {"section.key": value}.
      starts: of versions.jsonl.
      rows: of metrics.jsonl.
      results: {name: what RUN/eval/NAME.json holds}.
      pictures: {(heading, caption): PNG}; headings are of `HEADINGS`.
      failed: {name: why} of what the report tried to make.
      notes: lines that say what is of another step, or else not as usual.
    """

    name: str
    config: dict[str, Any]
    starts: list[dict[str, Any]]
    rows: list[dict[str, Any]]
    results: dict[str, dict[str, Any]]
    pictures: dict[tuple[str, str], bytes]
    failed: dict[str, str]
    notes: list[str]


def render(runs: list[RunFiles], *, version: str, defaults: dict[str, dict[str, Any]]) -> str:
    """Returns the HTML of a report on one run, or of a comparison of several.

    Args:
      runs: at least one.
      version: of this library.
      defaults: {one of `PROGRAMS`: its config as it is without flags, {key: value}}.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("simclr_jax.evaluate", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        finalize=lambda value: printable(value, sys.maxsize) if isinstance(value, str) else value,
    )
    shown = [_shown(run, defaults) for run in runs]
    title = f"SimCLR run {runs[0].name}" if len(runs) == 1 else f"{len(runs)} SimCLR runs"
    columns = list(dict.fromkeys(name for run in shown for name in run["figures"]))
    return environment.get_template("report.html").render(
        title=title,
        version=version,
        date=datetime.date.today().isoformat(),
        runs=shown,
        columns=columns,
        differences=differences([run.config for run in runs]),
    )


def differences(configs: list[dict[str, Any]]) -> dict[str, list[str]]:
    """Returns {key: its value in each config} of the keys that are not the same in all."""
    keys = dict.fromkeys(key for config in configs for key in config)
    values = {key: [str(config.get(key, NO_VALUE)) for config in configs] for key in keys}
    return {key: row for key, row in values.items() if len(set(row)) > 1}


def changed(name: str, result: dict[str, Any], defaults: dict[str, dict[str, Any]]) -> dict[str, tuple[Any, Any]]:
    """Returns {key: (value, default)} of the keys of a result's config that were given another value."""
    config, usual = result.get("config"), defaults.get(program_of(name), {})
    if not isinstance(config, dict):  # of a version that did not keep it
        config = _FEW_LABELS.get(name, {})
    listed = {key: list(value) if isinstance(value, tuple) else value for key, value in usual.items()}
    return {
        key: (config[key], before)
        for key, before in listed.items()
        if key in config and config[key] != before and _is_plain(config[key])
    }


def _is_plain(value: Any) -> bool:
    """Whether a value of a result, which may hold anything, is one that a config could have."""
    return all(isinstance(one, int | float | str) for one in (value if isinstance(value, list) else [value]))


def program_of(name: str) -> str:
    """Returns which of `PROGRAMS` makes RUN/eval/NAME.json, or "" ."""
    fitting = [program for program in PROGRAMS if name == program or name.startswith(f"{program}_")]
    return max(fitting, key=len, default="")


def command(name: str, run: str, settings: dict[str, Any]) -> str:
    """Returns the command line that makes RUN/eval/NAME.json with these settings, quoted for a shell."""
    flags = {"workdir": run}
    for key, value in settings.items():
        flags[f"config.{key}"] = tuple(value) if isinstance(value, list) else value
    return " ".join([PROGRAMS[program_of(name)], *(shlex.quote(f"--{key}={value}") for key, value in flags.items())])


def _probe(name: str, result: dict[str, Any], run: RunFiles, defaults: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Returns what the template shows of a probe."""
    other = changed(name, result, defaults)
    title = PROBES[name] if name in PROBES else name.replace("_", " ")
    epochs = other.get("epochs", (None,))[0]
    per_class = result.get("per_class")
    layers = {0: "h", -1: "z"}
    return {
        # One of other length than usual is another measure, and stands under another name.
        "title": title + (f" ({epochs} epoch{'s' * (epochs != 1)})" if epochs is not None else ""),
        "top1": percent(result, "top1"),
        "top5": percent(result, "top5"),
        "without": percent(result, "untrained_top1" if "untrained_top1" in result else "from_scratch_top1"),
        "chance": percent(result, "chance_top1"),
        "step": result.get("step", NO_VALUE),
        "layer": layers.get(result.get("layer"), f"head layer {result.get('layer')}"),
        "source": result.get("source", run.config.get("data.source", NO_VALUE)),
        "settings": "; ".join(
            f"{key} {value}" + (f" instead of the default {usual}" if usual not in ("", 0) else "")
            for key, (value, usual) in other.items()
            if key not in _TOLD
        ),
        "per_class": [
            {
                "name": printable(of_class, _LONGEST),
                "images": found.get("images", NO_VALUE),
                "top1": percent(found, "top1"),
                "taken_for": printable(found.get("taken_for") or "", _LONGEST),
            }
            for of_class, found in (per_class.items() if isinstance(per_class, dict) else ())
            if isinstance(found, dict)
        ],
    }


def _missing(run: RunFiles) -> dict[str, str]:
    """Returns {what a run has no result of: the command that makes it}, without what the report failed to make."""
    wanted = {"diagnose": COLLAPSE, "pictures": "t-SNE, nearest neighbours, curves"}
    if "linear" not in run.failed:  # else there are no labels, or no images to judge by: said already
        wanted = PROBES | wanted
    drawn = any(heading == "What the encoder learned" for heading, _ in run.pictures)
    there = {*run.results, *run.failed, *(["pictures"] if drawn or "tsne" in run.failed else [])}
    return {
        title: command(name, run.name, _FEW_LABELS.get(name, {})) for name, title in wanted.items() if name not in there
    }


def _shown(run: RunFiles, defaults: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Returns what the template shows of a run."""
    order = list(PROBES)
    ranked = sorted(run.results.items(), key=lambda item: order.index(item[0]) if item[0] in order else len(order))
    probes = [_probe(name, result, run, defaults) for name, result in ranked if number(result.get("top1")) is not None]

    # The figures that people look at first.
    figures = {f"{probe['title']}, top-1": probe["top1"] for probe in probes}
    if probes:
        figures |= {f"{probes[0]['title']}, untrained": probes[0]["without"], "chance": probes[0]["chance"]}
    for name, key in (("loss", "loss"), ("validation loss", "validation_loss")):
        last = next((row[key] for row in reversed(run.rows) if number(row.get(key)) is not None), None)
        if last is not None:
            figures[name] = f"{last:.3f}"

    started_from = run.config.get("model.init_from")
    began = f", started from {started_from} (untrained: random weights)" if started_from else ""
    config, verdict = run.config, run.results.get("diagnose", {}).get("verdict")
    verdict = [str(line) for line in verdict] if isinstance(verdict, list) else []
    steps = max((row["step"] for row in run.rows if isinstance(row.get("step"), int)), default=0)
    pictures: dict[str, list[dict[str, str]]] = {heading: [] for heading in HEADINGS}
    for (heading, caption), data in run.pictures.items():
        pictures[heading].append({"caption": caption, "data": base64.b64encode(data).decode()})
    starts = [start["command"] for start in run.starts if isinstance(start.get("command"), list)]
    facts = [name for name in dict.fromkeys(key for start in run.starts for key in start) if name != "command"]
    return {
        "name": run.name,
        "summary": f"{config.get('model.encoder')} on {config.get('data.source')}, "
        f"batch {config.get('train.batch_size')}, {config.get('train.epochs')} epochs, "
        f"loss {config.get('loss.name', CAME_LATER['loss.name'])}, temperature {config.get('loss.temperature')}"
        f"{began}; {steps:,} steps done",
        "figures": dict(list(figures.items())[:_HEADLINES]),
        "probes": probes,
        "sections": {
            heading: {"lines": verdict if heading == COLLAPSE else [], "pictures": drawn}
            for heading, drawn in pictures.items()
            if drawn or (heading == COLLAPSE and verdict)
        },
        "notes": [*(f"{name} could not be made: {why}" for name, why in run.failed.items()), *run.notes],
        "missing": _missing(run),
        "commands": [
            *(shlex.join(["python", *map(str, typed)]) for typed in starts[:1]),
            *(
                command(name, run.name, {key: of[0] for key, of in changed(name, result, defaults).items()})
                for name, result in ranked
                if program_of(name)
            ),
            f"simclr-jax report {shlex.quote(f'--workdir={run.name}')}",
        ],
        "starts": {name: [start.get(name, NO_VALUE) for start in run.starts] for name in facts},
        "config": {key: str(value) for key, value in config.items()},
    }
