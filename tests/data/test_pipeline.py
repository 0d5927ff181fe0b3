"""From a split to batches: nothing is lost, mixed up or seen twice, and a batch is a function of its step."""

import itertools
import os
import pathlib

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets
from tensorflow.python.autograph.impl import api as autograph
from tensorflow_datasets import features

from simclr_jax.augment.recipe import Recipe
from simclr_jax.data import pipeline
from simclr_jax.data.pipeline import central_views, training_views, validation_views
from simclr_jax.data.split import Split
from simclr_jax.data.tfds import Tfds

SIZE = 8
RANDOM = Recipe(image_size=SIZE, blur_probability=0.0)
UNCHANGED = Recipe(
    image_size=SIZE,
    min_area=1.0,
    min_aspect=1.0,
    max_aspect=1.0,
    flip_probability=0.0,
    jitter_probability=0.0,
    grayscale_probability=0.0,
    blur_probability=0.0,
)
IMAGES = 21  # not a multiple of any batch below
BATCH = 4
STEPS_PER_EPOCH = 5
STOP = 8  # in the middle of the second epoch


def numbered(n=IMAGES):
    """Images of one colour each, which tells the number of the image; the label is another function of the number."""
    images = np.broadcast_to(10 * np.arange(n, dtype=np.uint8)[:, None, None, None], (n, SIZE, SIZE, 3)).copy()
    return Split.whole(images, label_of(np.arange(n)))


def label_of(numbers):
    return (5 * numbers + 3) % 7


def numbers_in(batch):
    """Numbers of the images in a batch of unchanged views."""
    views = batch["views"][:, 0] if "views" in batch else batch["images"]
    return np.round(views.mean((1, 2, 3)) * 25.5).astype(int)


def noise(n=IMAGES):
    return Split.whole(np.random.default_rng(0).integers(0, 256, (n, 10, 12, 3), np.uint8), np.arange(n) % 3)


def encoded(split):
    files = np.array([tf.io.encode_png(image).numpy() for image in split.images], object)
    return Split(files, split.labels, split.ids)


def stored(split, folder):
    paths = [folder / f"{identity}.png" for identity in split.ids]
    for path, content in zip(paths, encoded(split).images, strict=True):
        path.write_bytes(content)
    return Split(np.array([os.fsencode(path) for path in paths]), split.labels, split.ids)


@pytest.fixture(scope="module")
def stream(tmp_path_factory):
    """The numbered images as a data set of four files that is too large to be held in memory."""
    split, directory = numbered(), tmp_path_factory.mktemp("tfds")
    rows = [{"image": image, "label": label} for image, label in zip(split.images, split.labels, strict=True)]
    tensorflow_datasets.dataset_builders.store_as_tfds_dataset(
        "numbered",
        version="1.0.0",
        features=features.FeaturesDict(
            {"image": features.Image(shape=(SIZE, SIZE, 3)), "label": features.ClassLabel(num_classes=7)}
        ),
        split_datasets={"train": list(enumerate(rows))},
        data_dir=directory,
        download_config=tensorflow_datasets.download.DownloadConfig(num_shards=4),
    )
    return Tfds("numbered", str(directory), memory_limit=0).load("train")


@pytest.fixture(scope="module", params=["pixels", "stream"])
def images(request):
    """Numbered images, from memory and from files."""
    return numbered() if request.param == "pixels" else request.getfixturevalue("stream")


@pytest.fixture(scope="module")
def epochs(images):
    """Three epochs of unchanged views, to be read only."""
    return train(images, UNCHANGED, last=3 * STEPS_PER_EPOCH)


@pytest.fixture(scope="module")
def unstopped(images):
    """Random views of a run that was never stopped, to be read only."""
    return train(images, last=STOP)


def train(split, recipe=RANDOM, *, first=0, last=STEPS_PER_EPOCH, seed=0, batch_size=BATCH, shard=(0, 1)):
    return list(
        training_views(split, recipe, batch_size=batch_size, seed=seed, first_step=first, last_step=last, shard=shard)
    )


def validate(split, recipe=RANDOM, *, seed=0, batch_size=BATCH, shard=(0, 1)):
    return list(validation_views(split, recipe, batch_size=batch_size, seed=seed, shard=shard))


def centre(split, *, batch_size=BATCH):
    return list(central_views(split, SIZE, batch_size=batch_size))


def assert_same_batches(got, want, atol=0.0):
    assert len(got) == len(want)
    for one, other in zip(got, want, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_allclose(one[name], other[name], rtol=0, atol=atol)


def joined(shards):
    """The batches of all hosts, put together step by step."""
    return [
        {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        for parts in zip(*shards, strict=True)
    ]


def shown(batches):
    return np.concatenate([numbers_in(batch) for batch in batches])


def of_epoch(batches, epoch):
    return shown(batches[epoch * STEPS_PER_EPOCH : (epoch + 1) * STEPS_PER_EPOCH])


# Order


def test_an_epoch_shows_no_image_twice_and_drops_only_the_remainder(epochs):
    assert len(epochs) == 3 * STEPS_PER_EPOCH
    for epoch in range(3):
        numbers = of_epoch(epochs, epoch)
        assert len(numbers) == BATCH * STEPS_PER_EPOCH == len(set(numbers))
        assert set(numbers) <= set(range(IMAGES))


def test_epochs_and_seeds_have_orders_of_their_own(images, epochs):
    orders = {tuple(of_epoch(epochs, epoch)) for epoch in range(3)}
    orders.add(tuple(shown(train(images, UNCHANGED, seed=1))))
    orders.add(tuple(range(BATCH * STEPS_PER_EPOCH)))
    assert len(orders) == 5


def test_no_image_is_dropped_for_ever():
    batches = train(numbered(), UNCHANGED, last=6 * STEPS_PER_EPOCH)
    assert set(shown(batches)) == set(range(IMAGES))


def test_labels_stay_with_their_images(images, epochs):
    for batch in [*epochs, *validate(images, UNCHANGED), *centre(images)]:
        np.testing.assert_array_equal(batch["labels"], label_of(numbers_in(batch)))


def test_images_without_labels_have_the_label_minus_one():
    split = Split.whole(numbered().images, None)
    for batch in [*train(split), *validate(split), *centre(split)]:
        assert set(batch["labels"]) == {-1}


@pytest.mark.parametrize("batch_size", [1, BATCH, IMAGES])
def test_batches_have_the_promised_shape_type_and_range(batch_size):
    for batch in [*train(noise(), batch_size=batch_size, last=2), *validate(noise(), batch_size=batch_size)]:
        assert batch["views"].shape == (batch_size, 2, SIZE, SIZE, 3) and batch["views"].dtype == np.float32
        assert batch["labels"].shape == (batch_size,) and batch["labels"].dtype == np.int64
        assert batch["views"].min() >= 0 and batch["views"].max() <= 1
        assert batch["views"].std() > 0.05


# Views


def test_a_view_is_made_anew_for_each_image_epoch_seed_and_of_the_two():
    same = Split.whole(np.repeat(noise(1).images, 2, axis=0), None)
    batches = [
        *train(same, batch_size=2, last=3),
        *train(same, batch_size=2, last=1, seed=1),
        *validate(same, batch_size=2),
    ]
    views = {view.tobytes() for batch in batches for view in batch["views"].reshape(-1, SIZE, SIZE, 3)}
    assert len(views) == len(batches) * 2 * 2


@pytest.mark.parametrize("see", [train, validate, centre])
def test_paths_bytes_and_pixels_of_an_image_look_the_same(see, tmp_path):
    pixels = noise()
    assert_same_batches(see(encoded(pixels)), see(stored(pixels, tmp_path)))
    # Pixels of one size are made views by another program, which rounds otherwise.
    assert_same_batches(see(encoded(pixels)), see(pixels), atol=1e-5)


def test_an_image_looks_the_same_whatever_it_is_rendered_with(monkeypatch):
    whole = train(noise(), last=STOP)
    monkeypatch.setattr(pipeline, "CHUNK", 3)
    assert_same_batches(train(noise(), last=STOP), whole)


def test_an_image_looks_the_same_whatever_is_taken_out_of_its_split():
    whole = validate(noise(), batch_size=1)
    some = validate(noise().take(np.array([13, 2, 8])), batch_size=1)
    assert_same_batches(some, [whole[13], whole[2], whole[8]])


# Resume and hosts


@pytest.mark.parametrize("first", [2, STEPS_PER_EPOCH, STEPS_PER_EPOCH + 1])
def test_a_resumed_run_sees_what_an_unstopped_one_sees(images, unstopped, first):
    assert_same_batches(train(images, first=first, last=STOP), unstopped[first:])


@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_together_see_the_batches_of_one(hosts):
    split = noise()
    assert_same_batches(joined([train(split, last=7, shard=(i, hosts)) for i in range(hosts)]), train(split, last=7))


def test_hosts_together_validate_on_the_batches_of_one():
    assert_same_batches(joined([validate(noise(), shard=(i, 2)) for i in range(2)]), validate(noise()))


def test_a_resumed_host_sees_its_part_of_the_batches(images):
    whole = train(images, shard=(1, 2))
    assert whole[0]["views"].shape[0] == BATCH // 2
    assert_same_batches(train(images, first=3, shard=(1, 2)), whole[3:])


def test_hosts_share_a_stream_without_overlap_and_with_as_many_steps(stream):
    hosts = [train(stream, UNCHANGED, shard=(i, 2)) for i in range(2)]
    assert [len(batches) for batches in hosts] == [STEPS_PER_EPOCH] * 2
    numbers = shown(joined(hosts))
    assert len(set(numbers)) == len(numbers) == BATCH * STEPS_PER_EPOCH


def test_hosts_validate_a_stream_in_as_many_steps(stream):
    few = stream.first(7)  # hosts own 3 and 4 images
    assert [len(validate(few, batch_size=6, shard=(i, 2))) for i in range(2)] == [1, 1]
    hosts = [validate(stream, UNCHANGED, shard=(i, 2)) for i in range(2)]
    assert len(set(shown(joined(hosts)))) == BATCH * STEPS_PER_EPOCH


def test_images_before_the_first_step_are_not_read(tmp_path):
    split = stored(numbered(), tmp_path)
    whole = train(split)
    seen = set(shown(train(split, UNCHANGED, last=3)))
    for number in seen:
        pathlib.Path(os.fsdecode(split.images[number])).unlink()
    assert_same_batches(train(split, first=3), whole[3:])
    with pytest.raises(ValueError, match="cannot be read"):
        train(split)


def test_batches_are_made_when_they_are_asked_for(tmp_path):
    endless = training_views(
        stored(numbered(), tmp_path), UNCHANGED, batch_size=BATCH, seed=0, first_step=0, last_step=10**9
    )
    first = list(itertools.islice(endless, 2))
    assert_same_batches(first, train(numbered(), UNCHANGED, last=2))


# Validation and evaluation


def test_validation_is_one_pass_in_stored_order_without_the_remainder():
    np.testing.assert_array_equal(shown(validate(numbered(), UNCHANGED)), np.arange(BATCH * STEPS_PER_EPOCH))


def test_validation_is_the_same_each_time(images):
    assert_same_batches(validate(images), validate(images))


def test_validation_of_a_stream_is_one_pass_in_its_stored_order(stream):
    order = shown(centre(stream))
    np.testing.assert_array_equal(shown(validate(stream, UNCHANGED)), order[: BATCH * STEPS_PER_EPOCH])


def test_the_centre_of_every_image_is_seen_once(images):
    batches = centre(images)
    assert [len(batch["labels"]) for batch in batches] == [4, 4, 4, 4, 4, 1]
    assert sorted(shown(batches)) == list(range(IMAGES))
    for batch in batches:
        assert batch["images"].shape == (len(batch["labels"]), SIZE, SIZE, 3) and batch["images"].dtype == np.float32


def test_the_centre_is_seen_in_stored_order():
    np.testing.assert_array_equal(shown(centre(numbered())), np.arange(IMAGES))


# Refusals


@pytest.mark.parametrize("see", [train, validate])
def test_a_batch_larger_than_the_split_is_refused(images, see):
    with pytest.raises(ValueError, match="batch_size 22 is larger than the 21 images"):
        see(images, batch_size=IMAGES + 1)


@pytest.mark.parametrize("see", [train, validate])
def test_a_batch_that_hosts_cannot_share_is_refused(images, see):
    with pytest.raises(ValueError, match="batch_size 4 is not divisible by 3 hosts"):
        see(images, shard=(0, 3))


@pytest.mark.parametrize("of", [noise, lambda: encoded(noise())])
def test_no_function_goes_through_autograph(of, monkeypatch):
    """It would leave files behind, and in Python 3.11 two threads that do so at once fail at random."""
    converted, convert = [], autograph._convert_actual
    monkeypatch.setattr(autograph, "_convert_actual", lambda f, *rest: converted.append(f) or convert(f, *rest))
    tf.data.Dataset.range(1).map(lambda x: x + 1)
    assert len(converted) == 1  # one that is not kept from it is seen
    for see in (train, validate, centre):
        see(of())
    list(pipeline.image_sizes(encoded(noise()), batch_size=5))
    assert len(converted) == 1
