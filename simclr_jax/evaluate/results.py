"""What a probe found: RUN/eval/NAME.json, a table on the screen and, for a look at the mistakes, NAME_confusion.png."""

import contextlib
import datetime
import json
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from simclr_jax.evaluate import scores, sheets
from simclr_jax.evaluate.probed_run import ProbedRun
from simclr_jax.runtime import console, disk, run_folder
from simclr_jax.runtime.config import flatten
from simclr_jax.runtime.console import say, show

_MOST_BYTES = 2**26  # of a JSON file; a probe of 1,000 classes has 100 thousand
LONGEST = 40  # characters of a class's name in a table
LISTED = 20  # classes; of more, the ones that are classified best and worst are listed


def place(folder: str, name: str) -> epath.Path:
    """Returns FOLDER/eval/NAME.json, FOLDER being RUN or --out; raises ValueError where it cannot be written, before
    anything is computed."""
    path = run_folder.inside(folder, "eval", f"{name}.json")
    if (path.parent.exists() and not path.parent.is_dir()) or path.is_dir():
        raise ValueError(f"the result cannot be written to {path}: a file or folder of that name already exists")
    disk.check_writable(path.parent)
    return path


def read(folder: str) -> dict[str, dict[str, Any]]:
    """Returns {NAME: what FOLDER/eval/NAME.json holds}; files that hold no JSON object, and links, are passed over."""
    place = run_folder.folder(folder) / "eval"
    paths = sorted(place.iterdir()) if place.is_dir() else []
    own = [path for path in paths if path.suffix == ".json" and run_folder.lies_inside(folder, "eval", path.name)]
    found = {path.stem: read_object(path) for path in own}
    return {name: result for name, result in found.items() if result is not None}


def read_object(path: epath.Path) -> dict[str, Any] | None:
    """Returns the JSON object that a file of a run holds; None where it holds none. The run may be anybody's."""
    with contextlib.suppress(OSError, ValueError, RecursionError):
        if disk.is_file(path, _MOST_BYTES):
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
      labels, train_labels: int [n] of the test images, and of those that the probe learned from; images without a
        label, -1, which a stream may hold, are not judged.
    """
    known = labels >= 0
    labels, train_labels = labels[known], train_labels[train_labels >= 0]
    logits = {network: made[known] for network, made in logits.items()}
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
    started_from = probed.network.started_from
    found = over_seeds([one.accuracies for one in judged])
    confusion = sum(one.confusion for one in judged) / len(judged)
    per_class = scores.per_class(confusion, probed.class_names)
    result = {
        **found,
        **chosen,
        "step": probed.network.step,
        **({"started_from": started_from} if started_from else {}),
        "layer": probed.layer,
        "source": probed.source,
        "images": images,
        "classes": len(probed.class_names),
        "per_class": per_class,
    }
    title = f"{title} of {probed.layer_name} at step {probed.network.step:,} on {scores.printable(probed.source)}"
    counts = ", ".join(f"{count:,} {role}" for role, count in images.items())
    shown = {name.replace("_", " "): x for name, x in chosen.items() if not name.endswith("validation_top1")}
    settings = ", ".join(f"{name} {value:g}" for name, value in shown.items())
    by_validation = f"best on validation ({scores.percent(chosen, 'validation_top1')}): {settings}"
    began = f"the run started from {scores.printable(started_from)}; other encoders here have random weights"
    began = f"\n{began}" * bool(started_from)
    said = f"\n{title} ({counts} images)\n{table(found)}{began}\n{by_validation}\n\n{_class_table(per_class)}"
    result = keep(probed, path, result, said)
    name = f"{path.stem}_confusion.png"
    draw(probed, name, lambda picture: sheets.confusion(picture, confusion, probed.class_names, title=title))
    return result


def keep(probed: ProbedRun, path: epath.Path, result: dict[str, Any], said: str) -> dict[str, Any]:
    """Writes a result and how it was made, then prints ``said``: a screen may be gone, and a disk may be full.

    Args:
      probed: what was probed.
      path: from `place`.
      result: the measures.
      said: of them, for the screen.

    Returns:
      What the file holds: the result, "config", "command", "versions", "time" and, if any were, images "left_out".

    Raises:
      OSError: it could not be written; it has been printed then.
    """
    result = result | {
        "left_out": probed.left_out,
        "config": flatten(probed.config),
        "command": sys.orig_argv,
        "versions": run_folder.versions(),
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    text = json.dumps(result, indent=2)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        disk.replace_text(path, text + "\n")
    finally:
        show(said)
    console.result(path.stem, result)
    say(f"saved as {path}")
    return json.loads(text)


def draw(probed: ProbedRun, name: str, drawing: Callable[[epath.Path], object]) -> None:
    """Draws a picture of a result that is written already. That it cannot be drawn is said, and no error."""
    try:
        picture = run_folder.inside(probed.folder, "eval", name)
        drawing(picture)
    except Exception as error:  # of matplotlib, its fonts and the disk: any kind
        say(f"{name} could not be drawn: {type(error).__name__}: {scores.printable(error, 300)}")
    else:
        say(f"saved as {picture}")


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
    names = [scores.printable(name, LONGEST) for name, _ in shown]
    width = max(map(len, ("class", *names)))
    head = f"{'class':{width}}  {'images':>7}  {'top-1':>8}  most often mistaken for"
    rows = (
        f"{name:{width}}  {of['images']:>7,}  {100 * of['top1']:6.1f} %  "
        f"{scores.printable('' if of['taken_for'] is None else of['taken_for'], LONGEST)}"
        for name, (_, of) in zip(names, shown, strict=True)
    )
    left_out = len(best_first) - len(shown)
    return "\n".join([head, *rows, *([f"{left_out:,} more classes are in the JSON file"] if left_out else [])])
