"""Where views are made: on the host, on the devices inside the step, or the crops there and the rest here.

| augment.placement | data.cache | source       | the host gives      | the step makes                           |
|-------------------|------------|--------------|---------------------|------------------------------------------|
| host              | host       | any          | views               | nothing                                  |
| device            | host       | files        | crops, parameters   | resize, flip, colour, blur               |
| device            | host       | pixels       | images              | views                                    |
| device            | device     | pixels       | positions           | views of images that the devices hold    |

"Pixels" are images of one size in memory (npz, textures, small TFDS sets). The last two need no TensorFlow. With
`augment.own` the host also gives what the key of that function is made of, and the step applies it last.
"""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from simclr_jax.augment import device, own
from simclr_jax.augment.bands import white
from simclr_jax.augment.pillow import DEEPEST
from simclr_jax.augment.recipe import Recipe, central_square
from simclr_jax.data.order import Order, stored_order, training_order
from simclr_jax.data.unreadable import Unreadable

Batches = Iterator[dict[str, Any]]


def check(split: Any, *, placement: str, cache: str, free_bytes: int) -> None:
    """Raises ValueError where views of a split cannot be made as asked.

    Args:
      split: the training images.
      placement, cache: augment.placement, data.cache.
      free_bytes: memory of one device that a cached split may take.
    """
    if not _in_arrays(split, placement):
        _pipeline()
    if cache == "host":
        return
    if placement == "host":
        raise ValueError(
            "data.cache=device needs augment.placement=device: views made on the host must be sent to the device"
        )
    if split.kind != "pixels":
        raise ValueError(
            "data.cache=device needs images of one size in memory, as in npz:, textures and small tfds: sets; "
            "these are encoded files: use data.cache=host"
        )
    if split.images.nbytes > free_bytes:
        raise ValueError(
            f"data.cache=device: the training images take {split.images.nbytes / 2**20:,.0f} MiB, and a device has "
            f"{free_bytes / 2**20:,.0f} MiB free for them; use data.cache=host, or data.limit"
        )


class Feed:
    """What feeds the steps of a run: batches from the host, and what a step makes of them. Nothing is read at first.

    Args:
      train, validation: the images.
      recipe: what a view is.
      placement, cache: augment.placement, data.cache.
      batch_size, validation_batch_size: images per step over all hosts.
      seed: decides the order and the views.
      shard: this host's index and the number of hosts.
      max_corrupt_fraction: of the images of each split that may be unreadable.

    Attributes:
      resident: what every device holds for the training steps; None for nothing.
      unreadable: the training files that turn out to be so.

    Raises:
      ValueError: TensorFlow is needed and not installed.
    """

    def __init__(
        self,
        train: Any,
        validation: Any,
        recipe: Recipe,
        *,
        placement: str,
        cache: str,
        batch_size: int,
        validation_batch_size: int,
        seed: int,
        shard: tuple[int, int],
        max_corrupt_fraction: float,
    ):
        self._train, self._validation, self._recipe, self._seed = train, validation, recipe, seed
        self._batch_size, self._validation_batch_size, self._shard = batch_size, validation_batch_size, shard
        self._placement = placement
        self.resident = _columns(train) if cache == "device" else None
        self.unreadable = Unreadable(len(train), max_corrupt_fraction)
        self._unreadable_in_validation = Unreadable(len(validation), max_corrupt_fraction)
        if not (_in_arrays(train, placement) and _in_arrays(validation, placement)):
            _pipeline()

    def training(self, first_step: int, last_step: int) -> Batches:
        """Yields the batches of steps ``first_step`` to ``last_step - 1``, for `views_of`.

        Raises:
          ValueError: the batch is larger than the split or does not divide by the hosts; or, when its turn comes, one
            image too many cannot be read.
        """
        how = {"batch_size": self._batch_size, "seed": self._seed, "shard": self._shard}
        if _in_arrays(self._train, self._placement):
            order, steps = training_order(len(self._train), **how), range(first_step, last_step)
            return _pixels(self._train, order, steps, resident=self.resident is not None)
        return _pipeline().training_views(
            self._train,
            self._recipe,
            first_step=first_step,
            last_step=last_step,
            crops_only=self._placement == "device",
            unreadable=self.unreadable,
            **how,
        )

    def validation(self) -> Batches:
        """Yields the batches of the whole validation split, but for images that do not fill the last one."""
        split, how = self._validation, {"batch_size": self._validation_batch_size, "shard": self._shard}
        if _in_arrays(split, self._placement):
            order = stored_order(np.arange(len(split)), **how)
            return _pixels(split, order, range(len(split) // self._validation_batch_size))
        return _pipeline().validation_views(
            split,
            self._recipe,
            seed=self._seed,
            crops_only=self._placement == "device",
            unreadable=self._unreadable_in_validation,
            **how,
        )

    def views_of(self, batch: Any, resident: Any) -> dict[str, jax.Array]:
        """Makes {"views", "labels"} of a batch: whatever the host has left to do, traced inside the step.

        Args:
          batch: of views, crops, images or positions.
          resident: what the device holds, where the batch is of positions.
        """
        if "positions" in batch:
            images = {name: values[batch["positions"]] for name, values in resident.items()}
            batch = images | {"epoch": batch["epoch"]}
        bits = self._train.bits
        if "views" in batch:
            views = batch["views"]
        elif "crops" in batch:
            views = device.render_pairs(self._recipe, batch["crops"], batch["parameters"], bits)
        else:
            views = device.two_views(self._recipe, batch["images"], self._seed, batch["epoch"], batch["ids"], bits)
        if self._recipe.own:
            views = own.changed(self._recipe.own, views, seed=self._seed, epoch=batch["epoch"], ids=batch["ids"])
        return {"views": views, "labels": batch["labels"]}


def view_pairs(
    split: Any, recipe: Recipe, *, placement: str, batch_size: int, seed: int, max_corrupt_fraction: float
) -> Iterator[np.ndarray]:
    """Yields both views of the images of a split, as validation sees them, float32 [batch_size, 2, size, size, C].

    Args:
      split: the images; those that do not fill a batch are left out.
      recipe, placement, batch_size, seed, max_corrupt_fraction: as of `Feed`.

    Raises:
      ValueError: the recipe's own function is not registered, or does not work.
    """
    own.check(recipe.own, (recipe.image_size, recipe.image_size, split.channels))
    feed = Feed(
        split,
        split,
        recipe,
        placement=placement,
        cache="host",
        batch_size=batch_size,
        validation_batch_size=batch_size,
        seed=seed,
        shard=(0, 1),
        max_corrupt_fraction=max_corrupt_fraction,
    )
    make = jax.jit(lambda batch: feed.views_of(batch, None)["views"])
    for batch in feed.validation():
        yield np.asarray(make(batch))


def single_views(
    split: Any, recipe: Recipe, *, batch_size: int, seed: int, steps: int, unreadable: Unreadable
) -> Batches:
    """Yields the batches of a supervised training, the images in a new order each epoch, for `view_of`.

    Of files the host makes one view each; pixels it hands out.

    Args:
      split: the images.
      recipe: what a view is; a function of the user's own is not applied.
      batch_size: images a step.
      seed: decides the order and the views.
      steps: how many batches.
      unreadable: takes in images that cannot be read, for which others stand in.
    """
    if split.kind == "pixels":
        return _pixels(split, training_order(len(split), batch_size=batch_size, seed=seed, shard=(0, 1)), range(steps))
    how = {"batch_size": batch_size, "seed": seed, "first_step": 0, "last_step": steps}
    return _pipeline().training_views(split, recipe, single=True, unreadable=unreadable, **how)


def view_of(recipe: Recipe, batch: Any, seed: jax.Array, bits: int) -> dict[str, jax.Array]:
    """Makes {"images", "labels"} of a batch of `single_views`, on the devices where it holds pixels.

    ``bits`` are the split's.
    """
    if "epoch" not in batch:
        return batch
    parameters = device.draw(recipe, seed, batch["epoch"], batch["ids"], *batch["images"].shape[1:3])
    first = {name: values[:, 0] for name, values in parameters.items()}
    return {"images": device.render(recipe, batch["images"], first, bits), "labels": batch["labels"]}


def central_views(split: Any, image_size: int, *, batch_size: int, unreadable: Unreadable) -> Batches:
    """Yields every image of a split once as evaluation sees it, {"images": float32 [n, size, size, C], labels, ids}.

    Pixels are resized on the devices, files on the host.
    """
    if split.kind != "pixels":
        yield from _pipeline().central_views(split, image_size, batch_size=batch_size, unreadable=unreadable)
        return
    order = stored_order(np.arange(len(split)), batch_size=batch_size)
    for batch in _pixels(split, order, range(-(-len(split) // batch_size))):
        n = len(batch["labels"])
        padded = batch["images"][np.arange(batch_size) % n]  # one shape, compiled once
        yield {
            "images": np.asarray(_resized(padded, image_size=image_size, bits=split.bits))[:n],
            "labels": batch["labels"],
            "ids": batch["ids"],
        }


def central_view(pixels: np.ndarray, image_size: int, bits: int = DEEPEST) -> np.ndarray:
    """Returns one image as evaluation sees it, as `central_views` does of pixels; compiled for few sizes.

    Args:
      pixels: [H, W, C], uint8, uint16 or float32 in [0, 1].
      image_size: side of the view, pixels.
      bits: bit depth of white in uint16 pixels.

    Returns:
      float32 [image_size, image_size, C] in [0, 1].
    """
    box = central_square(*np.float32(pixels.shape[:2]), np)
    y, x, side = (int(box[name]) for name in ("y", "x", "height"))
    room = 1 << (side - 1).bit_length()  # a power of two, since photos have any size
    canvas = np.zeros((1, room, room, pixels.shape[-1]), pixels.dtype)
    canvas[0, :side, :side] = pixels[y : y + side, x : x + side]
    corner = {"y": 0, "x": 0, "height": side, "width": side}
    return np.asarray(_part_resized(canvas, corner, image_size=image_size, bits=bits))[0]


def image_sizes(split: Any, *, batch_size: int, unreadable: Unreadable) -> Batches:
    """Yields {"sizes": [n, 2], height and width, "labels": int64 [n]} of the images of a split that can be read.

    Of pixels, and of files of other than 3 channels, also {"low", "high"}: [n, C], each channel's range. Every file is
    decoded whole; pixels in memory have been, and come in one batch.
    """
    if split.kind == "pixels":
        sizes = np.broadcast_to(split.images.shape[1:3], (len(split), 2))
        top = white(split.images.dtype, split.bits)
        low, high = split.images.min((1, 2)) / top, split.images.max((1, 2)) / top
        return iter([{"sizes": sizes, "labels": split.class_numbers, "low": low, "high": high}])
    return _pipeline().image_sizes(split, batch_size=batch_size, unreadable=unreadable)


_part_resized = jax.jit(device.boxed_views, static_argnames=("image_size", "bits"))
_resized = jax.jit(
    device.central_views, static_argnames=("image_size", "bits")
)  # compiled once, however often a split is seen


def _pixels(split: Any, order: Order, steps: range, *, resident: bool = False) -> Batches:
    """Yields an order's batches of pixels in memory; of positions where the devices hold the pixels."""
    for epoch, positions in map(order, steps):
        batch = {"positions": positions.astype(np.int32)} if resident else _columns(split.take(positions))
        yield batch | {"epoch": np.full(len(positions), epoch, np.int32)}


def _columns(split: Any) -> dict[str, np.ndarray]:
    """Returns {"images": [n, H, W, C], "labels", "ids": int32 [n]} of pixels in memory."""
    labels, ids = split.class_numbers.astype(np.int32), split.ids.astype(np.int32)
    return {"images": split.images, "labels": labels, "ids": ids}


def _in_arrays(split: Any, placement: str) -> bool:
    """Whether the host only hands out pixels that are in its memory."""
    return placement == "device" and split.kind == "pixels"


def _pipeline() -> Any:
    """The input pipeline in TensorFlow, imported where it is needed alone."""
    try:
        from simclr_jax.data import pipeline, reading
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{error.name} is not installed: without it only npz: and textures work, with augment.placement=device"
        ) from error
    reading.set_up()
    return pipeline
