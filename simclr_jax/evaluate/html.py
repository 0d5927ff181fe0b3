"""From what a run left to one HTML file that needs nothing else: no network, no other file.

Runs may be anybody's: what is read of them is shown as text, whatever it holds.
"""

import base64
import dataclasses
import datetime
from typing import Any

import jinja2

from simclr_jax.evaluate.scores import NO_VALUE, number, percent

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


@dataclasses.dataclass(frozen=True)
class RunFiles:
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


def render(runs: list[RunFiles], *, version: str) -> str:
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
    values = {key: [str(config.get(key, NO_VALUE)) for config in configs] for key in keys}
    return {key: row for key, row in values.items() if len(set(row)) > 1}


def _shown(run: RunFiles) -> dict[str, Any]:
    """Returns what the template shows of a run."""
    order = list(PROBES)
    ranked = sorted(run.results.items(), key=lambda item: order.index(item[0]) if item[0] in order else len(order))
    layers = {0: "h", -1: "z"}
    probes = []
    for name, result in ranked:
        if number(result.get("top1")) is None:
            continue
        per_class = result.get("per_class")
        classes = per_class.items() if isinstance(per_class, dict) else ()
        probes.append(
            {
                "title": PROBES[name][0] if name in PROBES else name.replace("_", " "),
                "top1": percent(result, "top1"),
                "top5": percent(result, "top5"),
                "without": percent(result, "untrained_top1" if "untrained_top1" in result else "from_scratch_top1"),
                "chance": percent(result, "chance_top1"),
                "step": result.get("step", NO_VALUE),
                "layer": layers.get(result.get("layer"), f"head layer {result.get('layer')}"),
                "source": result.get("source", run.config.get("data.source", NO_VALUE)),
                "per_class": [
                    {
                        "name": of_class,
                        "images": found.get("images", NO_VALUE),
                        "top1": percent(found, "top1"),
                        "taken_for": found.get("taken_for") or "",
                    }
                    for of_class, found in classes
                    if isinstance(found, dict)
                ],
            }
        )

    # The figures that people look at first.
    figures = {f"{probe['title']}, top-1": probe["top1"] for probe in probes}
    if probes:
        figures |= {f"{probes[0]['title']}, untrained": probes[0]["without"], "chance": probes[0]["chance"]}
    for name, key in (("loss", "loss"), ("validation loss", "validation_loss")):
        last = next((row[key] for row in reversed(run.rows) if number(row.get(key)) is not None), None)
        if last is not None:
            figures[name] = f"{last:.3f}"

    config, verdict = run.config, run.results.get("diagnose", {}).get("verdict")
    steps = max((row["step"] for row in run.rows if isinstance(row.get("step"), int)), default=0)
    pictures: dict[str, list[dict[str, str]]] = {}
    for (heading, caption), data in run.pictures.items():
        pictures.setdefault(heading, []).append({"caption": caption, "data": base64.b64encode(data).decode()})
    commands = [start["command"] for start in run.starts if isinstance(start.get("command"), list)]
    facts = [name for name in dict.fromkeys(key for start in run.starts for key in start) if name != "command"]
    return {
        "name": run.name,
        "summary": f"{config.get('model.encoder')} on {config.get('data.source')}, "
        f"batch {config.get('train.batch_size')}, {config.get('train.epochs')} epochs, "
        f"temperature {config.get('loss.temperature')}; {steps:,} steps done",
        "figures": dict(list(figures.items())[:_HEADLINES]),
        "probes": probes,
        "verdict": [str(line) for line in verdict] if isinstance(verdict, list) else [],
        "notes": run.notes,
        "pictures": pictures,
        "commands": [
            *("python " + " ".join(map(str, command)) for command in commands[:1]),
            *(template.format(run=run.name) for name, (_, template) in PROBES.items() if name in run.results),
            f"python -m simclr_jax report --workdir={run.name}",
        ],
        "starts": {name: [start.get(name, NO_VALUE) for start in run.starts] for name in facts},
        "config": {key: str(value) for key, value in config.items()},
    }
