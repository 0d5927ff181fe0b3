"""From a split to batches: read, decode, render, batch, prefetch. What a view looks like belongs to augment/.

Views depend on (seed, epoch, image id, view) and their order on (seed, epoch), see :mod:`simclr_jax.data.order`, so a
run that resumes asks for the batches from its step on and nothing of the input has to be stored.
"""

import itertools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import tensorflow as tf

from simclr_jax.augment import host
from simclr_jax.augment.recipe import Recipe
from simclr_jax.data import order as orders
from simclr_jax.data import reading
from simclr_jax.data.order import VALIDATION_EPOCH, Order
from simclr_jax.data.split import Split
from simclr_jax.data.unreadable import Unreadable

if TYPE_CHECKING:
    from simclr_jax.data.tfds import Stream

PREFETCHED = 2  # batches made ahead of the step that asks for them

# Images that are looked at ahead, once one in a batch cannot be read: to find the next ones costs less by many at once.
LOOK_AHEAD = 8192

Batches = Iterator[dict[str, np.ndarray]]
Render = Callable[[dict], dict]  # a record to what a batch holds of it
ToBatches = Callable[[tf.data.Dataset], tf.data.Dataset]  # chunks of a split's images to batches
Upcoming = Callable[[int], Iterator[tuple[int, np.ndarray]]]  # batches done to the (epoch, positions) of those after


def training_views(
    split: "Split | Stream",
    recipe: Recipe,
    *,
    batch_size: int,
    seed: int,
    first_step: int,
    last_step: int,
    shard: tuple[int, int] = (0, 1),
    crops_only: bool = False,
    single: bool = False,
    unreadable: Unreadable | None = None,
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
      crops_only: leave all but decoding and cropping to the devices.
      single: make the first view of each image alone.
      unreadable: takes in images that cannot be read, for which others stand in; None allows none. A stream, whose
        images TFDS has checked when it prepared them, allows none either.

    Yields:
      {"views": float32 [batch_size / hosts, 2, size, size, 3] in [0, 1], "labels": int64, -1 where there is none}; with
      ``crops_only`` "crops" and "parameters", as :func:`simclr_jax.augment.host.two_crops`, in the place of "views";
      if ``single``, "images": float32 [batch_size / hosts, size, size, 3].

    Raises:
      ValueError: the batch is larger than the split or does not divide by the hosts; or, when its turn comes, one
        image too many cannot be read.
    """
    local = batch_size // shard[1]
    if isinstance(split, Split):
        order = orders.training_order(len(split), batch_size=batch_size, seed=seed, shard=shard)
        if single:
            batches = _one_by_one(split, _single(recipe, seed), local)
        else:
            batches = _pairs(split, recipe, seed, crops_only, local)
        return _of_steps(split, order, range(first_step, last_step), batches, local, unreadable, seed)
    render = _single(recipe, seed) if single else _pair(recipe, seed, crops_only)
    orders.check_batch(batch_size, len(split), shard)
    mine = split.shard(*shard)
    return itertools.chain.from_iterable(
        _from_stream(mine, _shuffle_seed(seed, epoch), epoch, (start * local, stop * local), render, local)
        for epoch, start, stop in orders.epochs(first_step, last_step, len(split) // batch_size)
    )


def validation_views(
    split: "Split | Stream",
    recipe: Recipe,
    *,
    batch_size: int,
    seed: int,
    shard: tuple[int, int] = (0, 1),
    crops_only: bool = False,
    unreadable: Unreadable | None = None,
) -> Batches:
    """Yields one pass over a split in its stored order, with the same two views of an image each time.

    Yields and raises as :func:`training_views`; images that do not fill the last batch are left out.
    """
    orders.check_batch(batch_size, len(split), shard)
    local = batch_size // shard[1]
    steps = range(len(split) // batch_size)
    if isinstance(split, Split):
        order = orders.stored_order(np.arange(len(split)), batch_size=batch_size, shard=shard)
        batches = _pairs(split, recipe, seed, crops_only, local)
        return _of_steps(split, order, steps, batches, local, unreadable, seed)
    render = _pair(recipe, seed, crops_only)
    return _from_stream(split.shard(*shard), None, VALIDATION_EPOCH, (0, len(steps) * local), render, local)


def central_views(
    split: "Split | Stream", image_size: int, *, batch_size: int, unreadable: Unreadable | None = None
) -> Batches:
    """Yields every image of a split once, in its stored order, as evaluation sees it: the central crop, resized.

    Args:
      split: the images.
      image_size: side of the view, pixels.
      batch_size: images per batch.
      unreadable: takes in images that cannot be read, which are left out; None allows none.

    Yields:
      {"images": float32 [n, image_size, image_size, 3] in [0, 1], "labels", "ids": int64 [n]}, n ≤ batch_size.

    Raises:
      ValueError: when its turn comes, one image too many cannot be read.
    """

    def render(record):
        image = host.central_view(record["image"], image_size)
        return {"images": image, "labels": record["label"], "ids": record["id"]}

    return _one_pass(split, render, batch_size, unreadable)


def image_sizes(split: "Split | Stream", *, batch_size: int, unreadable: Unreadable | None = None) -> Batches:
    """Decodes every encoded image of a split once.

    Leaves out and raises as :func:`central_views`.

    Yields:
      {"sizes": int32 [n, 2], height and width, "labels": int64 [n]}; n is ``batch_size`` less what cannot be read.
    """
    if not isinstance(split, Split):

        def render(record):
            return {"sizes": reading.size_of(record), "labels": record["label"]}

        yield from _from_stream(split, None, VALIDATION_EPOCH, (0, len(split)), render, batch_size)
        return
    unreadable = _none_allowed(split) if unreadable is None else unreadable
    found = reading.examine(split, np.arange(len(split)))
    while batch := list(itertools.islice(found, batch_size)):
        unreadable.add({position: fault for position, fault in batch if isinstance(fault, str)})
        sizes = {position: size for position, size in batch if not isinstance(size, str)}
        labels = reading.columns(split, VALIDATION_EPOCH, np.array(list(sizes), int))["label"]
        yield {"sizes": np.array(list(sizes.values()), np.int32).reshape(-1, 2), "labels": labels}


def _pair(recipe: Recipe, seed: int, crops_only: bool) -> Render:
    def render(record):
        image = (record["image"], seed, record["epoch"], record["id"])
        made = host.two_crops(recipe, *image) if crops_only else {"views": host.two_views(recipe, *image)}
        return made | {"labels": record["label"]}

    return render


def _single(recipe: Recipe, seed: int) -> Render:
    def render(record):
        image = host.one_view(recipe, record["image"], seed, record["epoch"], record["id"])
        return {"images": image, "labels": record["label"]}

    return render


def _pairs(split: Split, recipe: Recipe, seed: int, crops_only: bool, batch_size: int) -> ToBatches:
    """Returns what makes batches of pairs of views: an image at a time, or a chunk where all images have one size."""
    if crops_only or split.kind != "pixels":
        return _one_by_one(split, _pair(recipe, seed, crops_only), batch_size)

    def render(chunk):
        views = host.pairs_of_views(recipe, chunk["image"], seed, chunk["epoch"], chunk["id"])
        return {"views": views, "labels": chunk["label"]}

    def to_batches(chunks):
        views = chunks.map(render, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        return views.rebatch(batch_size).prefetch(PREFETCHED)

    return to_batches


def _one_by_one(split: Split, render: Render, batch_size: int) -> ToBatches:
    return lambda chunks: _batches(reading.records(split, chunks), render, batch_size)


def _shuffle_seed(seed: int, epoch: int) -> int:
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0])


def _of_steps(
    split: Split,
    order: Order,
    steps: range,
    to_batches: ToBatches,
    batch_size: int,
    unreadable: Unreadable | None,
    seed: int,
) -> Batches:
    """Yields the batches of an order's steps, with other images in the place of those that cannot be read.

    ``batch_size`` is the number of positions that ``order`` gives for a step.
    """
    unreadable = _none_allowed(split) if unreadable is None else unreadable

    def upcoming(done: int):
        for epoch, positions in map(order, steps[done:]):
            yield epoch, unreadable.replace(epoch, positions, seed)

    return _from_split(split, upcoming, to_batches, batch_size, unreadable)


def _one_pass(split: "Split | Stream", render: Render, batch_size: int, unreadable: Unreadable | None) -> Batches:
    """Yields all of a split in its stored order, without what cannot be read."""
    if not isinstance(split, Split):
        return _from_stream(split, None, VALIDATION_EPOCH, (0, len(split)), render, batch_size)
    unreadable = _none_allowed(split) if unreadable is None else unreadable

    def upcoming(done: int):
        left = np.array([position for position in range(len(split)) if position not in unreadable], int)
        for start in range(done * batch_size, len(left), batch_size):
            yield VALIDATION_EPOCH, left[start : start + batch_size]

    return _from_split(split, upcoming, _one_by_one(split, render, batch_size), batch_size, unreadable)


def _none_allowed(split: Split) -> Unreadable:
    return Unreadable(len(split), 0.0)


def _from_split(
    split: Split, upcoming: Upcoming, to_batches: ToBatches, batch_size: int, unreadable: Unreadable
) -> Batches:
    """Yields the batches of ``upcoming(0)``.

    tf.data stops at a batch with an image that cannot be read, and does not say which it is. So it is looked for, and
    reading goes on with ``upcoming(done)``, which knows what was found and begins after the ``done`` batches so far.
    """
    done, stuck = 0, -1
    batches = to_batches(reading.chunks(split, lambda: upcoming(done)))  # built once, restarted cheaply
    while True:
        try:
            for batch in batches.as_numpy_iterator():
                yield batch
                done += 1
            return
        except reading.UNREADABLE as error:
            if not _look_ahead(split, upcoming(done), batch_size, unreadable):
                if stuck == done:  # the second time, so this is no hiccup of a file system
                    raise ValueError(f"the images cannot be read: {reading.reason(error)}") from error
                stuck = done


def _look_ahead(
    split: Split, upcoming: Iterator[tuple[int, np.ndarray]], batch_size: int, unreadable: Unreadable
) -> bool:
    """Examines a batch and, the more was found so far the more, those after it; returns whether any was found."""
    known = len(unreadable)
    batches = itertools.islice(upcoming, 1 + min(known, LOOK_AHEAD // batch_size))
    found = reading.examine(split, np.concatenate([positions for _, positions in batches]))
    unreadable.add({position: fault for position, fault in found if isinstance(fault, str)})
    return len(unreadable) > known


def _from_stream(
    stream: "Stream", shuffle_seed: int | None, epoch: int, span: tuple[int, int], render: Render, batch_size: int
) -> Batches:
    """Yields the batches of the images that a stream gives from place ``span[0]`` to ``span[1] - 1``."""
    records = stream.read(shuffle_seed=shuffle_seed).skip(span[0]).take(span[1] - span[0])
    records = records.map(lambda record: record | {"epoch": tf.constant(epoch, tf.int64)})
    try:
        yield from _batches(records, render, batch_size).as_numpy_iterator()
    except reading.UNREADABLE as error:
        raise ValueError(f"an image of {stream.name} cannot be read: {reading.reason(error)}") from error


def _batches(records: tf.data.Dataset, render: Render, batch_size: int) -> tf.data.Dataset:
    """Renders records in parallel and gives them in their order."""
    options = tf.data.Options()
    options.deterministic = True
    views = records.map(render, num_parallel_calls=tf.data.AUTOTUNE)
    return views.batch(batch_size).prefetch(PREFETCHED).with_options(options)
