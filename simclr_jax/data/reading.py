"""What is wrong with an image that cannot be read, in words; and how TensorFlow, which reads them, is set up."""

import contextlib
import ctypes
import os
import re
from collections.abc import Callable

import tensorflow as tf
from PIL import Image

from simclr_jax.augment import decode, pillow
from simclr_jax.data import process
from simclr_jax.data.split import Split

# What TensorFlow raises for a file that is no image, is gone, may not be read, is a folder, or a broken disk's.
UNREADABLE = (
    tf.errors.InvalidArgumentError,
    tf.errors.NotFoundError,
    tf.errors.PermissionDeniedError,
    tf.errors.FailedPreconditionError,
    tf.errors.UnknownError,
)

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3  # glibc's malloc.h


def set_up() -> None:
    """Sets TensorFlow, Pillow and the C library up for input, in a process of our own; does nothing in another's.

    To be called before TensorFlow computes anything, since it keeps the settings that it has then. Calling it again
    changes nothing.
    """
    if not process.owned:
        return
    with contextlib.suppress(RuntimeError):  # raised where the program has used TensorFlow before
        tf.config.set_visible_devices([], "GPU")  # the accelerator belongs to JAX
        # Many images are made side by side; threads within one only get in their way: 2× at 32 pixels, 1.1× at 224.
        tf.config.threading.set_intra_op_parallelism_threads(1)
    Image.MAX_IMAGE_PIXELS = pillow.MAX_PIXELS  # Pillow's own, 0.18 gigapixels, is for pictures that strangers upload
    # glibc returns the memory of every finished view to the system, which clears it page by page for the next: half of
    # the processor time at 224 pixels. So it keeps what it has, for arrays up to 32 MiB, its limit, and grows 64 MiB at
    # a time.
    with contextlib.suppress(AttributeError, OSError, TypeError):  # raised where the C library is another
        mallopt = ctypes.CDLL(None).mallopt
        for parameter, size in ((M_TRIM_THRESHOLD, 2**30), (M_TOP_PAD, 2**26), (M_MMAP_THRESHOLD, 2**25)):
            mallopt(parameter, size)


def mapped(dataset: tf.data.Dataset, function: Callable) -> tf.data.Dataset:
    """Applies a function of TensorFlow ops to each element: many at a time, in their order.

    As it is, without AutoGraph: there is no Python in it to be converted, and what converts it parses source text,
    which takes time, leaves files in the temporary folder, and fails in Python 3.11 where two threads do it at once.
    """
    unconverted = tf.autograph.experimental.do_not_convert(function)
    return dataset.map(unconverted, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)


def reason(error: Exception) -> str:
    """Returns the part of TensorFlow's message that is about the image, one line."""
    line = str(getattr(error, "message", error)).strip().splitlines()[0]
    return re.sub(r"\{\{.*?\}\}\s*|\s*\[Op:.*", "", line)


def examine(split: Split, position: int) -> tuple[int, int] | str:
    """Returns "name: reason" of an image that could not be read, or its height and width where it can after all."""
    content = split.images[position]
    name = f"image {split.ids[position]}"
    try:
        if split.kind == "paths":
            path = bytes(content)
            name = os.fsdecode(path)
            if not name.isprintable():
                name = repr(path)[1:]  # as bash reads it after a $
            try:
                content = tf.io.read_file(path).numpy()
            except UNREADABLE as error:
                link = "a broken link: " if os.path.islink(path) and not os.path.exists(path) else ""
                raise ValueError(link + reason(error).rsplit("; ", 1)[-1]) from error
        return decode.examine(content, split.channels)
    except ValueError as error:
        return f"{name}: {error}"
