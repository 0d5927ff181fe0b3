"""Runs side by side: what is compared, whether two differ by more than chance, a table and a picture."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath
from scipy import stats

from simclr_jax.commands.measures import MEASURES
from simclr_jax.evaluate import plots
from simclr_jax.runtime import console, disk

SIGNIFICANCE = 0.05  # how often a test tells variants apart that are the same
LOG_SPAN = 5  # largest / smallest place from which on an axis is logarithmic
_COLOURS = tuple(dict.fromkeys((*plots.PAIRS, *plots.COLOURS)))
_STYLES = ("-", "--", ":", "-.")

Found = Mapping[str, Mapping[str, list[float]]]  # {variant: {measure: its values, one a seed}}; NaN where it diverged


@dataclasses.dataclass(frozen=True)
class Variant:
    """One setting of those that are compared.

    Attributes:
      name: in tables.
      settings: {"section.key": value}, of which some may be as in the base config.
      x: its place on the picture's axis; None where the axis only has names.
      line: which of the picture's lines it is on.
      tick: its name on such an axis; "" = as in tables.
    """

    name: str
    settings: dict[str, Any]
    x: float | None = None
    line: str = ""
    tick: str = ""


@dataclasses.dataclass(frozen=True)
class Sweep:
    """Variants of a config that are compared.

    Attributes:
      variants: what each run changes.
      measures: those of `MEASURES` that are shown.
      x: what the picture's axis is.
      lines: what its lines differ in.
      keys: config keys with a column each in the table; without any, its first column has the variants' names.
    """

    variants: list[Variant]
    measures: tuple[str, ...]
    x: str = ""
    lines: str = ""
    keys: tuple[str, ...] = ()


def written(value: Any) -> str:
    """Returns a config value as one would type it, in six digits if these are all."""
    short = f"{value:g}" if isinstance(value, float) else str(value)
    return short if not isinstance(value, float) or float(short) == value else repr(value)


def difference(
    first: Sequence[float], second: Sequence[float], *, paired: bool = False, significance: float = SIGNIFICANCE
) -> int:
    """Tells whether values differ by a t-test, Welch's or a paired one.

    Args:
      first, second: two or more values each, one a seed.
      paired: whether they are two measures of the same runs.
      significance: how often the test may tell values apart that are the same.

    Returns:
      1 where the first are higher, -1 where they are lower, 0 where the test cannot tell.
    """
    gaps = [value - other for value, other in zip(first, second, strict=True)]
    # A test divides by the deviation.
    if len(set(gaps)) == 1 if paired else len(set(first)) == len(set(second)) == 1:
        return (gaps[0] > 0) - (gaps[0] < 0)
    test = stats.ttest_rel(first, second) if paired else stats.ttest_ind(first, second, equal_var=False)
    return int(math.copysign(1, test.statistic)) if test.pvalue < significance else 0


def spread(values: Sequence[float]) -> str:
    """Returns fractions, one a seed, as mean and standard deviation in percent: "87.2 ± 1.3"."""
    lost = sum(map(math.isnan, values))
    if lost:
        return f"diverged ({lost} of {len(values)})" if len(values) > 1 else "diverged"
    deviation = f" ± {100 * np.std(values, ddof=1):.1f}" if len(values) > 1 else ""
    return f"{100 * np.mean(values):.1f}{deviation}"


def publish(folder: epath.Path, name: str, sweep: Sweep, found: Found, *, of: str, conclusion: str) -> None:
    """Prints the table and what follows from it; writes them as FOLDER/NAME.md, and the picture as NAME.png.

    Args:
      folder: FOLDER.
      name: of the sweep or the study.
      sweep: what was compared.
      found: what came of it.
      of: what the runs have in common, for the title.
      conclusion: what stands below the table.
    """
    seeds = len(next(iter(found.values()))["untrained_top1"])
    title = f"{name}: {of}, {seeds} seed{'s' * (seeds != 1)}"
    text = f"# {title}\n\n{table(sweep, found)}\n\n{conclusion}\n"
    disk.replace_text(folder / f"{name}.md", text)
    draw(folder / f"{name}.png", sweep, found, title=title)
    console.show(f"\n{text}\nsaved as {folder / name}.md and {name}.png")
    console.result(name, {"variants": found, "conclusion": conclusion})


def table(sweep: Sweep, found: Found) -> str:
    """Returns a row a variant: its settings or its name, then its measures over the seeds."""
    measures = (*sweep.measures, "untrained_top1")
    rows = [[*(sweep.keys or ["variant"]), *(MEASURES[measure] for measure in sweep.measures), "untrained"]]
    rows.append(["---"] * len(rows[0]))
    for variant in sweep.variants:
        first = [written(variant.settings[key]) for key in sweep.keys] or [variant.name]
        rows.append([*first, *(spread(found[variant.name][measure]) for measure in measures)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in rows)


def draw(file: epath.Path, sweep: Sweep, found: Found, *, title: str) -> None:
    """Draws a panel a measure, in it the sweep's lines; variants without a place on the axis stand side by side."""
    named = any(variant.x is None for variant in sweep.variants)
    places = {variant.name: number if named else variant.x for number, variant in enumerate(sweep.variants)}
    panels = [plots.Panel(MEASURES[measure], []) for measure in sweep.measures]
    for measure, panel in zip(sweep.measures, panels, strict=True):
        for number, line in enumerate(dict.fromkeys(variant.line for variant in sweep.variants)):
            names = [variant.name for variant in sweep.variants if variant.line == line]
            names.sort(key=lambda name: places[name])
            values = [100 * np.array(found[name][measure]) for name in names]
            drawn = plots.Line(
                line,
                [places[name] for name in names],
                [value.mean() for value in values],
                colour=_COLOURS[number % len(_COLOURS)],
                # The second round of colours has other styles.
                style=_STYLES[(number + number // len(_COLOURS)) % len(_STYLES)] if not named else "",
                marker="o",
                error=[value.std(ddof=1) if len(value) > 1 else 0.0 for value in values],
            )
            panel.lines.append(drawn)
    names = tuple(variant.tick or variant.name for variant in sweep.variants) if named else ()
    positive = [place for place in places.values() if place > 0]
    log_x = not named and max(positive) >= LOG_SPAN * min(positive)
    plots.curves(file, panels, x_label=sweep.x, title=title, names=names, log_x=log_x, legend=sweep.lines)
