"""Other images stand in for those that cannot be read, and nothing else changes: not the rest, a resume or a host."""

import numpy as np
import pytest

from simclr_jax.data import pipeline
from simclr_jax.data.pipeline import training_views
from simclr_jax.data.split import Split
from simclr_jax.data.unreadable import Unreadable
from support.broken import (
    BAD,
    BATCH,
    HALF,
    IMAGES,
    REAL_VIEWS,
    RECIPE,
    STEPS,
    STEPS_PER_EPOCH,
    assert_same_batches,
    bytes_of,
    centre,
    every_way,
    measure,
    quick,
    shown,
    stored,
    train,
    validate,
)
from support.oracles import encode

__all__ = ["quick"]  # a fixture for all tests here


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    return stored(bytes_of(), tmp_path_factory.mktemp("files"))


@pytest.fixture(scope="module")
def unstopped(split):
    """Three epochs, to be read only."""
    return train(split)


def joined(shards):
    """The batches of all hosts, put together step by step."""
    return [
        {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        for parts in zip(*shards, strict=True)
    ]


# What is seen instead


def test_others_stand_in_for_the_unreadable_and_all_else_stays(unstopped):
    whole, broken = shown(train(bytes_of(bad=()))), shown(unstopped)
    assert len(broken) == STEPS * BATCH
    assert not set(broken) & set(BAD)
    np.testing.assert_array_equal(broken == whole, ~np.isin(whole, BAD))
    stand_ins = broken[np.isin(whole, BAD)]
    assert len(set(stand_ins)) > len(stand_ins) / 2  # not one for all


def test_another_stands_in_in_another_epoch_and_seed(split, unstopped):
    def stand_ins(batches, **order):
        """{unreadable number: the number that is shown in its place} in the first epoch."""
        places = zip(shown(train(bytes_of(bad=()), last=STEPS_PER_EPOCH, **order)), shown(batches), strict=False)
        return {whole: broken for whole, broken in places if whole in BAD}

    whole = shown(train(bytes_of(bad=())))
    for number in BAD:
        assert len(set(shown(unstopped)[whole == number])) > 1
    one, other = stand_ins(unstopped), stand_ins(train(split, seed=1, last=STEPS_PER_EPOCH), seed=1)
    assert any(one[number] != other[number] for number in one.keys() & other.keys())


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


def test_crops_for_the_devices_are_of_the_same_images(split, unstopped):
    options = {"batch_size": BATCH, "seed": 0, "first_step": 0, "last_step": 4, "unreadable": Unreadable(IMAGES, HALF)}
    for of_crops, of_views in zip(training_views(split, RECIPE, crops_only=True, **options), unstopped, strict=False):
        np.testing.assert_array_equal(of_crops["labels"], of_views["labels"])
        colours = of_crops["crops"][:, :, 0, 0].mean(axis=2)
        np.testing.assert_allclose(colours, 255 * of_views["views"][:, :1].mean(axis=(2, 3, 4)) * [1, 1], atol=0.1)


@every_way
def test_images_without_labels_may_be_unreadable(see):
    split = Split.whole(bytes_of().images, None)
    assert {label for batch in see(split) for label in batch["labels"]} == {-1}


@every_way
def test_all_of_a_batch_may_be_unreadable(see):
    bad = tuple(range(4, 16))
    unreadable = Unreadable(IMAGES, HALF)
    batches = see(bytes_of(bad), unreadable=unreadable)
    assert not set(shown(batches)) & set(bad)
    assert len(unreadable) == len(bad)


# Resume and hosts


@pytest.mark.parametrize("first", [1, STEPS_PER_EPOCH, STEPS_PER_EPOCH + 2])
def test_a_resumed_run_sees_what_an_unstopped_one_sees(split, unstopped, first):
    assert_same_batches(train(split, first=first), unstopped[first:])


def test_encoded_images_in_memory_are_treated_as_files_are(unstopped):
    assert_same_batches(train(bytes_of()), unstopped)


def test_a_run_that_knows_what_is_unreadable_sees_what_one_that_learns_it_sees(split, unstopped):
    known = Unreadable(IMAGES, HALF)
    known.add(dict.fromkeys(BAD, "known"))
    assert_same_batches(train(split, unreadable=known), unstopped)


def test_hosts_together_see_the_batches_of_one(split, unstopped):
    shards = [(0, 2), (1, 2)]
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
    unstopped = train(split, last=6)
    assert_same_batches(train(split, first=3, last=6), unstopped[3:])
    for batch in unstopped:
        assert not set(batch["labels"]) & set(BAD)
