"""From what a run left to one HTML file that needs nothing else: no network, no other file.

Runs may be anybody's: what is read of them is shown as text, whatever it holds.
"""

import base64
import dataclasses
import datetime
from typing import Any

import jinja2

# File names in RUN/eval, with what they are called and what makes them; in the order of the report.
PROBES = {
    "linear": ("linear probe", "python eval_linear.py --workdir={run}"),
    "linear_augmented": ("linear probe, augmented", "python -m simclr_jax linear-augmented --workdir={run}"),
    "lbfgs": ("logistic regression (L-BFGS)", "python -m simclr_jax lbfgs --workdir={run}"),
    "knn": ("kNN", "python -m simclr_jax knn --workdir={run}"),
    "finetune": ("fine-tuning", "python -m simclr_jax finetune --workdir={run}"),
    "finetune_0.1": ("10 % of labels", "python -m simclr_jax finetune --workdir={run} --config.label_fraction=0.1"),
    "finetune_0.01": ("1 % of labels", "python -m simclr_jax finetune --workdir={run} --config.label_fraction=0.01"),
}
MOST_PICTURE_BYTES = 2**24  # of one picture; the report would hold no more of them comfortably
_HEADLINES = 8  # figures at the top of a run

_NO_VALUE = "–"
_MOST = 1e30  # of a figure; whole numbers may have thousands of digits, which no float holds


@dataclasses.dataclass(frozen=True)
class Left:
    """What a run left, as it was read.

    Attributes:
      name: RUN, as the user spells it.
      config: {"section.key": value}.
      starts: of versions.jsonl.
      rows: of metrics.jsonl.
      results: {name: what RUN/eval/NAME.json holds}.
      pictures: {(heading, caption): PNG}.
      notes: lines that say what could not be made and why, and what is of another step.
    """

    name: str
    config: dict[str, Any]
    starts: list[dict[str, Any]]
    rows: list[dict[str, Any]]
    results: dict[str, dict[str, Any]]
    pictures: dict[tuple[str, str], bytes]
    notes: list[str]


def render(runs: list[Left], *, version: str) -> str:
    """Returns the HTML of a report on one run, or of a comparison of several.

    Args:
      runs: at least one.
      version: of this library.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("simclr_jax.evaluate", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    shown = [_shown(run) for run in runs]
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
    values = {key: [str(config.get(key, _NO_VALUE)) for config in configs] for key in keys}
    return {key: row for key, row in values.items() if len(set(row)) > 1}


def _shown(run: Left) -> dict[str, Any]:
    probes = [_probe(name, result, run.config) for name, result in _ordered(run.results)]
    pictures: dict[str, list[dict[str, str]]] = {}
    for (heading, caption), data in run.pictures.items():
        pictures.setdefault(heading, []).append({"caption": caption, "data": base64.b64encode(data).decode()})
    return {
        "name": run.name,
        "summary": _summary(run),
        "figures": _figures(run, probes),
        "probes": probes,
        "verdict": _verdict(run.results.get("diagnose", {})),
        "notes": run.notes,
        "pictures": pictures,
        "commands": _commands(run),
        "starts": {name: [start.get(name, _NO_VALUE) for start in run.starts] for name in _names(run.starts)},
        "config": {key: str(value) for key, value in run.config.items()},
    }


def _ordered(results: dict[str, dict[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
    order = list(PROBES)
    ranked = sorted(results.items(), key=lambda item: order.index(item[0]) if item[0] in order else len(order))
    return [(name, result) for name, result in ranked if _number(result.get("top1")) is not None]


def _probe(name: str, result: dict[str, Any], config: dict[str, Any]) -> dict[str, Any]:
    title = PROBES[name][0] if name in PROBES else name.replace("_", " ")
    per_class = result.get("per_class")
    rows = per_class.items() if isinstance(per_class, dict) else ()
    layers = {0: "h", -1: "z"}
    return {
        "title": title,
        "top1": _percent(result, "top1"),
        "top5": _percent(result, "top5"),
        "without": _percent(result, "untrained_top1" if "untrained_top1" in result else "from_scratch_top1"),
        "chance": _percent(result, "chance_top1"),
        "step": result.get("step", _NO_VALUE),
        "layer": layers.get(result.get("layer"), f"head layer {result.get('layer')}"),
        "source": result.get("source", config.get("data.source", _NO_VALUE)),
        "per_class": [
            {
                "name": of_class,
                "images": found.get("images", _NO_VALUE),
                "top1": _percent(found, "top1"),
                "taken_for": found.get("taken_for") or "",
            }
            for of_class, found in rows
            if isinstance(found, dict)
        ],
    }


def _figures(run: Left, probes: list[dict[str, Any]]) -> dict[str, str]:
    """The figures that people look at first."""
    figures = {f"{probe['title']}, top-1": probe["top1"] for probe in probes}
    if probes:
        figures |= {f"{probes[0]['title']}, untrained": probes[0]["without"], "chance": probes[0]["chance"]}
    for name, key in (("loss", "loss"), ("validation loss", "validation_loss")):
        last = next((row[key] for row in reversed(run.rows) if _number(row.get(key)) is not None), None)
        if last is not None:
            figures[name] = f"{last:.3f}"
    return dict(list(figures.items())[:_HEADLINES])


def _summary(run: Left) -> str:
    config = run.config
    steps = max((row["step"] for row in run.rows if isinstance(row.get("step"), int)), default=0)
    return (
        f"{config.get('model.encoder')} on {config.get('data.source')}, batch {config.get('train.batch_size')}, "
        f"{config.get('train.epochs')} epochs, temperature {config.get('loss.temperature')}; {steps:,} steps done"
    )


def _verdict(diagnosis: dict[str, Any]) -> list[str]:
    lines = diagnosis.get("verdict")
    return [str(line) for line in lines] if isinstance(lines, list) else []


def _commands(run: Left) -> list[str]:
    commands = [start["command"] for start in run.starts if isinstance(start.get("command"), list)]
    lines = ["python " + " ".join(map(str, command)) for command in commands[:1]]
    made = [template.format(run=run.name) for name, (_, template) in PROBES.items() if name in run.results]
    return [*lines, *made, f"python -m simclr_jax report --workdir={run.name}"]


def _names(starts: list[dict[str, Any]]) -> list[str]:
    return [name for name in dict.fromkeys(key for start in starts for key in start) if name != "command"]


def _percent(values: dict[str, Any], name: str) -> str:
    value, deviation = _number(values.get(name)), _number(values.get(f"{name}_deviation"))
    if value is None:
        return _NO_VALUE
    return f"{100 * value:.2f}" + (f" ± {100 * deviation:.2f}" if deviation else "") + " %"


def _number(value: Any) -> float | None:
    return value if isinstance(value, int | float) and abs(value) < _MOST else None
