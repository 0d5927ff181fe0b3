"""Labels from a table: a CSV file whose first line names a column of files and one of labels."""

import collections
import csv
import dataclasses
import io
import os
from collections.abc import Container, Sequence

from etils import epath

from simclr_jax.data.layout import listed

FILE_COLUMNS = ("file", "filename", "file_name", "image", "image_id", "image_name", "img", "id", "path", "filepath")
FILE_COLUMNS += ("file_path", "image_path", "name")
LABEL_COLUMNS = ("label", "class", "category", "target", "labels", "class_name", "label_name")
MOST_MISSING = 0.01  # of the rows, whose images are not there


@dataclasses.dataclass(frozen=True)
class LabelFile:
    """The labels of images, as a table gives them.

    Attributes:
      label_of: {file as the table names it: label}, without rows whose label is empty.
      columns: the two columns that are read.
      unused: the others.
      content: the file's bytes.
    """

    label_of: dict[str, str]
    columns: tuple[str, str]
    unused: tuple[str, ...]
    content: bytes


def read(path: epath.Path) -> LabelFile:
    """Reads a table, comma-separated; raises ValueError where it is none, or gives an image two labels."""
    if os.path.exists(path) and not os.path.isfile(path):
        raise ValueError(f"{path} is not a file but a folder, a pipe or a device, which may never end")
    try:
        content = path.read_bytes()
        rows = list(csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=""), strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} cannot be read as CSV: {getattr(error, 'strerror', None) or error}") from error
    header = [name.strip() for name in rows[0]] if rows else []
    file, label = _column(header, FILE_COLUMNS), _column(header, LABEL_COLUMNS)
    if len(header) == 2 and (file is None) != (label is None):  # id,breed or img,label: the other is the other
        file, label = (1 - label, label) if file is None else (file, 1 - file)
    if file is None or label is None:
        raise ValueError(
            f"{path} starts with {listed(header) or 'nothing'}: its first line must name a column of files and one of "
            f"labels, such as file,label; known names are {', '.join(FILE_COLUMNS)} and {', '.join(LABEL_COLUMNS)}"
        )
    label_of: dict[str, str] = {}
    for number, row in enumerate(rows[1:], 2):
        if not any(cell.strip() for cell in row):
            continue
        if len(row) != len(header):
            raise ValueError(f"row {number} of {path} has {len(row)} columns, but the first row has {len(header)}")
        name, value = row[file].strip().replace("\\", "/").removeprefix("./"), row[label].strip()
        if label_of.setdefault(name, value) != value:
            both = listed([label_of[name], value])
            raise ValueError(f"row {number} of {path} gives {listed([name])} a second label: {both}; keep one")
    unused = tuple(name for index, name in enumerate(header) if index not in (file, label))
    return LabelFile({k: v for k, v in label_of.items() if v}, (header[file], header[label]), unused, content)


def match(
    table: LabelFile, images: Sequence[str], path: str, *, preferred: Container[int] = ()
) -> tuple[list[str], int]:
    """Finds the image of each row of a table, by its path or by its name, with or without the suffix.

    Args:
      table: as read.
      images: paths as seen from the source's folder.
      path: the table's, for messages.
      preferred: the positions of images that are meant where others are called alike.

    Returns:
      The label of each image, "" for one without, and the number of rows whose image is not there.

    Raises:
      ValueError: a name that several images have, an image that two rows give two labels, or too many rows without one.
    """
    places = collections.defaultdict(list)
    for index, image in enumerate(images):
        base = image.rpartition("/")[2]
        for key in {image, image.rpartition(".")[0] or image, base, base.rpartition(".")[0] or base}:
            places[key].append(index)
    whole = {image: index for index, image in enumerate(images)}
    labels, missing = [""] * len(images), []
    for name, label in table.label_of.items():
        found = [whole[name]] if name in whole else places.get(name, [])
        found = [index for index in found if index in preferred] or found
        if not found:
            missing.append(name)
            continue
        if len(found) > 1:
            some = listed([images[index] for index in found], 3)
            raise ValueError(
                f"{path} names {listed([name])}, which may be {some}: give paths relative to the source's folder"
            )
        if labels[found[0]] not in ("", label):
            raise ValueError(f"{path} gives {listed([images[found[0]]])} two labels; keep one of its rows")
        labels[found[0]] = label
    if len(missing) > MOST_MISSING * len(table.label_of) or not table.label_of:
        raise ValueError(
            f"{path}: {len(missing):,} of its {len(table.label_of):,} rows with a label name images that do not exist "
            f"({listed(missing, 3)}); remove these rows, or give the names or paths of the images"
        )
    return labels, len(missing)


def _column(header: Sequence[str], names: Sequence[str]) -> int | None:
    """Returns the place of the column that is called by the first of these names that is there."""
    lower = [name.lower() for name in header]
    return next((lower.index(name) for name in names if name in lower), None)
