"""What a probe found: a table on the screen, RUN/eval/NAME.json and, for a look at the mistakes, NAME_confusion.png."""

import contextlib
import json
import os
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from simclr_jax.evaluate import scores, sheets
from simclr_jax.evaluate.probed_run import ProbedRun
from simclr_jax.runtime import run_folder
from simclr_jax.runtime.console import say

_MOST_BYTES = 2**26  # of a JSON file; a probe of 1,000 classes has 100 thousand
LISTED = 20  # classes; of more, the ones that are classified best and worst are listed


def place(workdir: str, name: str) -> epath.Path:
    """Returns RUN/eval/NAME.json; raises ValueError where it cannot be written, before anything is computed."""
    path = run_folder.inside(workdir, "eval", f"{name}.json")
    if (path.parent.exists() and not path.parent.is_dir()) or path.is_dir():
        raise ValueError(f"the result cannot be written to {path}: a file or folder of that name is in its way")
    return path


def read(workdir: str) -> dict[str, dict[str, Any]]:
    """Returns {NAME: what RUN/eval/NAME.json holds}; files that hold no JSON object are passed over."""
    folder = run_folder.folder(workdir) / "eval"
    paths = sorted(folder.iterdir()) if folder.is_dir() else []
    found = {path.stem: read_object(path) for path in paths if path.suffix == ".json"}
    return {name: result for name, result in found.items() if result is not None}


def read_object(path: epath.Path) -> dict[str, Any] | None:
    """Returns the JSON object that a file of a run holds; None where it holds none. The run may be anybody's."""
    with contextlib.suppress(OSError, ValueError, RecursionError):
        if os.path.isfile(path) and path.stat().length <= _MOST_BYTES:
            result = json.loads(path.read_text())
            return result if isinstance(result, dict) else None
    return None


class Judged(NamedTuple):
    """What a probe is worth on the test images.

    Attributes:
      accuracies: {"top1", "top5", "untrained_top1", …, "chance_top1", …}, fractions.
      confusion: [classes, classes] of the pretrained network, see `scores.confusion`.
    """

    accuracies: dict[str, float]
    confusion: np.ndarray


def judge(logits: dict[str, np.ndarray], labels: np.ndarray, train_labels: np.ndarray) -> Judged:
    """Judges a probe of several networks.

    Args:
      logits: {network: [n, classes]} of the test images; all but "pretrained" give their names to their accuracies.
      labels, train_labels: int [n] of the test images, and of those that the probe learned from.
    """
    prefixes = {network: "" if network == "pretrained" else f"{network}_" for network in logits}
    found = {prefixes[network]: scores.accuracies(made, labels) for network, made in logits.items()}
    found["chance_"] = scores.chance(train_labels, labels, logits["pretrained"].shape[1])
    accuracies = {f"{prefix}{name}": value for prefix, values in found.items() for name, value in values.items()}
    return Judged(accuracies, scores.confusion(logits["pretrained"], labels))


def over_seeds(found: list[dict[str, float]]) -> dict[str, float]:
    """Returns the mean of each value and, of several, its standard deviation as NAME_deviation."""
    values = {name: [one[name] for one in found] for name in found[0]}
    means = {name: float(np.mean(numbers)) for name, numbers in values.items()}
    if len(found) == 1:
        return means
    return means | {f"{name}_deviation": float(np.std(numbers, ddof=1)) for name, numbers in values.items()}


def finish(
    probed: ProbedRun,
    path: epath.Path,
    *,
    title: str,
    judged: list[Judged],
    chosen: dict[str, Any],
    images: dict[str, int],
) -> dict[str, Any]:
    """Prints a probe's table, writes its files and returns what its JSON holds.

    Args:
      probed: what was probed.
      path: from `place`.
      title: what the probe is, "linear probe".
      judged: what it is worth, once for each seed.
      chosen: what validation chose, and its accuracy as "validation_top1".
      images: {role: how many}.
    """
    found = over_seeds([one.accuracies for one in judged])
    confusion = sum(one.confusion for one in judged) / len(judged)
    per_class = scores.per_class(confusion, probed.class_names)
    result = {
        **found,
        **chosen,
        "step": probed.network.step,
        "layer": probed.layer,
        "source": probed.source,
        "images": images,
        "classes": len(probed.class_names),
        "per_class": per_class,
    }
    of = f"{title} of {probed.layer_name} at step {probed.network.step:,} on {probed.source}"
    counts = ", ".join(f"{count:,} {role}" for role, count in images.items())
    shown = {name.replace("_", " "): x for name, x in chosen.items() if not name.endswith("validation_top1")}
    settings = ", ".join(f"{name} {value:g}" for name, value in shown.items())
    by_validation = f"chosen on validation ({scores.percent(chosen, 'validation_top1')}): {settings}"
    say(f"\n{of} ({counts} images)\n{table(found)}\n{by_validation}\n\n{_class_table(per_class)}")
    path.parent.mkdir(exist_ok=True)
    picture = path.with_name(f"{path.stem}_confusion.png")
    run_folder.inside(probed.network.run, "eval", picture.name)
    sheets.confusion(picture, confusion, probed.class_names, title=of)
    run_folder.replace_text(path, json.dumps(result, indent=2) + "\n")
    say(f"written to {path} and {picture.name}")
    return result


def table(found: dict[str, float]) -> str:
    """Returns the accuracies as rows of text: pretrained, untrained or from scratch, and chance."""
    rows = {"pretrained": "", "untrained": "untrained_", "from scratch": "from_scratch_", "chance": "chance_"}
    lines = [f"{'encoder':14}{'top-1':>16}{'top-5':>16}"]
    for row, prefix in rows.items():
        if f"{prefix}top1" in found:
            percents = [scores.percent(found, f"{prefix}{top}") for top in ("top1", "top5")]
            lines.append(f"{row:14}" + "".join(f"{percent:>16}" for percent in percents))
    return "\n".join(lines)


def _class_table(per_class: dict[str, dict[str, Any]]) -> str:
    """Returns what `scores.per_class` found as rows of text, best class first; at most `LISTED` of them."""
    best_first = sorted(per_class.items(), key=lambda item: -item[1]["top1"])
    shown = best_first if len(best_first) <= LISTED else best_first[: LISTED // 2] + best_first[-LISTED // 2 :]
    width = max(len("class"), *(len(name) for name, _ in shown))
    head = f"{'class':{width}}  {'images':>7}  {'top-1':>8}  most often taken for"
    rows = (
        f"{name:{width}}  {of['images']:>7,}  {100 * of['top1']:6.1f} %  {of['taken_for'] or ''}" for name, of in shown
    )
    left_out = len(best_first) - len(shown)
    return "\n".join([head, *rows, *([f"{left_out:,} classes between are in the JSON file"] if left_out else [])])
