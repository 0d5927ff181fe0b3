"""Plots of numbers: similarities, maps of representations, curves. Pictures of images are in `sheets`.

Colours are Okabe and Ito's, which the colour-blind tell apart; shapes and dashes say the same in print.
"""

import dataclasses
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from typing import IO

import matplotlib
import numpy as np
from etils import epath
from matplotlib import colormaps, font_manager
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from simclr_jax.evaluate.scores import printable
from simclr_jax.runtime import disk

BLUE, ORANGE, GREEN, VERMILION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
COLOURS = (BLUE, ORANGE, GREEN, "#CC79A7", "#56B4E9", VERMILION, "#8C8C00", "black")
# Of more classes than `COLOURS`; all strong ones come before the pale ones.
MANY_COLOURS = tuple(map(to_hex, [*colormaps["tab20"].colors[::2], *colormaps["tab20"].colors[1::2]]))
PAIRS = (BLUE, VERMILION, GREEN, "#CC79A7")  # of lines in one plot
MARKERS = "o^sDvP"
MOST_ABOVE = 4  # lines of a plot that are named above it
MOST_NAMED = 24  # classes that a legend names, and that have a colour and shape of their own
DPI = 150
# Names come from data: a "$" in one is no formula, and what the first font cannot draw others may.
FALLBACKS = ("Noto Sans CJK JP", "Noto Sans", "Hiragino Sans", "Yu Gothic", "Microsoft YaHei", "Arial Unicode MS")
TEXT = {
    "text.parse_math": False,
    "text.usetex": False,
    "font.family": ["DejaVu Sans", *(name for name in FALLBACKS if name in font_manager.get_font_names())],
}
FONT = TEXT | {
    "font.size": 8.5,
    "axes.titlesize": 9,
    "legend.fontsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
ABOVE = {"frameon": False, "loc": "lower left", "bbox_to_anchor": (0, 1), "ncols": 2, "borderaxespad": 0.2}

File = epath.Path | IO[bytes]


@dataclasses.dataclass(frozen=True)
class Line:
    """One line of a plot: its name, x and y [n], how it is drawn, and the deviations of y, if any."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    colour: str = BLUE
    style: str = "-"
    marker: str = ""
    error: Sequence[float] | None = None


@dataclasses.dataclass(frozen=True)
class Panel:
    """One plot of several under each other: what its y axis shows, and its lines."""

    label: str
    lines: Sequence[Line]


@matplotlib.rc_context(FONT)
def similarities(file: File, positive: np.ndarray, negative: np.ndarray, *, title: str) -> Figure:
    """Draws the histograms of the cosines of two views of one image and of two images.

    Args:
      file: the PNG to write, a path or a file that is open.
      positive, negative: cosines [n], [m].
      title: over the picture.
    """
    figure, (axis,) = _figure(1, 1, size=(5.2, 3.2), title=title)
    bins = np.linspace(-1, 1, 51)
    for values, name, colour, style, hatch in (
        (negative, "two images", ORANGE, "--", ""),
        (positive, "two views of an image", BLUE, "-", "///"),
    ):
        density, _ = np.histogram(values, bins)
        share = 100 * density / max(len(values), 1)
        axis.stairs(share, bins, fill=True, facecolor=colour, edgecolor=colour, alpha=0.25, hatch=hatch, linewidth=0)
        label = f"{name}: mean {np.mean(values):.2f}"
        axis.stairs(share, bins, color=colour, linestyle=style, linewidth=1.4, label=label)
    axis.set_xlim(-1, 1)
    axis.set_ylim(bottom=0)
    axis.set_xlabel("cosine similarity of projections z")
    axis.set_ylabel("share of pairs, %")
    axis.legend(**ABOVE)
    return save_png(figure, file)


@matplotlib.rc_context(FONT)
def maps(
    file: File, points: Mapping[str, np.ndarray], labels: np.ndarray | None, class_names: Sequence[str], *, title: str
) -> Figure:
    """Draws points in the plane side by side, coloured and shaped by class.

    Args:
      file: the PNG to write, a path or a file that is open.
      points: {title: [n, 2]}.
      labels: int [n], -1 where there is none; None draws all alike.
      class_names: of the labels. Up to `MOST_NAMED` have a legend; more have colours along a scale.
      title: over the picture.
    """
    figure, axes = _figure(1, len(points), size=(4.0 * len(points) + 1.3, 4.3), title=title)
    style = {"s": 7, "alpha": 0.75, "linewidths": 0}
    for axis, (name, xy) in zip(axes, points.items(), strict=True):
        if labels is None:
            axis.scatter(*xy.T, color="0.35", **style)
        elif len(class_names) > MOST_NAMED:
            axis.scatter(*xy.T, c=labels, cmap="viridis", **style)
        else:
            colours = COLOURS if len(class_names) <= len(COLOURS) else MANY_COLOURS
            for label in sorted(set(labels.tolist())):
                # Each round of colours has other shapes, so that no two classes have both in common.
                turn, place = divmod(label, len(colours))
                colour = colours[place] if label >= 0 else "0.7"
                marker = MARKERS[(place + 2 * turn) % len(MARKERS)] if label >= 0 else "x"
                known = printable(class_names[label], 24) if label >= 0 else "no label"
                known = known if known[:1] not in ("", "_") else f" {known}"  # else it is left out of the legend
                axis.scatter(*xy[labels == label].T, color=colour, marker=marker, label=known, **style)
        axis.set_title(name)
        axis.set_xticks([])
        axis.set_yticks([])
        axis.set_aspect("equal", adjustable="datalim")
        axis.spines[:].set_visible(True)
        axis.spines[:].set_color("0.7")
    if labels is not None and len(class_names) <= MOST_NAMED:
        handles, names = axes[0].get_legend_handles_labels()
        legend = figure.legend(handles, names, loc="outside right center", frameon=False, markerscale=1.8)
        for handle in legend.legend_handles:
            handle.set_alpha(1)
    return save_png(figure, file)


@matplotlib.rc_context(FONT)
def curves(
    file: File,
    panels: Sequence[Panel],
    *,
    x_label: str,
    title: str,
    names: Sequence[str] = (),
    log_x: bool = False,
    legend: str = "",
) -> Figure:
    """Draws plots that share their x axis, two in a row.

    Args:
      file: the PNG to write, a path or a file that is open.
      panels: what is drawn.
      x_label: under each.
      title: over the picture.
      names: of x = 0, 1, …, in the place of numbers.
      log_x: whether x is drawn in powers, with the numbers that there are values of; 0 is a power below the least.
      legend: what all panels' lines differ in, over their names: above each plot, or once beside them if there are
        more than `MOST_ABOVE`.
    """
    rows, columns = -(-len(panels) // 2), min(len(panels), 2)
    lines = max(len(panel.lines) for panel in panels)
    height = (3.4 if names else 2.5) * rows + 0.4
    beside = bool(legend) and lines > MOST_ABOVE
    size = (4.2 * columns + 2, max(height, 0.19 * lines + 0.6)) if beside else (4.2 * columns, height)
    figure, axes = _figure(rows, columns, size=size, title=title)
    for axis, panel in zip(axes, panels, strict=False):
        for line in panel.lines:
            style = {"color": line.colour, "marker": line.marker, "ms": 3, "lw": 1.3, "label": line.name}
            axis.errorbar(line.x, line.y, line.error, ls=line.style or "none", capsize=2, **style)
        if log_x:
            ticks = sorted({x for line in panel.lines for x in line.x})
            least = min(x for x in ticks if x > 0)
            axis.set_xscale(**{"value": "log"} if ticks[0] > 0 else {"value": "symlog", "linthresh": least})
            axis.set_xticks(ticks, [f"{x:g}" for x in ticks])
            axis.set_xticks([], minor=True)
        if names:
            axis.set_xticks(range(len(names)), names, rotation=35, ha="right")
        axis.set_ylabel(panel.label)
        axis.set_xlabel(x_label)
        axis.grid(True, color="0.9", linewidth=0.6)
        axis.margins(y=0.12)
        if len(panel.lines) > 1 and not beside:
            axis.legend(**ABOVE, title=legend or None, alignment="left")
    if beside:
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right upper", frameon=False, title=legend)
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    return save_png(figure, file)


def _figure(rows: int, columns: int, *, size: tuple[float, float], title: str) -> tuple[Figure, list]:
    figure = Figure(figsize=size, dpi=DPI, layout="constrained")
    figure.suptitle("\n".join(textwrap.wrap(title, int(size[0] * 15))), fontsize=9)
    return figure, figure.subplots(rows, columns, squeeze=False).ravel().tolist()


def save_png(figure: Figure, file: File) -> Figure:
    """Writes a figure as a PNG, to a path or into a file that is open, and returns it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)  # a box is drawn for it
        if isinstance(file, epath.Path):
            with disk.replacing(file) as new:
                figure.savefig(str(new), format="png")
        else:
            figure.savefig(file, format="png")
    return figure
