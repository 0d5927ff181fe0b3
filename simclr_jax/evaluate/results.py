"""What a probe found: a table on the screen, RUN/eval/NAME.json and, for a look at the mistakes, NAME_confusion.png."""

import contextlib
import json
import os
from typing import Any

import numpy as np
from etils import epath

from simclr_jax.evaluate import scores
from simclr_jax.evaluate import sheets as pictures
from simclr_jax.evaluate.probed_run import Subject
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
        is_file = os.path.isfile(path) if run_folder.is_local(path) else path.is_file()  # a pipe would never end
        if is_file and path.stat().length <= _MOST_BYTES:
            result = json.loads(path.read_text())
            return result if isinstance(result, dict) else None
    return None


def of_networks(
    logits: dict[str, np.ndarray], labels: np.ndarray, train_labels: np.ndarray, num_classes: int
) -> dict[str, float]:
    """Returns {"top1", "top5", "untrained_top1", …, "chance_top1", …}, fractions.

    Args:
      logits: {network: [n, classes]} of the test images; all but "pretrained" give their names to their accuracies.
      labels, train_labels: int [n] of the test images, and of those that the probe learned from.
      num_classes: labels are 0 to num_classes - 1.
    """
    prefixes = {network: "" if network == "pretrained" else f"{network}_" for network in logits}
    found = {prefixes[network]: scores.accuracies(made, labels) for network, made in logits.items()}
    found["chance_"] = scores.chance(train_labels, labels, num_classes)
    return {f"{prefix}{name}": value for prefix, values in found.items() for name, value in values.items()}


def over_seeds(found: list[dict[str, float]]) -> dict[str, float]:
    """Returns the mean of each value and, of several, its standard deviation as NAME_deviation."""
    values = {name: [one[name] for one in found] for name in found[0]}
    means = {name: float(np.mean(numbers)) for name, numbers in values.items()}
    if len(found) == 1:
        return means
    return means | {f"{name}_deviation": float(np.std(numbers, ddof=1)) for name, numbers in values.items()}


def finish(
    subject: Subject,
    path: epath.Path,
    *,
    title: str,
    found: dict[str, float],
    chosen: dict[str, Any],
    images: dict[str, int],
    confusion: np.ndarray,
) -> dict[str, Any]:
    """Prints a probe's table, writes its files and returns what its JSON holds.

    Args:
      subject: what was probed.
      path: from `place`.
      title: what the probe is, "linear probe".
      found: accuracies, as of `of_networks` or `over_seeds`.
      chosen: what validation chose, and its accuracy as "validation_top1".
      images: {role: how many}.
      confusion: [classes, classes] of the test images, see `scores.confusion`.
    """
    result = {
        **found,
        **chosen,
        "step": subject.network.step,
        "layer": subject.layer,
        "source": subject.source,
        "images": images,
        "classes": len(subject.class_names),
        "per_class": scores.per_class(confusion, subject.class_names),
    }
    of = f"{title} of {subject.layer_name()} at step {subject.network.step:,} on {subject.source}"
    counts = ", ".join(f"{count:,} {role}" for role, count in images.items())
    say(f"\n{of} ({counts} images)\n{table(found)}\n{_chosen(chosen)}\n\n{_class_table(result['per_class'])}")
    path.parent.mkdir(exist_ok=True)
    picture = path.with_name(f"{path.stem}_confusion.png")
    run_folder.inside(subject.workdir, "eval", picture.name)
    pictures.confusion(picture, confusion, subject.class_names, title=of)
    run_folder.replace_text(path, json.dumps(result, indent=2) + "\n")
    say(f"written to {path} and {picture.name}")
    return result


def table(found: dict[str, float]) -> str:
    """Returns the accuracies as rows of text: pretrained, untrained or from scratch, and chance."""
    rows = {"pretrained": "", "untrained": "untrained_", "from scratch": "from_scratch_", "chance": "chance_"}
    lines = [f"{'encoder':14}{'top-1':>16}{'top-5':>16}"]
    for row, prefix in rows.items():
        if f"{prefix}top1" in found:
            lines.append(f"{row:14}" + "".join(f"{_percent(found, prefix + top):>16}" for top in ("top1", "top5")))
    return "\n".join(lines)


def _percent(found: dict[str, float], name: str) -> str:
    deviation = found.get(f"{name}_deviation")
    spread = "" if not deviation else f" ± {100 * deviation:.2f}"
    return f"{100 * found[name]:.2f}{spread} %"


def _chosen(chosen: dict[str, Any]) -> str:
    shown = {name: value for name, value in chosen.items() if not name.endswith("validation_top1")}
    values = ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in shown.items())
    return f"chosen on validation ({100 * chosen['validation_top1']:.2f} %): {values}"


def _class_table(per_class: dict[str, dict[str, Any]]) -> str:
    best_first = sorted(per_class.items(), key=lambda item: -item[1]["top1"])
    shown = best_first if len(best_first) <= LISTED else best_first[: LISTED // 2] + best_first[-LISTED // 2 :]
    width = max(len("class"), *(len(name) for name, _ in shown))
    head = f"{'class':{width}}  {'images':>7}  {'top-1':>8}  most often taken for"
    rows = (
        f"{name:{width}}  {of['images']:>7,}  {100 * of['top1']:6.1f} %  {of['taken_for'] or ''}" for name, of in shown
    )
    left_out = len(best_first) - len(shown)
    return "\n".join([head, *rows, *([f"{left_out:,} classes between are in the JSON file"] if left_out else [])])
