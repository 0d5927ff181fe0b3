"""Which training images may be learned from: a class-balanced share of them, or those of a list. NumPy alone."""

import os

import numpy as np
from etils import epath

from simclr_jax.data.split import Split

NAMED = 5  # ids or classes that a message names


def balanced(split: Split, fraction: float, *, seed: int) -> Split:
    """Returns ``fraction`` of a split's images, the same number of each class, in their old order.

    Subsets of one seed are nested: 1 % lies in 10 %. A class that has fewer images than its share gives all it has.

    Args:
      split: with a label for each image.
      fraction: of the images, above 0 and up to 1; 1 = all of them, balanced or not.
      seed: decides which images.

    Raises:
      ValueError: the share of a class is less than one image.
    """
    if fraction == 1:
        return split
    classes = np.unique(split.labels).tolist()
    share = int(fraction * len(split) / len(classes) + 1e-9)  # 0.29 of 100 is 28.999… to a float
    if share == 0:
        least = len(classes) / len(split)
        raise ValueError(
            f"config.label_fraction={fraction:g} of {len(split):,} images is less than one image for each of "
            f"{len(classes)} "
            f"classes; use at least {np.ceil(least * 1e6) / 1e6:g}"
        )
    by_id = np.argsort(split.ids, kind="stable")
    positions = []
    for label in classes:
        of_class = by_id[split.labels[by_id] == label]
        positions.append(np.random.default_rng([seed, label]).permutation(of_class)[:share])
    return split.take(np.sort(np.concatenate(positions)))


def listed(split: Split, path: str) -> Split:
    """Returns the images that a text file lists, one a line, in their old order.

    A line holds an image's id or, of files, its name: the path as seen from the source's folder.

    Raises:
      ValueError: no such file, a line that is neither, an image twice or one that the split does not have, or none.
    """
    try:
        lines = epath.Path(path).expanduser().read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"config.ids={path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    position_of = {str(number): position for position, number in enumerate(split.ids.tolist())}
    of_files = split.names is not None
    kind, mend = (
        ("name", "give one path per line, relative to the source's folder") if of_files else ("id", "give one per line")
    )
    for position, name in enumerate(split.names.tolist() if of_files else ()):
        position_of[os.fsdecode(name)] = position
    found, unknown = {}, []
    for number, line in enumerate(lines, 1):
        text = line.strip()
        position = position_of.get(text)
        if text and position is None:
            if not of_files and not text.removeprefix("-").isdecimal():
                raise ValueError(f"line {number} of {path} is not an image id: {text[:40]!r}; {mend}")
            unknown.append(text[:80])
        elif text and position in found:
            raise ValueError(f"line {number} of {path} lists {kind} {text} again, after line {found[position]}")
        elif text:
            found[position] = number
    if unknown:
        names = ", ".join(unknown[:NAMED])
        raise ValueError(f"{path} lists {len(unknown):,} {kind}s that no training image has: {names}; {mend}")
    if not found:
        raise ValueError(f"config.ids={path} lists no image {kind}; {mend}")
    return split.take(np.sort(np.array(list(found))))
