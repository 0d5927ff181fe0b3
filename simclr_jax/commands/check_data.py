"""A look at all images before a run: reads each once, counts them, and names what cannot be read."""

import math
import sys
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from simclr_jax.data import feed
from simclr_jax.data.layout import listed
from simclr_jax.data.unreadable import Unreadable
from simclr_jax.runtime import console
from simclr_jax.runtime.console import progress, show
from simclr_jax.training.trainer import open_splits

LISTED = 100  # unreadable images that are listed on a screen; all are where the output goes to a file
BATCH = 64  # images between two moves of the progress bar

Report = dict[str, Any]  # of a split, see run


def run(config: ConfigDict) -> dict[str, Report]:
    """Reads every image of a config's splits once; prints the splits, the classes and images that cannot be read.

    Args:
      config: as configs/default.py; only its data section and its seed, for the hold-outs, are used.

    Returns:
      {split: {"images": int, "unreadable": ["name: reason", …], "classes": {name: readable images}, "unlabelled": int,
      "height": (min, median, max), "width": likewise, "channels": int, "type": of arrays, "files" of files,
      "ranges": [(min, max) of each channel, 1 is white]}}; height and width are None where nothing can be read, and
      ranges where it was not looked at: in files of 3 channels.

    Raises:
      ValueError: the config and the data do not fit; or, after everything was printed, more images of a split cannot be
        read than data.max_corrupt_fraction allows.
    """
    splits = open_splits(config)
    source = splits.source
    of_source = source.describe()
    show(f"{config.data.source}: {of_source.understood}")
    loaded = {role: splits.load(role) for role in splits.roles}
    reports = {role: _read(split, role, source.class_names) for role, split in loaded.items()}
    names = {role: splits.split_of(role) or "held out" for role in reports} | {"train": splits.train}
    show(f"\n{_table(reports, names)}")
    console.result("check-data", {"splits": reports})

    unread = [name for name in source.split_names if name not in map(splits.split_of, splits.roles)]
    left_out = "; ".join(filter(None, [of_source.left_out, unread and f"unused splits: {listed(unread)}"]))
    if left_out:
        show(f"\nleft out: {left_out}")

    # What cannot be read: all of it in a file, so many on a screen.
    left = LISTED if sys.stdout.isatty() else math.inf
    for role, report in reports.items():
        names = report["unreadable"]
        if names:
            show(f"\nunreadable in {role}:")
        for index, name in enumerate(names):
            if index >= left:
                show(f"  … and {len(names) - index:,} more; to see all of them, redirect the output to a file: > FILE")
                break
            show(f"  {name}")
        left -= min(left, len(names))

    # Whether a run would stop.
    allowed = config.data.max_corrupt_fraction
    fractions = {role: len(report["unreadable"]) / max(report["images"], 1) for role, report in reports.items()}
    counts = {role: f"{len(r['unreadable']):,} of {r['images']:,} {role} images" for role, r in reports.items()}
    bad = [count for role, count in counts.items() if fractions[role] > allowed]
    if bad:
        enough = (math.floor(1e4 * max(fractions.values())) + 1) / 1e4
        or_allow = f", or allow them: --config.data.max_corrupt_fraction={enough:g}" if enough < 1 else ""
        raise ValueError(
            f"{', '.join(bad)} cannot be read, more than data.max_corrupt_fraction={allowed:g} allows; "
            f"repair or remove these files{or_allow}"
        )
    if any(fractions.values()):
        some = ", ".join(count for role, count in counts.items() if fractions[role])
        show(f"\nThe data are usable: {some} cannot be read, which data.max_corrupt_fraction={allowed:g} allows.")
    else:
        looked_at = f"every one of {sum(r['images'] for r in reports.values()):,} images can be read"
        others = f"Of the images that are used, {looked_at}; what is left out was not checked."
        show(f"\n{others if left_out else f'The data are fine: {looked_at}.'}")
    return reports


def _read(split: Any, role: str, class_names: tuple[str, ...]) -> Report:
    """Reads a split once."""
    unreadable = Unreadable(len(split), max_fraction=1.0, named=0)
    sizes, labels, ranges = [np.zeros((0, 2), np.int32)], [np.zeros(0, np.int64)], []
    batches = feed.image_sizes(split, batch_size=BATCH, unreadable=unreadable)
    with progress(total=len(split), desc=f"reading {role}", unit="image") as bar:
        for batch in batches:
            sizes.append(batch["sizes"])
            labels.append(batch["labels"])
            ranges += [(batch["low"].min(0), batch["high"].max(0))] if "low" in batch else []
            bar.update(sum(map(len, labels)) + len(unreadable) - bar.n)
    sizes, labels = np.concatenate(sizes), np.concatenate(labels)
    counts = np.bincount(labels[labels >= 0], minlength=len(class_names))
    return {
        "images": len(split),
        "unreadable": unreadable.names,
        "classes": dict(zip(class_names, counts.tolist(), strict=True)),
        "unlabelled": int((labels < 0).sum()),
        "height": _spread(sizes[:, 0]),
        "width": _spread(sizes[:, 1]),
        "channels": split.channels,
        "type": split.images.dtype.name if split.kind == "pixels" else "files",
        "ranges": _joined(ranges),
    }


def _spread(sides: np.ndarray) -> tuple[int, int, int] | None:
    return (int(sides.min()), int(np.median(sides)), int(sides.max())) if len(sides) else None


def _joined(ranges: list[tuple[np.ndarray, np.ndarray]]) -> list[tuple[float, float]] | None:
    if not ranges:
        return None
    low, high = (np.array(each) for each in zip(*ranges, strict=True))
    return list(zip(low.min(0).tolist(), high.max(0).tolist(), strict=True))


def _table(reports: dict[str, Report], splits: dict[str, str]) -> str:
    """Lays the reports side by side, under the names of their splits."""
    rows = [["", *reports], ["split", *(splits[role] for role in reports)]]
    rows.append(["images", *(f"{report['images']:,}" for report in reports.values())])
    rows.append(["unreadable", *(f"{len(report['unreadable']):,}" for report in reports.values())])
    if reports["train"]["classes"]:
        rows.append(["classes", *(f"{sum(map(bool, report['classes'].values())):,}" for report in reports.values())])
        for name, extreme in (("smallest class", min), ("largest class", max)):
            rows.append([name, *(f"{extreme(report['classes'].values()):,}" for report in reports.values())])
        rows.append(["without label", *(f"{report['unlabelled']:,}" for report in reports.values())])
    for side in ("height", "width"):
        for index, what in enumerate(("min", "median", "max")):
            spreads = [report[side] for report in reports.values()]
            rows.append([f"{side} {what}", *(f"{spread[index]:,}" if spread else "-" for spread in spreads)])
    train = reports["train"]
    if train["channels"] != 3 or train["type"] not in ("uint8", "files"):  # photos have nothing to be told of
        rows.append(["channels", *(f"{report['channels']}" for report in reports.values())])
        rows.append(["type", *(report["type"] for report in reports.values())])
        for channel in range(train["channels"]):
            each = [report["ranges"][channel] if report["ranges"] else None for report in reports.values()]
            rows.append([f"channel {channel}", *("-" if of is None else f"{of[0]:.4f} - {of[1]:.4f}" for of in each)])
    return "\n".join(f"{row[0]:16}" + "".join(f"{cell:>16}" for cell in row[1:]) for row in rows)


def main() -> None:
    """Runs the command from its flags."""
    from simclr_jax.commands import launch
    from simclr_jax.configs import default

    launch.launch(run, known=default.get_config(), arguments=[])
