"""From a split to batches: order, shard, batch, prefetch. What a view looks like belongs to augment/.

The order of images and the look of every view are functions of the seed and the step alone, so a run that resumes
asks for the batches from its step on and nothing of the input has to be stored.
"""

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import tensorflow as tf

from simclr_jax.augment import host
from simclr_jax.augment.recipe import Recipe
from simclr_jax.data.split import Split

if TYPE_CHECKING:
    from simclr_jax.data.tfds import Stream

with contextlib.suppress(RuntimeError):  # raised where the program has used TensorFlow before; it keeps its settings
    tf.config.set_visible_devices([], "GPU")  # the accelerator belongs to JAX
    # Many images are made side by side; threads within one only get in their way: 2× at 32 pixels, 1.1× at 224.
    tf.config.threading.set_intra_op_parallelism_threads(1)

VALIDATION_EPOCH = -1  # no epoch of training has this number, so validation views are their own and never change

# What TensorFlow raises for a file that is no image, is gone, may not be read, or is a folder.
UNREADABLE = (
    tf.errors.InvalidArgumentError,
    tf.errors.NotFoundError,
    tf.errors.PermissionDeniedError,
    tf.errors.FailedPreconditionError,
)

Batches = Iterator[dict[str, np.ndarray]]
Order = Callable[[int], tuple[int, np.ndarray]]  # step → (epoch, positions of this host's images)


def training_views(
    split: "Split | Stream",
    recipe: Recipe,
    *,
    batch_size: int,
    seed: int,
    first_step: int,
    last_step: int,
    shard: tuple[int, int] = (0, 1),
) -> Batches:
    """Yields batches of two views of each image, for steps ``first_step`` to ``last_step - 1``.

    Every epoch shuffles all images anew and drops the images that do not fill its last batch.

    Args:
      split: the images.
      recipe: what a view is.
      batch_size: images per step over all hosts.
      seed: decides the order and the views.
      first_step: 0, or the step of the checkpoint that a run resumes from. Earlier images are not decoded.
      last_step: where to stop.
      shard: this host's index and the number of hosts.

    Yields:
      {"views": float32 [batch_size / hosts, 2, size, size, 3] in [0, 1], "labels": int64, -1 where there is none}

    Raises:
      ValueError: the batch is larger than the split or does not divide by the hosts; or, when its turn comes, an
        image cannot be read.
    """
    if batch_size > len(split):
        raise ValueError(f"batch_size {batch_size} is larger than the {len(split)} images; use {len(split)} or less")
    local = _local_batch(batch_size, shard)
    render = _pair_of_views(recipe, seed)
    if isinstance(split, Split):
        order = _training_order(len(split), batch_size, seed, shard)
        return _from_split(split, order, range(first_step, last_step), render, local)
    epochs = _epochs(first_step, last_step, len(split) // batch_size)
    mine = split.shard(*shard)
    return itertools.chain.from_iterable(
        _from_stream(mine, _shuffle_seed(seed, epoch), epoch, (start * local, stop * local), render, local)
        for epoch, start, stop in epochs
    )


def validation_views(
    split: "Split | Stream", recipe: Recipe, *, batch_size: int, seed: int, shard: tuple[int, int] = (0, 1)
) -> Batches:
    """Yields one pass over a split in its stored order, with the same two views of an image each time.

    Yields and raises as :func:`training_views`; images that do not fill the last batch are left out.
    """
    local = _local_batch(batch_size, shard)
    render = _pair_of_views(recipe, seed)
    steps = range(len(split) // batch_size)
    if isinstance(split, Split):
        return _from_split(split, _stored_order(np.arange(len(split)), batch_size, shard), steps, render, local)
    return _from_stream(split.shard(*shard), None, VALIDATION_EPOCH, (0, len(steps) * local), render, local)


def central_views(
    split: "Split | Stream", image_size: int, *, batch_size: int, shard: tuple[int, int] = (0, 1)
) -> Batches:
    """Yields every image of a split once, in its stored order, as evaluation sees it: the central crop, resized.

    Args:
      split: the images.
      image_size: side of the view, pixels.
      batch_size: images per batch of this host.
      shard: this host's index and the number of hosts; a host sees its own part of the split.

    Yields:
      {"images": float32 [n, image_size, image_size, 3] in [0, 1], "labels": int64 [n]}, n = batch_size but in the last.

    Raises:
      ValueError: when its turn comes, an image cannot be read.
    """

    def render(record):
        return {"images": host.central_view(record["image"], image_size), "labels": record["label"]}

    if isinstance(split, Split):
        mine = np.array_split(np.arange(len(split)), shard[1])[shard[0]]
        steps = range(-(-len(mine) // batch_size))
        return _from_split(split, _stored_order(mine, batch_size), steps, render, batch_size)
    mine = split.shard(*shard)
    return _from_stream(mine, None, VALIDATION_EPOCH, (0, len(mine)), render, batch_size)


def _local_batch(batch_size: int, shard: tuple[int, int]) -> int:
    if batch_size % shard[1]:
        raise ValueError(f"batch_size {batch_size} is not divisible by {shard[1]} hosts")
    return batch_size // shard[1]


def _training_order(n: int, batch_size: int, seed: int, shard: tuple[int, int]) -> Order:
    @functools.lru_cache(maxsize=1)
    def shuffled(epoch: int) -> np.ndarray:
        return np.random.default_rng([seed, epoch]).permutation(n)

    def order(step: int):
        epoch, index = divmod(step, n // batch_size)
        return epoch, _batch_of(shuffled(epoch), index, batch_size, shard)

    return order


def _stored_order(positions: np.ndarray, batch_size: int, shard: tuple[int, int] = (0, 1)) -> Order:
    return lambda step: (VALIDATION_EPOCH, _batch_of(positions, step, batch_size, shard))


def _batch_of(positions: np.ndarray, index: int, batch_size: int, shard: tuple[int, int]) -> np.ndarray:
    return np.split(positions[index * batch_size : (index + 1) * batch_size], shard[1])[shard[0]]


def _epochs(first_step: int, last_step: int, steps_per_epoch: int) -> Iterator[tuple[int, int, int]]:
    """Yields (epoch, its first step, its last step + 1), counted from the epoch's start, over a range of steps."""
    for epoch in range(first_step // steps_per_epoch, -(-last_step // steps_per_epoch)):
        begin = epoch * steps_per_epoch
        yield epoch, max(first_step - begin, 0), min(last_step - begin, steps_per_epoch)


def _shuffle_seed(seed: int, epoch: int) -> int:
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0])


def _pair_of_views(recipe: Recipe, seed: int) -> Callable[[dict], dict]:
    def render(record):
        views = host.two_views(recipe, record["image"], seed, record["epoch"], record["id"])
        return {"views": views, "labels": record["label"]}

    return render


def _from_split(split: Split, order: Order, steps: range, render: Callable, batch_size: int) -> Batches:
    """Yields the batch of each step; ``batch_size`` is the number of positions that ``order`` gives for one."""
    batches = _batches(_fetch(split, order, steps), render, batch_size)
    for step in steps:
        try:
            yield next(batches)
        except UNREADABLE as error:
            name = _unreadable(split.take(order(step)[1]))
            raise ValueError(f"{name} is not an image that can be read; mend or remove it") from error


def _from_stream(
    stream: "Stream", shuffle_seed: int | None, epoch: int, span: tuple[int, int], render: Callable, batch_size: int
) -> Batches:
    """Yields the batches of the images that a stream gives from place ``span[0]`` to ``span[1] - 1``."""
    records = stream.read(shuffle_seed=shuffle_seed).skip(span[0]).take(span[1] - span[0])
    records = records.map(lambda record: record | {"epoch": tf.constant(epoch, tf.int64)})
    try:
        yield from _batches(records, render, batch_size)
    except UNREADABLE as error:
        raise ValueError(f"an image of {stream.name} cannot be read: {error.message.splitlines()[0]}") from error


def _fetch(split: Split, order: Order, steps: range) -> tf.data.Dataset:
    """Reads the records of a split in a given order."""
    shape = split.images.shape[1:]
    pixels = split.kind == "pixels"

    def generate():
        for epoch, positions in map(order, steps):
            part = split.take(positions)
            n = len(part)
            labels = np.full(n, -1) if part.labels is None else part.labels
            images = part.images if pixels else part.images.tolist()
            yield {"image": images, "label": labels, "id": part.ids, "epoch": np.full(n, epoch)}

    scalar = tf.TensorSpec([None], tf.int64)
    image = tf.TensorSpec([None, *shape], tf.uint8 if pixels else tf.string)
    signature = {"image": image, "label": scalar, "id": scalar, "epoch": scalar}
    records = tf.data.Dataset.from_generator(generate, output_signature=signature).unbatch()
    return records.map(_read_file, tf.data.AUTOTUNE) if split.kind == "paths" else records


def _read_file(record: dict) -> dict:
    return record | {"image": tf.io.read_file(record["image"])}


def _unreadable(part: Split) -> str:
    """Names the first image that cannot be read or decoded; tf.data does not say which one it was."""
    for image, identity in zip(part.images, part.ids, strict=True):
        try:
            tf.io.decode_image(tf.io.read_file(image) if part.kind == "paths" else image)
        except UNREADABLE:
            return str(image) if part.kind == "paths" else f"image {identity}"
    return "an image"


def _batches(records: tf.data.Dataset, render: Callable, batch_size: int) -> Batches:
    """Renders records in parallel and gives them in their order."""
    options = tf.data.Options()
    options.deterministic = True
    views = records.map(render, num_parallel_calls=tf.data.AUTOTUNE)
    return views.batch(batch_size).prefetch(tf.data.AUTOTUNE).with_options(options).as_numpy_iterator()
