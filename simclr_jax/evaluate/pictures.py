"""Pictures of what a run sees. The only module that names matplotlib."""

import dataclasses
import textwrap
from collections.abc import Sequence

import numpy as np
from etils import epath
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

_INCHES = 2.2  # a picture's side
_LINE = 0.125  # a caption line's height, inches
_DPI = 110
_NAMED, _NUMBERED = 40, 20  # classes of a confusion picture that have room for names, and for numbers


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
    size = columns * _INCHES * 1.05, rows * (_INCHES + 0.2 + _LINE * lines) + 0.5
    figure = Figure(figsize=size, dpi=_DPI, layout="constrained")
    figure.suptitle(head, fontsize=9)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis, picture in zip(axes, pictures, strict=False):
        _draw(axis, picture)
    for axis in axes[len(pictures) :]:
        axis.set_axis_off()
    _save(figure, epath.Path(path).expanduser())


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
    figure.colorbar(image, label="share of the class", fraction=0.046)
    axis.set_title("\n".join(textwrap.wrap(title, 60)), fontsize=9)
    axis.set_xlabel("taken for")
    axis.set_ylabel("class")
    if n <= _NAMED:
        axis.set_xticks(range(n), class_names, rotation=90, fontsize=7)
        axis.set_yticks(range(n), class_names, fontsize=7)
    if n <= _NUMBERED:
        for (row, column), share in np.ndenumerate(shares):
            if share >= 0.005:
                colour = "white" if share > 0.6 else "black"
                axis.text(column, row, f"{100 * share:.0f}", ha="center", va="center", color=colour, fontsize=7)
    _save(figure, path)


def _save(figure: Figure, path: epath.Path) -> None:
    with path.open("wb") as file:
        figure.savefig(file, format="png")


def _draw(axis, picture: Picture) -> None:
    axis.imshow(picture.pixels, interpolation="nearest")
    axis.set_title(picture.title, fontsize=8)
    axis.set_xlabel(picture.caption, fontsize=6.5, family="monospace", loc="left")
    axis.set_xticks([])
    axis.set_yticks([])
    axis.spines[:].set_color(picture.frame)
    for colour, (y, x, height, width) in picture.boxes.items():
        axis.add_patch(Rectangle((x - 0.5, y - 0.5), width, height, fill=False, edgecolor=colour, linewidth=1.5))
