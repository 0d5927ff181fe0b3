"""Which training images may be learned from: a class-balanced share of them, or those of a list. NumPy alone."""

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
            f"config.label_fraction={fraction:g} of {len(split):,} images leaves none for each of {len(classes)} "
            f"classes; use at least {np.ceil(least * 1e6) / 1e6:g}"
        )
    by_id = np.argsort(split.ids, kind="stable")
    positions = []
    for label in classes:
        of_class = by_id[split.labels[by_id] == label]
        positions.append(np.random.default_rng([seed, label]).permutation(of_class)[:share])
    return split.take(np.sort(np.concatenate(positions)))


def listed(split: Split, path: str) -> Split:
    """Returns the images whose ids a text file lists, one a line, in their old order.

    Raises:
      ValueError: no such file, a line that is no number, an id twice or one that the split does not have, or no id.
    """
    try:
        lines = epath.Path(path).expanduser().read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"config.ids={path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    ids = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            found = int(line)
        except ValueError:
            raise ValueError(f"line {number} of {path} is no image id: {line[:40]!r}; give one number a line") from None
        if found in ids:
            raise ValueError(f"line {number} of {path} lists id {found} again, after line {ids[found]}")
        ids[found] = number
    if not ids:
        raise ValueError(f"config.ids={path} lists no image id; give one number a line")
    if unknown := sorted(ids.keys() - set(split.ids.tolist())):
        names = ", ".join(map(str, unknown[:NAMED]))
        raise ValueError(f"{path} lists {len(unknown):,} ids that no training image has: {names}")
    return split.take(np.flatnonzero(np.isin(split.ids, list(ids))))
