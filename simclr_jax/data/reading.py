"""The images of a split on their way into tf.data, and what is wrong with those that cannot be read."""

import contextlib
import ctypes
import dataclasses
import itertools
import os
import re
from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf

from simclr_jax.augment import decode
from simclr_jax.data.order import VALIDATION_EPOCH
from simclr_jax.data.split import Split

with contextlib.suppress(RuntimeError):  # raised where the program has used TensorFlow before; it keeps its settings
    tf.config.set_visible_devices([], "GPU")  # the accelerator belongs to JAX
    # Many images are made side by side; threads within one only get in their way: 2× at 32 pixels, 1.1× at 224.
    tf.config.threading.set_intra_op_parallelism_threads(1)

# glibc returns the memory of every finished view to the system, which clears it page by page for the next: half of the
# processor time at 224 pixels. So it keeps what it has, for arrays up to 32 MiB, its limit, and grows 64 MiB at a time.
with contextlib.suppress(AttributeError, OSError, TypeError):  # raised where the C library is another
    mallopt = ctypes.CDLL(None).mallopt
    for parameter, size in ((-1, 2**30), (-2, 2**26), (-3, 2**25)):  # M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD
        mallopt(parameter, size)

CHUNK = 16  # images at most that are rendered in one call, where all have one size

# What TensorFlow raises for a file that is no image, is gone, may not be read, is a folder, or a broken disk's.
UNREADABLE = (
    tf.errors.InvalidArgumentError,
    tf.errors.NotFoundError,
    tf.errors.PermissionDeniedError,
    tf.errors.FailedPreconditionError,
    tf.errors.UnknownError,
)


def chunks(split: Split, upcoming: Callable[[], Iterator[tuple[int, np.ndarray]]]) -> tf.data.Dataset:
    """Gives the images of what is upcoming, some at a time, whenever its reading starts."""

    def generate():
        for epoch, positions in upcoming():
            for start in range(0, len(positions), CHUNK):
                yield columns(split, epoch, positions[start : start + CHUNK])

    scalar = tf.TensorSpec([None], tf.int64)
    image = tf.TensorSpec([None, *split.images.shape[1:]], tf.uint8 if split.kind == "pixels" else tf.string)
    signature = {"image": image, "label": scalar, "id": scalar, "epoch": scalar}
    return tf.data.Dataset.from_generator(generate, output_signature=signature)


def records(split: Split, fetched: tf.data.Dataset) -> tf.data.Dataset:
    """Takes chunks apart, and reads the files where the images are paths."""
    found = fetched.unbatch()
    return found.map(_read_file, tf.data.AUTOTUNE) if split.kind == "paths" else found


def columns(split: Split, epoch: int, positions: np.ndarray) -> dict:
    """The images at these positions, their labels (-1 where there is none), ids and epoch, each `[n]`."""
    part = split.take(positions)
    labels = np.full(len(part), -1) if part.labels is None else part.labels
    images = part.images if part.kind == "pixels" else part.images.tolist()
    return {"image": images, "label": labels, "id": part.ids, "epoch": np.full(len(part), epoch)}


def _read_file(record: dict) -> dict:
    return record | {"image": tf.io.read_file(record["image"])}


def examine(split: Split, positions: np.ndarray) -> Iterator[tuple[int, tuple[int, int] | str]]:
    """Decodes the images at these positions; yields (position, its (height, width) or "name: reason")."""
    numbered = dataclasses.replace(split, ids=np.arange(len(split)))
    fetched = chunks(numbered, lambda: iter([(VALIDATION_EPOCH, positions)]))

    def measure(record):
        return {"position": record["id"], "size": size_of(record)}

    sizes = records(numbered, fetched).map(measure, tf.data.AUTOTUNE)
    expected = iter(positions.tolist())
    for batch in sizes.ignore_errors().batch(64).as_numpy_iterator():
        for position, size in zip(batch["position"].tolist(), batch["size"].tolist(), strict=True):
            for lost in itertools.takewhile(lambda next_, here=position: next_ != here, expected):
                yield lost, _fault(split, lost)
            yield position, tuple(size)
    for lost in expected:
        yield lost, _fault(split, lost)


def size_of(record: dict) -> tf.Tensor:
    """Height and width of a record's encoded image, int32 `[2]`, decoded whole."""
    return tf.stack(decode.size(decode.whole(record["image"])))


def _fault(split: Split, position: int) -> tuple[int, int] | str:
    """Returns "name: reason" of an image, or its size where it can be read after all."""
    image = split.images[position]
    try:
        return decode.examine(_content(image) if split.kind == "paths" else image)
    except ValueError as error:
        return f"{_name(split, position)}: {error}"


def _content(path: bytes) -> bytes:
    """Reads a file; raises ValueError in the operating system's words."""
    try:
        return tf.io.read_file(path).numpy()
    except UNREADABLE as error:
        link = "a link to nowhere: " if os.path.islink(path) and not os.path.exists(path) else ""
        raise ValueError(link + reason(error).rsplit("; ", 1)[-1]) from error


def _name(split: Split, position: int) -> str:
    """An image's path, in one line whatever characters it has, or its id."""
    if split.kind != "paths":
        return f"image {split.ids[position]}"
    path = bytes(split.images[position])
    name = os.fsdecode(path)
    return name if name.isprintable() else repr(path)[1:]  # as bash reads it after a $


def reason(error: Exception) -> str:
    """The part of TensorFlow's message that is about the image."""
    line = str(getattr(error, "message", error)).strip().splitlines()[0]
    return re.sub(r"\{\{.*?\}\}\s*|\s*\[Op:.*", "", line)
