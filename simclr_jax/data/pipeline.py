"""From a split to batches: order, shard, batch, prefetch. What a view looks like belongs to augment/.

The order of images and the look of every view are functions of the seed and the step alone, so a run that resumes
asks for the batches from its step on and nothing of the input has to be stored.
"""

import itertools
import os
from collections.abc import Callable, Iterator

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # read at import; the start-up notes of TensorFlow are noise here

import numpy as np
import tensorflow as tf

from simclr_jax.augment import host
from simclr_jax.augment.recipe import Recipe
from simclr_jax.data.split import Split

tf.config.set_visible_devices([], "GPU")  # the accelerator belongs to JAX

VALIDATION_EPOCH = -1  # no epoch of training has this number, so validation views are their own and never change


def training_views(
    split,
    recipe: Recipe,
    *,
    batch_size: int,
    seed: int,
    first_step: int,
    last_step: int,
    shard: tuple[int, int] = (0, 1),
) -> Iterator[dict[str, np.ndarray]]:
    """Yields batches of two views of each image, for steps ``first_step`` to ``last_step - 1``.

    Every epoch shuffles all images anew and drops the images that do not fill its last batch.

    Args:
      split: a Split or a Stream.
      recipe: what a view is.
      batch_size: images per step over all hosts.
      seed: decides the order and the views.
      first_step: 0, or the step of the checkpoint that a run resumes from. Earlier images are not decoded.
      last_step: where to stop.
      shard: this host's index and the number of hosts.

    Yields:
      {"views": float32 [batch_size / hosts, 2, size, size, 3] in [0, 1], "labels": int64, -1 where there is none}
    """
    steps_per_epoch = len(split) // batch_size
    local = batch_size // shard[1]
    if isinstance(split, Split):
        order = _training_order(len(split), batch_size, seed, first_step, last_step, shard)
        return _batches(_fetch(split, order), _pair_of_views(recipe, seed), local)
    return itertools.chain.from_iterable(
        _stream_epoch(split.shard(*shard), recipe, seed, epoch, start * local, stop * local, local)
        for epoch, start, stop in _epochs(first_step, last_step, steps_per_epoch)
    )


def validation_views(
    split, recipe: Recipe, *, batch_size: int, seed: int, shard: tuple[int, int] = (0, 1)
) -> Iterator[dict[str, np.ndarray]]:
    """Yields one pass over a split in its stored order, with the same two views of an image each time.

    Yields the batches of :func:`training_views`; images that do not fill the last batch are left out.
    """
    local = batch_size // shard[1]
    render = _pair_of_views(recipe, seed)
    if isinstance(split, Split):
        steps = range(len(split) // batch_size)
        order = ((VALIDATION_EPOCH, _shard_of(np.arange(batch_size) + step * batch_size, shard)) for step in steps)
        return _batches(_fetch(split, order), render, local)
    records = split.shard(*shard).read(shuffle_seed=None)
    return _batches(_with_epoch(records, VALIDATION_EPOCH), render, local)


def central_views(
    split, image_size: int, *, batch_size: int, shard: tuple[int, int] = (0, 1)
) -> Iterator[dict[str, np.ndarray]]:
    """Yields every image of a split once, in its stored order, as evaluation sees it: the central crop, resized.

    Yields:
      {"images": float32 [n, image_size, image_size, 3] in [0, 1], "labels": int64 [n]}, n = batch_size but in the last.
    """

    def render(record):
        return {"images": host.central_view(record["image"], image_size), "labels": record["label"]}

    if isinstance(split, Split):
        positions = np.array_split(np.arange(len(split)), shard[1])[shard[0]]
        chunks = np.split(positions, range(batch_size, len(positions), batch_size))
        records = _fetch(split, ((VALIDATION_EPOCH, chunk) for chunk in chunks))
    else:
        records = split.shard(*shard).read(shuffle_seed=None)
    return _batches(records, render, batch_size, drop_remainder=False)


def _training_order(n: int, batch_size: int, seed: int, first_step: int, last_step: int, shard: tuple[int, int]):
    """Yields (epoch, positions of this host's images) for each step."""
    for epoch, start, stop in _epochs(first_step, last_step, n // batch_size):
        shuffled = np.random.default_rng([seed, epoch]).permutation(n)
        for step in range(start, stop):
            yield epoch, _shard_of(shuffled[step * batch_size : (step + 1) * batch_size], shard)


def _epochs(first_step: int, last_step: int, steps_per_epoch: int) -> Iterator[tuple[int, int, int]]:
    """Yields (epoch, its first step, its last step + 1), counted from the epoch's start, over a range of steps."""
    for epoch in range(first_step // steps_per_epoch, -(-last_step // steps_per_epoch)):
        begin = epoch * steps_per_epoch
        yield epoch, max(first_step - begin, 0), min(last_step - begin, steps_per_epoch)


def _shard_of(positions: np.ndarray, shard: tuple[int, int]) -> np.ndarray:
    return np.split(positions, shard[1])[shard[0]]


def _fetch(split: Split, order) -> tf.data.Dataset:
    """Reads the records of a split in a given order."""
    shape = split.images.shape[1:]
    pixels = split.kind == "pixels"

    def generate():
        for epoch, positions in order:
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


def _stream_epoch(stream, recipe: Recipe, seed: int, epoch: int, start: int, stop: int, batch_size: int):
    shuffle_seed = int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0])
    records = stream.read(shuffle_seed=shuffle_seed).skip(start).take(stop - start)
    return _batches(_with_epoch(records, epoch), _pair_of_views(recipe, seed), batch_size)


def _pair_of_views(recipe: Recipe, seed: int) -> Callable[[dict], dict]:
    def render(record):
        views = host.two_views(recipe, record["image"], seed, record["epoch"], record["id"])
        return {"views": views, "labels": record["label"]}

    return render


def _read_file(record: dict) -> dict:
    return record | {"image": tf.io.read_file(record["image"])}


def _with_epoch(records: tf.data.Dataset, epoch: int) -> tf.data.Dataset:
    return records.map(lambda record: record | {"epoch": tf.constant(epoch, tf.int64)})


def _batches(records: tf.data.Dataset, render: Callable, batch_size: int, drop_remainder: bool = True):
    """Renders records in parallel and yields them in their order."""
    options = tf.data.Options()
    options.deterministic = True
    views = records.map(render, num_parallel_calls=tf.data.AUTOTUNE)
    batches = views.batch(batch_size, drop_remainder=drop_remainder).prefetch(tf.data.AUTOTUNE).with_options(options)
    try:
        yield from batches.as_numpy_iterator()
    except tf.errors.InvalidArgumentError as error:
        raise ValueError(f"an image cannot be decoded: {error.message.splitlines()[0]}") from error
