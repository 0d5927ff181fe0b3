"""Which training images may be learned from: a class-balanced share of them, or those of a list. NumPy alone."""

import numpy as np
from etils import epath

from simclr_jax.data.split import Split

NAMED = 5  # ids or classes that a message names


def balanced(split: Split, fraction: float, *, num_classes: int, seed: int) -> Split:
    """Returns ``fraction`` of a split's images, the same number of each class, in their old order.

    Subsets of one seed are nested: 1 % lies in 10 %. A class that has fewer images than its share gives all it has.

    Args:
      split: with a label for each image.
      fraction: of the images, above 0 and up to 1; 1 = all of them, balanced or not.
      num_classes: labels are 0 to num_classes - 1.
      seed: decides which images.

    Raises:
      ValueError: the share of a class is less than one image, or a class has no image.
    """
    if fraction == 1:
        return split
    share = int(fraction * len(split) / num_classes + 1e-9)  # 0.29 of 100 is 28.999… to a float
    if share == 0:
        least = num_classes / len(split)
        raise ValueError(
            f"config.label_fraction={fraction:g} of {len(split):,} images leaves none for each of {num_classes} "
            f"classes; use at least {np.ceil(least * 1e6) / 1e6:g}"
        )
    by_id = np.argsort(split.ids, kind="stable")
    positions = []
    for label in range(num_classes):
        of_class = by_id[split.labels[by_id] == label]
        if not len(of_class):
            raise ValueError(
                f"config.label_fraction={fraction:g}: class number {label} has no training image to choose"
            )
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
