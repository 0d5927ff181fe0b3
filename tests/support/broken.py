"""Splits with images that cannot be read, views that compile in no time, and what is shown of them."""

import os
import pathlib

import numpy as np
import pytest
import tensorflow as tf

from simclr_jax.augment import decode, host
from simclr_jax.augment.recipe import Recipe
from simclr_jax.data import pipeline
from simclr_jax.data.split import Split
from simclr_jax.data.unreadable import Unreadable
from support.oracles import encode

SIZE = 8
RECIPE = Recipe(image_size=SIZE)
IMAGES, BATCH = 25, 4  # so that an epoch leaves one image out
STEPS_PER_EPOCH = 6
STEPS = 3 * STEPS_PER_EPOCH
BAD = (3, 7, 11, 19, 24)
HALF = 0.5  # more than are bad here
REAL_VIEWS = host.two_views


def label_of(numbers):
    return (5 * np.asarray(numbers) + 3) % 7


def colour(number):
    """An encoded picture of one colour and a width, which both tell its number."""
    return encode(np.full((10, 12 + number, 3), 10 * number, np.uint8), ("PNG", "BMP", "GIF")[number % 3])


CONTENTS = [b"", b"<html>", encode(np.zeros((9, 9, 3), np.uint8), "JPEG")[:300], colour(1)[:20], colour(2)[:30]]


def bytes_of(bad=BAD):
    """Encoded images of which some are broken, each in another way."""
    files = [colour(number) for number in range(IMAGES)]
    for place, number in enumerate(bad):
        files[number] = CONTENTS[place % len(CONTENTS)]
    return Split.whole(np.array(files, object), label_of(np.arange(IMAGES)))


def stored(split, folder):
    """The same images as files, 0.img and so on."""
    paths = [os.fsencode(folder / f"{number}.img") for number in range(len(split))]
    for path, content in zip(paths, split.images, strict=True):
        pathlib.Path(os.fsdecode(path)).write_bytes(content)
    return Split(np.array(paths), split.labels, split.ids)


def quick_views(recipe, image, seed, epoch, identity, *, bits, channels=3):
    """In the place of views: the image's colour, and what views may depend on besides."""
    pixels = quick_central_view(image, recipe.image_size, bits=bits)
    others = tf.cast(tf.stack([seed, epoch, identity]), tf.float32)
    return tf.stack([pixels, tf.broadcast_to(others, pixels.shape)])


def quick_central_view(image, size, *, bits, channels=3):
    return tf.ensure_shape(tf.cast(decode.whole(image, bits)[:size, :size], tf.float32) / 255, [size, size, 3])


@pytest.fixture(scope="module", autouse=True)
def quick():
    """How real views are made is of no concern to most tests of what is shown."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline.host, "two_views", quick_views)
        patch.setattr(pipeline.host, "central_view", quick_central_view)
        yield


def train(split, *, first=0, last=STEPS, shard=(0, 1), unreadable=None, batch_size=BATCH, seed=0):
    unreadable = Unreadable(len(split), HALF) if unreadable is None else unreadable
    options = {"batch_size": batch_size, "seed": seed, "first_step": first, "last_step": last, "shard": shard}
    return list(pipeline.training_views(split, RECIPE, unreadable=unreadable, **options))


def validate(split, *, shard=(0, 1), unreadable=None, batch_size=BATCH):
    options = {"unreadable": Unreadable(len(split), HALF) if unreadable is None else unreadable, "shard": shard}
    return list(pipeline.validation_views(split, RECIPE, batch_size=batch_size, seed=0, **options))


def centre(split, *, unreadable=None, batch_size=BATCH):
    unreadable = Unreadable(len(split), HALF) if unreadable is None else unreadable
    return list(pipeline.central_views(split, SIZE, batch_size=batch_size, unreadable=unreadable))


def measure(split, *, unreadable=None, batch_size=BATCH):
    unreadable = Unreadable(len(split), HALF) if unreadable is None else unreadable
    return list(pipeline.image_sizes(split, batch_size=batch_size, unreadable=unreadable))


every_way = pytest.mark.parametrize("see", [train, validate, centre, measure])


def numbers_in(batch):
    """Numbers of the images that a batch shows, from their colours or widths; labels must fit."""
    if "sizes" in batch:
        numbers = batch["sizes"][:, 1] - 12
    else:
        images = batch["views"][:, 0] if "views" in batch else batch["images"]
        numbers = np.round(images.mean((1, 2, 3)) * 25.5).astype(int)
        assert np.ptp(images, axis=(1, 2, 3)).max() < 1e-5
    np.testing.assert_array_equal(batch["labels"], label_of(numbers))
    return numbers


def shown(batches):
    return np.concatenate([numbers_in(batch) for batch in batches])


def assert_same_batches(got, want):
    assert len(got) == len(want)
    for one, other in zip(got, want, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])
