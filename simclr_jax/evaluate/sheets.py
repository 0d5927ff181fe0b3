"""Pictures of what a run sees, and of what it takes for alike. Plots of numbers are in `plots`."""

import dataclasses
import textwrap
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from etils import epath
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from simclr_jax.evaluate.plots import GREEN, TEXT, VERMILION, File, save_png
from simclr_jax.evaluate.scores import printable

_INCHES = 2.2  # a picture's side
_LINE = 0.125  # a caption line's height, inches
_DPI = 110
_LONGEST = 24  # characters of a class's name
_NAMED, _NUMBERED = 40, 20  # classes of a confusion picture that have room for names, and for numbers


def shown(pixels: np.ndarray, bands: Sequence[int], white: float = 1.0) -> np.ndarray:
    """Returns what a screen shows of images `[..., C]`, `[..., 3]` in [0, 1]: these channels, three or one of them.

    Args:
      pixels: of any type and number of channels.
      bands: their numbers, from 0 on.
      white: the value that is shown as white.
    """
    if pixels.shape[-1] == 3 and tuple(bands) == (0, 1, 2) and pixels.dtype != np.uint16:
        return pixels
    chosen = np.clip(pixels[..., list(bands)] / white, 0, 1)
    return np.repeat(chosen, 3, axis=-1) if len(bands) == 1 else chosen


def brightest(images: Sequence[np.ndarray], bands: Sequence[int]) -> float:
    """Returns what is to be shown as white, of these channels of images in [0, 1]: all but 1 in 200 values lie below.

    Measured values seldom come near what their type can hold: shown as they are, such images would be black.
    """
    values = np.concatenate([image[..., list(bands)].ravel() for image in images])
    return max(float(np.quantile(values, 0.995)), 1e-6)


@dataclasses.dataclass(frozen=True)
class Picture:
    """One picture of a contact sheet.

    Attributes:
      pixels: [H, W, 3], uint8 or float in [0, 1].
      title: over it.
      caption: under it, lines of about 30 characters.
      boxes: {colour: (y, x, height, width)} drawn onto it, pixels.
      frame: colour of its border.
    """

    pixels: np.ndarray
    title: str
    caption: str
    boxes: dict[str, tuple[float, float, float, float]] = dataclasses.field(default_factory=dict)
    frame: str = "black"


@matplotlib.rc_context(TEXT)
def contact_sheet(path: str, pictures: Sequence[Picture], *, columns: int, head: str) -> None:
    """Draws pictures row by row into a PNG.

    Args:
      path: the file to write; its folder must exist.
      pictures: of any size; each is shown as large as its cell.
      columns: pictures in a row.
      head: over the whole sheet.
    """
    rows = -(-len(pictures) // columns)
    lines = max(picture.caption.count("\n") + 1 for picture in pictures)
    size = columns * _INCHES * 1.05, rows * (_INCHES + 0.3 + _LINE * lines) + 0.5
    figure = Figure(figsize=size, dpi=_DPI, layout="constrained")
    figure.suptitle(head, fontsize=9)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis, picture in zip(axes, pictures, strict=False):
        axis.imshow(picture.pixels, interpolation="nearest")
        axis.set_anchor("N")  # wide beside tall: their upper edges in a line, and room for captions below
        axis.set_title(printable(picture.title), fontsize=8)
        axis.set_xlabel(picture.caption, fontsize=6.5, family="monospace", loc="left")
        axis.set_xticks([])
        axis.set_yticks([])
        axis.spines[:].set_color(picture.frame)
        for colour, (y, x, height, width) in picture.boxes.items():
            axis.add_patch(Rectangle((x - 0.5, y - 0.5), width, height, fill=False, edgecolor=colour, linewidth=1.5))
    for axis in axes[len(pictures) :]:
        axis.set_axis_off()
    save_png(figure, epath.Path(path).expanduser())


@matplotlib.rc_context(TEXT)
def confusion(path: epath.Path, matrix: np.ndarray, class_names: Sequence[str], *, title: str) -> None:
    """Draws which share of each class was taken for which into a PNG.

    Args:
      path: the file to write.
      matrix: [classes, classes], images of a class (row) that were taken for another (column).
      class_names: of rows and columns; shown where there is room for them.
      title: over the picture.
    """
    n = len(class_names)
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    side = np.clip(1.5 + 0.35 * n, 4, 11)
    figure = Figure(figsize=(side + 1, side), dpi=_DPI, layout="constrained")
    axis = figure.subplots()
    image = axis.imshow(shares, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    figure.colorbar(image, label="share of the class's images", fraction=0.046)
    axis.set_title("\n".join(textwrap.wrap(title, 60)), fontsize=9)
    axis.set_xlabel("predicted class")
    axis.set_ylabel("class")
    if n <= _NAMED:
        names = [printable(name, _LONGEST) for name in class_names]
        axis.set_xticks(range(n), names, rotation=90, fontsize=7)
        axis.set_yticks(range(n), names, fontsize=7)
    if n <= _NUMBERED:
        for (row, column), share in np.ndenumerate(shares):
            if share >= 0.005:
                colour = "white" if share > 0.6 else "black"
                axis.text(column, row, f"{100 * share:.0f}", ha="center", va="center", color=colour, fontsize=7)
    save_png(figure, path)


@dataclasses.dataclass(frozen=True)
class Neighbours:
    """One row of a picture of nearest neighbours: an image and those that lie nearest, nearest first.

    Attributes:
      image: [H, W, 3], uint8 or float in [0, 1].
      name: its class; None where it has no label.
      images, names: of the neighbours, likewise.
      cosines: of the neighbours to the image.
    """

    image: np.ndarray
    name: str | None
    images: Sequence[np.ndarray]
    names: Sequence[str | None]
    cosines: Sequence[float]


@matplotlib.rc_context(TEXT)
def neighbours(file: File, rows: Sequence[Neighbours], *, title: str) -> Figure:
    """Draws images, left, beside their nearest neighbours. Whether the class is the same is told by the frame's
    colour, by its line, and by a sign: = and a whole line, ≠ and a dashed one.

    Args:
      file: the PNG to write, a path or a file that is open.
      rows: one of each image.
      title: over the picture.
    """
    columns = 1 + max(len(row.images) for row in rows)
    figure = Figure(figsize=(0.95 * columns + 0.3, 1.13 * len(rows) + 0.6), dpi=150, layout="constrained")
    figure.suptitle("\n".join(textwrap.wrap(title, 14 * columns)), fontsize=9)
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for row, (left, *right) in zip(rows, axes, strict=True):
        _thumbnail(left, row.image, "query" if row.name is None else printable(row.name, 13), frame="black", width=0.8)
        for axis in right:
            axis.set_axis_off()
        for axis, image, name, cosine in zip(right, row.images, row.names, row.cosines, strict=False):
            axis.set_axis_on()
            if row.name is None or name is None:
                _thumbnail(axis, image, f"{cosine:.2f}", frame="0.6", width=0.8)
            elif name == row.name:
                _thumbnail(axis, image, f"= {cosine:.2f}", frame=GREEN, width=2.2)
            else:
                _thumbnail(
                    axis, image, f"≠ {cosine:.2f} {printable(name, 8)}", frame=VERMILION, width=2.2, style=(0, (3, 2))
                )
    return save_png(figure, file)


def _thumbnail(axis, image: np.ndarray, caption: str, *, frame: str, width: float, style: Any = "-") -> None:
    axis.imshow(image, interpolation="nearest")
    axis.set_xlabel(caption, fontsize=7, labelpad=2)
    axis.set_xticks([])
    axis.set_yticks([])
    for spine in axis.spines.values():
        spine.set(color=frame, linewidth=width, linestyle=style)
