"""Images that cannot be read: left out or replaced, counted, named, and never a reason to show the rest otherwise."""

import logging
import os
import pathlib

import numpy as np
import pytest
import tensorflow as tf
from oracles import encode

from simclr_jax.augment import decode, host
from simclr_jax.augment.recipe import Recipe
from simclr_jax.data import pipeline
from simclr_jax.data.pipeline import central_views, image_sizes, training_views, validation_views
from simclr_jax.data.split import Split
from simclr_jax.data.unreadable import Unreadable

SIZE = 8
RECIPE = Recipe(image_size=SIZE)
IMAGES, BATCH = 25, 4  # so that an epoch leaves one image out
STEPS_PER_EPOCH = 6
STEPS = 3 * STEPS_PER_EPOCH
REAL_VIEWS = host.two_views
BAD = (3, 7, 11, 19, 24)
HALF = 0.5  # more than are bad here


def label_of(numbers):
    return (5 * np.asarray(numbers) + 3) % 7


def colour(number):
    """A picture of one colour, which tells its number, as an encoded file."""
    return encode(np.full((10, 12 + number, 3), 10 * number, np.uint8), ("PNG", "BMP", "WEBP")[number % 3], **LOSSLESS)


LOSSLESS = {"lossless": True}
CONTENTS = [b"", b"<html>", encode(np.zeros((9, 9, 3), np.uint8), "JPEG")[:300], colour(1)[:20], colour(2)[:30]]


def bytes_of(bad=BAD, n=IMAGES):
    """Images of which some are broken, each in another way."""
    files = [colour(number) for number in range(n)]
    for place, number in enumerate(bad):
        files[number] = CONTENTS[place % len(CONTENTS)]
    return Split.whole(np.array(files, object), label_of(np.arange(n)))


def stored(split, folder):
    paths = [os.fsencode(folder / f"{number}.img") for number in range(len(split))]
    for path, content in zip(paths, split.images, strict=True):
        pathlib.Path(os.fsdecode(path)).write_bytes(content)
    return Split(np.array(paths), split.labels, split.ids)


def train(split, *, first=0, last=STEPS, shard=(0, 1), unreadable=None, batch_size=BATCH, seed=0):
    unreadable = Unreadable(len(split), HALF) if unreadable is None else unreadable
    options = {"batch_size": batch_size, "seed": seed, "first_step": first, "last_step": last, "shard": shard}
    return list(training_views(split, RECIPE, unreadable=unreadable, **options))


def validate(split, *, shard=(0, 1), unreadable=None, batch_size=BATCH):
    unreadable = Unreadable(len(split), HALF) if unreadable is None else unreadable
    return list(validation_views(split, RECIPE, batch_size=batch_size, seed=0, shard=shard, unreadable=unreadable))


def centre(split, *, unreadable=None, batch_size=BATCH):
    unreadable = Unreadable(len(split), HALF) if unreadable is None else unreadable
    return list(central_views(split, SIZE, batch_size=batch_size, unreadable=unreadable))


def measure(split, *, unreadable=None, batch_size=BATCH):
    unreadable = Unreadable(len(split), HALF) if unreadable is None else unreadable
    return list(image_sizes(split, batch_size=batch_size, unreadable=unreadable))


EVERY = pytest.mark.parametrize("see", [train, validate, centre, measure])


def quick_views(recipe, image, seed, epoch, identity):
    """In the place of views: the image's colour, and what views may depend on besides."""
    pixels = tf.ensure_shape(tf.cast(decode.whole(image)[:SIZE, :SIZE], tf.float32) / 255, [SIZE, SIZE, 3])
    others = tf.cast(tf.stack([seed, epoch, identity]), tf.float32)
    return tf.stack([pixels, tf.broadcast_to(others, pixels.shape)])


@pytest.fixture(scope="module", autouse=True)
def _quick():
    """Views that compile in no time; how real ones are made is of no concern here but in one test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline.host, "two_views", quick_views)
        yield


def numbers_in(batch):
    """Numbers of the images that a batch shows, from their colours; labels must fit."""
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
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


def joined(shards):
    return [{k: np.concatenate([p[k] for p in parts]) for k in parts[0]} for parts in zip(*shards, strict=True)]


@pytest.fixture(scope="module", params=["bytes", "paths"])
def split(request, tmp_path_factory):
    return bytes_of() if request.param == "bytes" else stored(bytes_of(), tmp_path_factory.mktemp("files"))


@pytest.fixture(scope="module")
def unstopped(split):
    """Three epochs, to be read only."""
    return train(split)


# What is seen instead


def test_others_stand_in_for_the_unreadable_and_all_else_stays(unstopped):
    whole, broken = shown(train(bytes_of(bad=()))), shown(unstopped)
    assert len(broken) == STEPS * BATCH
    assert not set(broken) & set(BAD)
    np.testing.assert_array_equal(broken == whole, ~np.isin(whole, BAD))
    stand_ins = broken[np.isin(whole, BAD)]
    assert len(set(stand_ins)) > len(stand_ins) / 2  # not one for all


def test_another_stands_in_in_another_epoch_and_seed(split, unstopped):
    whole = shown(train(bytes_of(bad=())))
    for number in BAD:
        assert len(set(shown(unstopped)[whole == number])) > 1
    other = shown(train(bytes_of(bad=()), seed=1, last=STEPS_PER_EPOCH))
    assert set(shown(train(split, seed=1, last=STEPS_PER_EPOCH))[np.isin(other, BAD)]) != set(
        shown(unstopped)[: len(other)][np.isin(whole[: len(other)], BAD)]
    )


def test_validation_replaces_too_and_is_the_same_each_time(split):
    numbers = shown(validate(split))
    good = ~np.isin(np.arange(STEPS_PER_EPOCH * BATCH), BAD)
    np.testing.assert_array_equal(numbers[good], np.flatnonzero(good))
    assert not set(numbers) & set(BAD) and len(numbers) == len(good)
    assert_same_batches(validate(split), validate(split))


def test_the_centre_of_every_readable_image_is_seen_once_in_order(split):
    readable = [number for number in range(IMAGES) if number not in BAD]
    batches = centre(split)
    np.testing.assert_array_equal(shown(batches), readable)
    assert [len(batch["labels"]) for batch in batches] == [4, 4, 4, 4, 4]
    assert [len(batch["labels"]) for batch in centre(split, batch_size=9)] == [9, 9, 2]


def test_every_readable_image_is_measured_once_in_order(split):
    batches = measure(split, batch_size=10)
    np.testing.assert_array_equal(shown(batches), [number for number in range(IMAGES) if number not in BAD])
    assert {height for batch in batches for height in batch["sizes"][:, 0]} == {10}
    assert [len(batch["labels"]) for batch in batches] == [8, 8, 4]


@EVERY
def test_images_without_labels_may_be_unreadable(see):
    split = Split.whole(bytes_of().images, None)
    assert {label for batch in see(split) for label in batch["labels"]} == {-1}


@EVERY
def test_all_of_a_batch_may_be_unreadable(see):
    bad = tuple(range(4, 16))
    unreadable = Unreadable(IMAGES, HALF)
    batches = see(bytes_of(bad), unreadable=unreadable)
    assert not set(shown(batches)) & set(bad)
    assert len(unreadable) == len(bad)


# Resume and hosts


@pytest.mark.parametrize("first", [1, 5, STEPS_PER_EPOCH, STEPS_PER_EPOCH + 2])
def test_a_resumed_run_sees_what_an_unstopped_one_sees(split, unstopped, first):
    assert_same_batches(train(split, first=first), unstopped[first:])


def test_a_run_that_knows_what_is_unreadable_sees_what_one_that_learns_it_sees(split, unstopped):
    known = Unreadable(IMAGES, HALF)
    known.add(dict.fromkeys(BAD, "known"))
    assert_same_batches(train(split, unreadable=known), unstopped)


@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_together_see_the_batches_of_one(split, unstopped, hosts):
    shards = [(host, hosts) for host in range(hosts)]
    assert_same_batches(joined([train(split, shard=shard) for shard in shards]), unstopped)
    assert_same_batches(joined([validate(split, shard=shard) for shard in shards]), validate(split))


def test_a_resumed_host_sees_its_part_of_the_batches(split, unstopped):
    part = [{name: values[BATCH // 2 :] for name, values in batch.items()} for batch in unstopped]
    assert_same_batches(train(split, first=4, shard=(1, 2)), part[4:])


def test_looking_further_ahead_changes_nothing(split, unstopped, monkeypatch):
    monkeypatch.setattr(pipeline, "LOOK_AHEAD", 0)
    assert_same_batches(train(split), unstopped)


def test_real_views_of_a_resumed_run_are_those_of_an_unstopped_one(monkeypatch):
    monkeypatch.setattr(pipeline.host, "two_views", REAL_VIEWS)
    pixels = np.random.default_rng(0).integers(0, 256, (IMAGES, 40, 40, 3), np.uint8)
    files = [encode(image, "JPEG", quality=90) for image in pixels]
    for number in BAD:
        files[number] = files[number][:1500]  # its upper half could be read
    split = Split.whole(np.array(files, object), np.arange(IMAGES))
    unstopped = train(split, last=9)
    assert_same_batches(train(split, first=4, last=9), unstopped[4:])
    for batch in unstopped:
        assert not set(batch["labels"]) & set(BAD)


# Counts and names


def records(caplog):
    return [record.getMessage() for record in caplog.records if record.name.endswith("unreadable")]


@EVERY
def test_the_first_ten_are_named_in_the_log_and_all_are_counted(see, caplog, tmp_path):
    bad = tuple(range(1, 24, 2))
    unreadable = Unreadable(IMAGES, HALF)
    see(stored(bytes_of(bad), tmp_path), unreadable=unreadable)
    assert len(unreadable) == len(unreadable.names) == len(bad)
    assert {name.split(":")[0] for name in unreadable.names} == {f"{tmp_path}/{number}.img" for number in bad}
    lines = records(caplog)
    assert [name in line for name, line in zip(unreadable.names, lines, strict=False)] == [True] * 10 + [False]
    assert len(lines) == 11 and "check-data" in lines[10]
    assert all(record.levelno == logging.WARNING for record in caplog.records)


@EVERY
def test_up_to_the_limit_is_allowed_and_one_more_is_not(see):
    unreadable = Unreadable(IMAGES, len(BAD) / IMAGES)
    assert see(bytes_of(), unreadable=unreadable)
    with pytest.raises(
        ValueError, match=r"^5 of 25 images .* data.max_corrupt_fraction=0.19 allows.* check-data"
    ) as error:
        see(bytes_of(), unreadable=Unreadable(IMAGES, 0.19), batch_size=25)
    assert "\n" not in str(error.value) and "the first is image" in str(error.value)


@pytest.mark.parametrize("see", [training_views, validation_views])
def test_none_is_allowed_where_nothing_is_said(see):
    steps = {"first_step": 0, "last_step": STEPS} if see is training_views else {}
    with pytest.raises(ValueError, match="^[1-5] of 25 images cannot be read, .*=0 allows"):
        list(see(bytes_of(), RECIPE, batch_size=BATCH, seed=0, **steps))


def test_none_is_allowed_in_one_pass_where_nothing_is_said():
    for batches in (central_views(bytes_of(), SIZE, batch_size=BATCH), image_sizes(bytes_of(), batch_size=BATCH)):
        with pytest.raises(ValueError, match="1 of 25 images cannot be read, .*=0 allows"):
            list(batches)


@EVERY
def test_where_nothing_can_be_read_it_ends(see):
    nothing = bytes_of(bad=tuple(range(IMAGES)))
    with pytest.raises(ValueError, match="cannot be read, more than data.max_corrupt_fraction=0.99 allows"):
        see(nothing, unreadable=Unreadable(IMAGES, 0.99))
    if see in (train, validate):
        with pytest.raises(ValueError, match="none of the 25 images can be read"):
            see(nothing, unreadable=Unreadable(IMAGES, 1.0))
    else:
        assert sum(len(batch["labels"]) for batch in see(nothing, unreadable=Unreadable(IMAGES, 1.0))) == 0


def test_an_image_in_memory_is_named_by_its_id():
    unreadable = Unreadable(3, 1.0)
    measure(bytes_of().take(np.array([0, 7, 3])), unreadable=unreadable)
    assert unreadable.names == ["image 7: no image, begins with b'<html>', 6 bytes", "image 3: empty"]


# Files


ODD = [
    b"sp ace",
    b"new\nline",
    b"100%20",
    "ünïcode 图".encode(),
    b"[a-z]*?",
    b"quote'\"",
    b"semi; colon",
    b"\xff\xfe",
    b"$(x) \\",
]


def test_file_names_may_be_odd(tmp_path, caplog):
    paths = [os.fsencode(tmp_path) + b"/" + name for name in ODD]
    for number, path in enumerate(paths):
        pathlib.Path(os.fsdecode(path)).write_bytes(colour(number))
    split = Split.whole(np.array(paths), label_of(np.arange(len(ODD))))
    np.testing.assert_array_equal(shown(centre(split)), np.arange(len(ODD)))
    for path in paths:
        pathlib.Path(os.fsdecode(path)).write_bytes(b"")
    unreadable = Unreadable(len(ODD), 1.0)
    centre(split, unreadable=unreadable)
    assert unreadable.names[0] == f"{tmp_path}/sp ace: empty" and unreadable.names[3] == f"{tmp_path}/ünïcode 图: empty"
    assert unreadable.names[1] == rf"'{tmp_path}/new\nline': empty"
    assert unreadable.names[7] == rf"'{tmp_path}/\xff\xfe': empty"
    for line in [*unreadable.names, *records(caplog)]:
        assert line.isprintable() and line.encode()


def test_what_is_no_file_is_named_with_the_reason(tmp_path):
    paths = [tmp_path / name for name in ("gone", "dangling", "loop", "folder", "good")]
    paths[1].symlink_to(tmp_path / "nowhere")
    paths[2].symlink_to(paths[2])
    paths[3].mkdir()
    paths[4].write_bytes(colour(4))
    split = Split.whole(np.array([os.fsencode(path) for path in paths]), label_of(np.arange(5)))
    unreadable = Unreadable(5, 0.8)
    np.testing.assert_array_equal(shown(centre(split, unreadable=unreadable)), [4])
    reasons = [name.removeprefix(f"{path}: ") for name, path in zip(unreadable.names, paths[:4], strict=True)]
    assert reasons == [
        "No such file or directory",
        "a link to nowhere: No such file or directory",
        "a link to nowhere: Too many levels of symbolic links",
        "Is a directory",
    ]
    assert not set(shown(train(split, unreadable=Unreadable(5, 0.8), batch_size=2, last=6))) - {4}


def test_a_file_that_breaks_during_a_run_is_replaced_from_then_on(tmp_path):
    split = stored(bytes_of(bad=()), tmp_path)
    batches = training_views(
        split,
        RECIPE,
        batch_size=BATCH,
        seed=0,
        first_step=0,
        last_step=100 * STEPS_PER_EPOCH,
        unreadable=Unreadable(25, HALF),
    )
    assert set(shown([next(batches) for _ in range(2 * STEPS_PER_EPOCH)])) == set(range(IMAGES))
    (tmp_path / "5.img").unlink()
    later = [next(batches) for _ in range(12 * STEPS_PER_EPOCH)][10 * STEPS_PER_EPOCH :]  # past what was read ahead
    assert 5 not in shown(later)


# The machinery


def failing(monkeypatch, times):
    """Makes the reading of an image fail in a way that is not the image's."""
    original, failures = pipeline.host.central_view, []

    def fail():
        if len(failures) < times:
            failures.append(1)
            raise ValueError("hiccup")
        return np.float32(0)

    def flaky(image, size):
        return original(image, size) + tf.numpy_function(fail, [], tf.float32)

    monkeypatch.setattr(pipeline.host, "central_view", flaky)


def test_a_hiccup_is_survived(monkeypatch):
    failing(monkeypatch, 1)
    np.testing.assert_array_equal(shown(centre(bytes_of(bad=()))), np.arange(IMAGES))


def test_what_fails_again_and_is_no_images_fault_ends_the_run(monkeypatch):
    failing(monkeypatch, 10**9)
    with pytest.raises(ValueError, match="^the images cannot be read: .*hiccup") as error:
        centre(bytes_of(bad=()))
    assert "\n" not in str(error.value)


def many_broken():
    """200 images in 50 batches, of which 40 are unreadable, none in the same batch as another."""
    some = bytes_of(tuple(range(0, IMAGES, 5)))
    return Split.whole(np.tile(some.images, 8), np.tile(some.labels, 8))


def test_reading_starts_again_far_less_often_than_batches_are_broken(monkeypatch):
    starts, original = [], pipeline._look_ahead
    monkeypatch.setattr(pipeline, "_look_ahead", lambda *arguments: starts.append(1) or original(*arguments))
    assert len(shown(centre(many_broken()))) == 160
    assert len(starts) <= 6


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="counts the threads of TensorFlow in /proc")
def test_starting_again_leaves_no_thread_behind(monkeypatch):
    monkeypatch.setattr(pipeline, "LOOK_AHEAD", 0)  # start again at every broken batch
    split = bytes_of(tuple(range(0, IMAGES, 3)))
    centre(split)
    before = len(os.listdir("/proc/self/task"))
    centre(split)
    assert len(os.listdir("/proc/self/task")) <= before + 2
