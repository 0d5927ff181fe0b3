"""Where views are made: on the host, on the devices inside the step, or the crops there and the rest here.

| augment.placement | data.cache | source       | the host gives      | the step makes                           |
|-------------------|------------|--------------|---------------------|------------------------------------------|
| host              | host       | any          | views               | nothing                                  |
| device            | host       | files        | crops, parameters   | resize, flip, colour, blur               |
| device            | host       | pixels       | images              | views                                    |
| device            | device     | pixels       | positions           | views of images that the devices hold    |

"Pixels" are images of one size in memory (npz, textures, small TFDS sets). The last two need no TensorFlow.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from simclr_jax.augment import device
from simclr_jax.augment.recipe import Recipe
from simclr_jax.data import arrays
from simclr_jax.data.unreadable import Unreadable

Batches = Iterator[dict[str, Any]]


class Feed(NamedTuple):
    """What feeds the steps of a run.

    Attributes:
      training: (first_step, last_step) → their batches.
      validation: () → the batches of the whole validation split.
      views_of: (batch, resident) → {"views", "labels"} of a batch, traced inside the step.
      resident: what every device holds for the training steps; None for nothing.
      unreadable: the training files that turn out to be so.
    """

    training: Callable[[int, int], Batches]
    validation: Callable[[], Batches]
    views_of: Callable[[Any, Any], dict[str, jax.Array]]
    resident: Any
    unreadable: Unreadable


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
        raise ValueError("data.cache=device needs augment.placement=device: views made on the host have to travel")
    if split.kind != "pixels":
        raise ValueError(
            "data.cache=device needs images of one size in memory, as npz:, textures and small tfds: sets have; "
            "these are encoded files: use data.cache=host"
        )
    if split.images.nbytes > free_bytes:
        raise ValueError(
            f"data.cache=device: the training images take {split.images.nbytes / 2**20:,.0f} MiB, and a device has "
            f"{free_bytes / 2**20:,.0f} MiB for them; use data.cache=host, or data.limit"
        )


def create(
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
) -> Feed:
    """Returns what feeds a run; nothing is read yet.

    Args:
      train, validation: the images.
      recipe: what a view is.
      placement, cache: augment.placement, data.cache.
      batch_size, validation_batch_size: images per step over all hosts.
      seed: decides the order and the views.
      shard: this host's index and the number of hosts.
      max_corrupt_fraction: of the images of each split that may be unreadable.
    """
    unreadable = Unreadable(len(train), max_corrupt_fraction)
    resident = arrays.whole(train) if cache == "device" else None
    if _in_arrays(train, placement):
        training = functools.partial(arrays.training_images, train, resident=resident is not None)
    else:
        training = functools.partial(
            _pipeline().training_views, train, recipe, crops_only=placement == "device", unreadable=unreadable
        )
    if _in_arrays(validation, placement):
        validating = functools.partial(arrays.validation_images, validation)
    else:
        validating = functools.partial(
            _pipeline().validation_views,
            validation,
            recipe,
            seed=seed,
            crops_only=placement == "device",
            unreadable=Unreadable(len(validation), max_corrupt_fraction),
        )
    return Feed(
        lambda first, last: training(batch_size=batch_size, seed=seed, shard=shard, first_step=first, last_step=last),
        functools.partial(validating, batch_size=validation_batch_size, shard=shard),
        functools.partial(views_of, recipe, seed),
        resident,
        unreadable,
    )


def views_of(recipe: Recipe, seed: int, batch: Any, resident: Any) -> dict[str, jax.Array]:
    """Makes {"views", "labels"} of a batch of views, crops, images or positions: whatever the host has left to do."""
    if "views" in batch:
        return batch
    if "crops" in batch:
        return {"views": device.render_pairs(recipe, batch["crops"], batch["parameters"]), "labels": batch["labels"]}
    images = {name: values[batch["positions"]] for name, values in resident.items()} if "positions" in batch else batch
    views = device.two_views(recipe, images["images"], seed, batch["epoch"], images["ids"])
    return {"views": views, "labels": images["labels"]}


def view_pairs(
    split: Any, recipe: Recipe, *, placement: str, batch_size: int, seed: int, max_corrupt_fraction: float
) -> Iterator[np.ndarray]:
    """Yields both views of the images of a split, as validation sees them, float32 [batch_size, 2, size, size, 3].

    Args:
      split: the images; those that do not fill a batch are left out.
      recipe, placement, batch_size, seed, max_corrupt_fraction: as of `create`.
    """
    feed = create(
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
      recipe: what a view is.
      batch_size: images a step.
      seed: decides the order and the views.
      steps: how many batches.
      unreadable: takes in images that cannot be read, for which others stand in.
    """
    how = {"batch_size": batch_size, "seed": seed, "first_step": 0, "last_step": steps}
    if split.kind == "pixels":
        return arrays.training_images(split, **how)
    return _pipeline().training_views(split, recipe, single=True, unreadable=unreadable, **how)


def view_of(recipe: Recipe, batch: Any, seed: jax.Array) -> dict[str, jax.Array]:
    """Makes {"images", "labels"} of a batch of `single_views`, on the devices where it holds pixels."""
    if "epoch" not in batch:
        return batch
    parameters = device.draw(recipe, seed, batch["epoch"], batch["ids"], *batch["images"].shape[1:3])
    first = {name: values[:, 0] for name, values in parameters.items()}
    return {"images": device.render(recipe, batch["images"], first), "labels": batch["labels"]}


def central_views(split: Any, image_size: int, *, batch_size: int, unreadable: Unreadable) -> Batches:
    """Yields every image of a split once as evaluation sees it, {"images": float32 [n, size, size, 3], labels, ids}.

    Pixels are resized on the devices, files on the host.
    """
    if split.kind != "pixels":
        yield from _pipeline().central_views(split, image_size, batch_size=batch_size, unreadable=unreadable)
        return
    for batch in arrays.stored_images(split, batch_size=batch_size):
        n = len(batch["labels"])
        padded = batch["images"][np.arange(batch_size) % n]  # one shape, compiled once
        yield {
            "images": np.asarray(_resized(padded, image_size=image_size))[:n],
            "labels": batch["labels"],
            "ids": batch["ids"],
        }


_resized = jax.jit(device.central_views, static_argnames="image_size")  # compiled once, however often a split is seen


def _in_arrays(split: Any, placement: str) -> bool:
    """Whether the host only hands out pixels that are in its memory."""
    return placement == "device" and split.kind == "pixels"


def _pipeline() -> Any:
    """The input pipeline in TensorFlow, imported where it is needed alone."""
    try:
        from simclr_jax.data import pipeline
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{error.name} is not installed: without it there are views of npz: and textures alone, "
            "with augment.placement=device"
        ) from error
    return pipeline
