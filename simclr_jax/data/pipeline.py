"""From a split to batches: read, decode, render, batch, prefetch. What a view looks like belongs to augment/.

Views depend on (seed, epoch, image id, view) and their order on (seed, epoch), see :mod:`simclr_jax.data.order`, so a
run that resumes asks for the batches from its step on and nothing of the input has to be stored.

The way of an image: `SplitReader` asks an order for positions, hands the images there to tf.data in chunks, and there
they are read, rendered by :mod:`simclr_jax.augment.host` and joined to batches. All that happens to single images is a
TensorFlow op; Python sees chunks and batches.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import tensorflow as tf

from simclr_jax.augment import decode, host
from simclr_jax.augment.recipe import Recipe
from simclr_jax.data import reading
from simclr_jax.data.order import VALIDATION_EPOCH, Order, check_batch, epochs, stored_order, training_order
from simclr_jax.data.split import Split
from simclr_jax.data.unreadable import Unreadable

if TYPE_CHECKING:
    from simclr_jax.data.tfds import Stream

PREFETCHED = 2  # batches made ahead of the step that asks for them
CHUNK = 16  # images at most that are rendered in one call, where all have one size

# Images that are looked at ahead, once one in a batch cannot be read: to find the next ones costs less by many at once.
LOOK_AHEAD = 8192

Batches = Iterator[dict[str, np.ndarray]]
Render = Callable[[dict], dict]  # a record {"image", "label", "id", "epoch"} to what a batch holds of it


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
      {"views": float32 [batch_size / hosts, 2, size, size, C] in [0, 1], "labels": int64, -1 where there is none}; with
      ``crops_only`` "crops" and "parameters", as :func:`simclr_jax.augment.host.two_crops`, in the place of "views";
      if ``single``, "images": float32 [batch_size / hosts, size, size, C]. Two views with a function of the user's own
      have "epoch": int32 [batch_size / hosts] and "ids": int32 [batch_size / hosts, 2], low and high half, with them.

    Raises:
      ValueError: the batch is larger than the split or does not divide by the hosts; or, when its turn comes, one
        image too many cannot be read.
    """
    views = Views(recipe, seed, crops_only, single, bits=split.bits, channels=split.channels)
    local = batch_size // shard[1]
    if isinstance(split, Split):
        order = training_order(len(split), batch_size=batch_size, seed=seed, shard=shard)
        reader = SplitReader(split, local, unreadable, order, range(first_step, last_step), seed)
        return reader.batches(views, in_chunks=split.kind == "pixels" and not (crops_only or single))
    check_batch(batch_size, len(split), shard)
    reader = StreamReader(split.shard(*shard), local)
    return itertools.chain.from_iterable(
        reader.batches(
            views, start * local, stop * local, epoch, int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0])
        )
        for epoch, start, stop in epochs(first_step, last_step, len(split) // batch_size)
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
    check_batch(batch_size, len(split), shard)
    views = Views(recipe, seed, crops_only, bits=split.bits, channels=split.channels)
    local = batch_size // shard[1]
    steps = range(len(split) // batch_size)
    if isinstance(split, Split):
        order = stored_order(np.arange(len(split)), batch_size=batch_size, shard=shard)
        reader = SplitReader(split, local, unreadable, order, steps, seed)
        return reader.batches(views, in_chunks=split.kind == "pixels" and not crops_only)
    return StreamReader(split.shard(*shard), local).batches(views, 0, len(steps) * local)


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
      {"images": float32 [n, image_size, image_size, C] in [0, 1], "labels", "ids": int64 [n]}, n ≤ batch_size.

    Raises:
      ValueError: when its turn comes, one image too many cannot be read.
    """

    def render(record):
        image = host.central_view(record["image"], image_size, bits=split.bits, channels=split.channels)
        return {"images": image, "labels": record["label"], "ids": record["id"]}

    if isinstance(split, Split):
        return SplitReader(split, batch_size, unreadable).batches(render)
    return StreamReader(split, batch_size).batches(render, 0, len(split))


def image_sizes(split: "Split | Stream", *, batch_size: int, unreadable: Unreadable | None = None) -> Batches:
    """Decodes every encoded image of a split once.

    Leaves out and raises as :func:`central_views`.

    Yields:
      {"sizes": int32 [n, 2], height and width, "labels": int64 [n]}; n is ``batch_size`` less what cannot be read. Of
      files of other than 3 channels also {"low", "high"}, float32 [n, C]: the range of each channel's values.
    """
    if isinstance(split, Split):
        return SplitReader(split, batch_size, unreadable).sizes()
    return StreamReader(split, batch_size).batches(
        lambda record: {"sizes": tf.cast(_facts(record, split)[:2], tf.int32), "labels": record["label"]}, 0, len(split)
    )


@dataclasses.dataclass(frozen=True)
class Views:
    """Makes what a batch of training or validation holds of an image, as `training_views` describes it."""

    recipe: Recipe
    seed: int
    crops_only: bool = False
    single: bool = False
    bits: int = decode.DEEPEST
    channels: int = 3

    def __call__(self, record: dict) -> dict:
        """Renders a record, or a chunk of records whose images have one size: {"image", …} to {"views", "labels"}."""
        image = (self.recipe, record["image"], self.seed, record["epoch"], record["id"])
        how = {"bits": self.bits, "channels": self.channels}
        if self.single:
            made = {"images": host.one_view(*image, **how)}
        elif self.crops_only:
            made = host.two_crops(*image, **how)
        elif record["image"].shape.rank == 4:
            made = {"views": host.pairs_of_views(*image, bits=self.bits)}
        else:
            made = {"views": host.two_views(*image, **how)}
        if self.recipe.own and not self.single:  # the devices make its key of these; their integers have 32 bits
            made |= {"epoch": tf.cast(record["epoch"], tf.int32), "ids": tf.bitcast(record["id"], tf.int32)}
        return made | {"labels": record["label"]}


class SplitReader:
    """Reads a split into batches, with other images in the place of those that cannot be read, or without them.

    Args:
      split: the images.
      batch_size: images of this host in a batch.
      unreadable: takes in images that cannot be read; None allows none.
      order: gives the positions of each batch; others stand in for the unreadable among them. None for one pass over
        the split in its stored order, without what cannot be read.
      steps: of the order.
      seed: decides what stands in.
    """

    def __init__(
        self,
        split: Split,
        batch_size: int,
        unreadable: Unreadable | None,
        order: Order | None = None,
        steps: range = range(0),
        seed: int = 0,
    ):
        self._split, self._batch_size = split, batch_size
        self._unreadable = Unreadable(len(split), 0.0) if unreadable is None else unreadable
        self._order, self._steps, self._seed = order, steps, seed

    def batches(self, render: Render, *, in_chunks: bool = False) -> Batches:
        """Yields batches of what ``render`` makes of the images; ``in_chunks``, it takes many of one size at a time.

        tf.data stops at a batch with an image that cannot be read, and does not say which it is. So it is looked for,
        and reading starts again after the batches that are done: by then `_upcoming` knows what was found.
        """
        done, stuck = 0, -1
        chunks = _chunks(self._split, lambda: self._upcoming(done))
        if in_chunks:
            dataset = reading.mapped(chunks, render).rebatch(self._batch_size).prefetch(PREFETCHED)
        else:
            dataset = _batched(_records(self._split, chunks), render, self._batch_size)
        while True:
            try:
                for batch in dataset.as_numpy_iterator():  # built once, restarted cheaply
                    yield batch
                    done += 1
                return
            except reading.UNREADABLE as error:
                if not self._find_unreadable(done):
                    if stuck == done:  # the second time, so this is no hiccup of a file system
                        raise ValueError(f"the images cannot be read: {reading.reason(error)}") from error
                    stuck = done

    def sizes(self) -> Batches:
        """Yields {"sizes": int32 [n, 2], "labels": int64 [n]} of all images that can be decoded, in stored order."""
        found = self._examine(np.arange(len(self._split)))
        while batch := list(itertools.islice(found, self._batch_size)):
            self._unreadable.add({position: fault for position, fault in batch if isinstance(fault, str)})
            sizes = {position: size for position, size in batch if not isinstance(size, str)}
            labels = self._split.class_numbers[np.array(list(sizes), int)]
            channels = self._split.channels
            facts = np.array(list(sizes.values()), np.float32).reshape(-1, 2 if channels == 3 else 2 + 2 * channels)
            told = {"sizes": facts[:, :2].astype(np.int32), "labels": labels}
            if channels != 3 and len(sizes):
                told |= dict(zip(("low", "high"), np.split(facts[:, 2:], 2, axis=1), strict=True))
            yield told

    def _upcoming(self, done: int) -> Iterator[tuple[int, np.ndarray]]:
        """Yields (epoch, positions) of the batches after the first ``done``, by what is known to be unreadable then."""
        if self._order is not None:
            for epoch, positions in map(self._order, self._steps[done:]):
                yield epoch, self._unreadable.replace(epoch, positions, self._seed)
            return
        left = np.array([position for position in range(len(self._split)) if position not in self._unreadable], int)
        for start in range(done * self._batch_size, len(left), self._batch_size):
            yield VALIDATION_EPOCH, left[start : start + self._batch_size]

    def _find_unreadable(self, done: int) -> bool:
        """Examines a batch and, the more was found so far the more, those after it; returns whether any was found."""
        known = len(self._unreadable)
        batches = itertools.islice(self._upcoming(done), 1 + min(known, LOOK_AHEAD // self._batch_size))
        found = self._examine(np.concatenate([positions for _, positions in batches]))
        self._unreadable.add({position: fault for position, fault in found if isinstance(fault, str)})
        return len(self._unreadable) > known

    def _examine(self, positions: np.ndarray) -> Iterator[tuple[int, tuple[float, ...] | str]]:
        """Decodes the images at these positions; yields (position, its `_facts` or "name: reason").

        tf.data leaves out what it cannot decode, so what is missing between two positions that come back cannot be
        read. It is then decoded again by itself, for the reason.
        """
        numbered = dataclasses.replace(self._split, ids=np.arange(len(self._split)))
        records = _records(numbered, _chunks(numbered, lambda: iter([(VALIDATION_EPOCH, positions)])))
        sizes = reading.mapped(records, lambda record: (record["id"], _facts(record, self._split)))
        expected = iter(positions.tolist())
        for readable, sides in sizes.ignore_errors().batch(64).as_numpy_iterator():
            for position, size in zip(readable.tolist(), sides.tolist(), strict=True):
                for lost in itertools.takewhile(lambda next_, here=position: next_ != here, expected):
                    yield lost, reading.examine(self._split, lost)
                yield position, tuple(size)
        for lost in expected:
            yield lost, reading.examine(self._split, lost)


@dataclasses.dataclass(frozen=True)
class StreamReader:
    """Reads a TFDS stream into batches; an image of it that cannot be read ends the run."""

    stream: "Stream"
    batch_size: int

    def batches(
        self, render: Render, start: int, stop: int, epoch: int = VALIDATION_EPOCH, shuffle_seed: int | None = None
    ) -> Batches:
        """Yields batches of the images from place ``start`` to ``stop - 1``, in stored order where no seed is given."""
        records = self.stream.read(shuffle_seed=shuffle_seed).skip(start).take(stop - start)
        records = reading.mapped(records, lambda record: record | {"epoch": tf.constant(epoch, tf.int64)})
        try:
            yield from _batched(records, render, self.batch_size).as_numpy_iterator()
        except tf.errors.OpError as error:  # of its files, any kind
            raise ValueError(f"an image of {self.stream.name} cannot be read: {reading.reason(error)}") from error


def _chunks(split: Split, upcoming: Callable[[], Iterator[tuple[int, np.ndarray]]]) -> tf.data.Dataset:
    """Gives {"image", "label", "id", "epoch"} of some images at a time, of what is upcoming whenever reading starts."""

    def generate():
        for epoch, positions in upcoming():
            for start in range(0, len(positions), CHUNK):
                part = split.take(positions[start : start + CHUNK])
                images = part.images if part.kind == "pixels" else part.images.tolist()
                epochs_ = np.full(len(part), epoch)
                yield {"image": images, "label": part.class_numbers, "id": part.ids, "epoch": epochs_}

    scalar = tf.TensorSpec([None], tf.int64)
    image = tf.TensorSpec([None, *split.images.shape[1:]], split.images.dtype if split.kind == "pixels" else tf.string)
    signature = {"image": image, "label": scalar, "id": scalar, "epoch": scalar}
    return tf.data.Dataset.from_generator(generate, output_signature=signature)


def _records(split: Split, chunks: tf.data.Dataset) -> tf.data.Dataset:
    """Takes chunks apart, and reads the files where the images are paths."""
    records = chunks.unbatch()
    if split.kind == "paths":
        records = reading.mapped(records, lambda record: record | {"image": tf.io.read_file(record["image"])})
    return records


def _batched(records: tf.data.Dataset, render: Render, batch_size: int) -> tf.data.Dataset:
    """Renders records in parallel and gives them in their order."""
    options = tf.data.Options()
    options.deterministic = True
    return reading.mapped(records, render).batch(batch_size).prefetch(PREFETCHED).with_options(options)


def _facts(record: dict, split: "Split | Stream") -> tf.Tensor:
    """Height and width of a record's encoded image, decoded whole; of other than 3 channels the least value of each,
    and the largest: float32 `[2]` or `[2 + 2 C]`."""
    pixels = decode.whole(record["image"], split.bits, split.channels)
    size = tf.cast(tf.stack(decode.size(pixels)), tf.float32)
    if split.channels == 3:
        return size
    return tf.concat([size, tf.reduce_min(pixels, [0, 1]), tf.reduce_max(pixels, [0, 1])], 0)
