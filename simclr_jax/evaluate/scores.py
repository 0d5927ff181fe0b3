"""What predictions are worth: accuracies, per class and against chance, and what is mistaken for what."""

from collections.abc import Mapping
from typing import Any

import numpy as np

NO_VALUE = "–"
_MOST = 1e30  # of a figure; whole numbers may have thousands of digits, which no float holds


def accuracies(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Returns {"top1", "top5"}, 0 to 1; equal logits count as one class after the other.

    Args:
      logits: [n, classes].
      labels: int [n].
    """
    ranked = np.argsort(-logits, axis=-1, kind="stable")[:, :5]
    hits = ranked == labels[:, None]
    return {"top1": float(hits[:, 0].mean()), "top5": float(hits.any(-1).mean())}


def chance(train_labels: np.ndarray, labels: np.ndarray, num_classes: int) -> dict[str, float]:
    """Returns the accuracies of always answering with the most frequent classes of the training labels."""
    frequencies = np.bincount(train_labels, minlength=num_classes)
    return accuracies(np.broadcast_to(frequencies, (len(labels), num_classes)), labels)


def confusion(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Returns int [classes, classes]: how many images of a class (row) were taken for which (column)."""
    classes = logits.shape[1]
    return np.bincount(labels * classes + logits.argmax(1), minlength=classes**2).reshape(classes, classes)


def per_class(confusion: np.ndarray, class_names: tuple[str, ...]) -> dict[str, Any]:
    """Returns {class: {"images", "top1", "taken_for"}} of the classes that there are images of.

    ``taken_for`` is the class that most of its wrongly classified images were given, or None.
    """
    found = {}
    for index, (name, row) in enumerate(zip(class_names, confusion, strict=True)):
        if row.sum():
            others = np.where(np.arange(len(row)) == index, 0, row)
            taken_for = class_names[others.argmax()] if others.any() else None
            found[name] = {"images": int(row.sum()), "top1": float(row[index] / row.sum()), "taken_for": taken_for}
    return found


def printable(name: Any, most: int = 80) -> str:
    """Returns a name from data as text of one line for screens and pictures, whatever it is called.

    Control characters and marks that turn the direction of text are shown by their numbers; of a longer name than
    ``most`` characters the middle is left out.
    """
    text = str(name)
    if len(text) > most:
        text = f"{text[: most // 2]}…{text[len(text) - (most - 1) // 2 :]}"
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def number(value: Any) -> float | None:
    """Returns a value if it is a number that can be shown, else None: what is read of a run may hold anything."""
    return value if isinstance(value, int | float) and abs(value) < _MOST else None


def percent(values: Mapping[str, Any], name: str) -> str:
    """Returns the fraction of that name as text, "62.50 ± 1.25 %", with NAME_deviation if there is one; "–" if none."""
    value, deviation = number(values.get(name)), number(values.get(f"{name}_deviation"))
    if value is None:
        return NO_VALUE
    return f"{100 * value:.2f}" + (f" ± {100 * deviation:.2f}" if deviation else "") + " %"
