"""Prepared TFDS sets give the stored images and labels, from memory or streamed, and no part leaks."""

import numpy as np
import pytest
import tensorflow_datasets
from tensorflow_datasets import features

from simclr_jax.data import tfds
from simclr_jax.data.sources import Splits, open_source
from support.samples import assert_one_line, decoded, noise, rows

CLASSES = ("ant", "bee", "cat")


TRAIN, TEST = noise(50, seed=1), noise(11, seed=2)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A data set that TFDS's own writer prepared in four files a split: image i has the label i mod 3."""
    directory = tmp_path_factory.mktemp("tfds")
    image = features.Image(shape=(5, 5, 3), encoding_format="png")
    kinds = {
        "tiny": {"image": image, "label": features.ClassLabel(names=CLASSES)},
        "tiny_sizes": {
            "image": features.Image(shape=(None, None, 3), encoding_format="png"),
            "label": features.ClassLabel(names=CLASSES),
        },
        "tiny_unlabelled": {"image": image},
        "tiny_words": {"text": features.Text()},
    }
    for name, kind in kinds.items():
        tensorflow_datasets.dataset_builders.store_as_tfds_dataset(
            name,
            version="1.0.0",
            features=features.FeaturesDict(kind),
            split_datasets={"train": examples(TRAIN, kind), "test": examples(TEST, kind)},
            data_dir=directory,
            download_config=tensorflow_datasets.download.DownloadConfig(num_shards=4),
        )
    return str(directory)


def examples(images, kind):
    rows = [{"image": image, "label": index % 3, "text": "no"} for index, image in enumerate(images)]
    return [(index, {name: row[name] for name in kind}) for index, row in enumerate(rows)]


def stream(prepared, name="train"):
    return tfds.Tfds("tiny", prepared, memory_limit=0).load(name)


def positions(stream):
    return [position for start, stop in stream.ranges for position in range(start, stop)]


def records(stream, shuffle_seed=None):
    return list(stream.read(shuffle_seed=shuffle_seed).as_numpy_iterator())


def idents(stream, shuffle_seed=None):
    return [int(record["id"]) for record in records(stream, shuffle_seed)]


@pytest.mark.parametrize(("data", "kind"), [("tiny", "pixels"), ("tiny_sizes", "bytes")])
@pytest.mark.parametrize(("name", "images"), [("train", TRAIN), ("test", TEST)])
def test_tfds_gives_the_prepared_images_and_labels(prepared, data, kind, name, images):
    """Images of one size are decoded once, others stay encoded."""
    source = open_source(f"tfds:{data}", directory=prepared)
    split = source.load(name)
    assert set(source.split_names) == {"train", "test"} and source.class_names == CLASSES
    assert split.kind == kind and split.labels.dtype == np.int64
    assert rows(decoded(split), split.labels) == rows(images, np.arange(len(images)) % 3)


def test_tfds_without_labels_has_none(prepared):
    source = open_source("tfds:tiny_unlabelled", directory=prepared)
    assert source.class_names == () and source.load("train").labels is None
    records_of = tfds.Tfds("tiny_unlabelled", prepared, memory_limit=0).load("train").read(shuffle_seed=None)
    assert {int(record["label"]) for record in records_of.as_numpy_iterator()} == {-1}


def test_a_stream_holds_what_memory_would_hold(prepared):
    split, read = tfds.Tfds("tiny_sizes", prepared).load("train"), records(stream(prepared))
    assert len(stream(prepared)) == len(split) == len(read) == 50
    assert [record["image"] for record in read] == split.images.tolist()
    assert [record["label"] for record in read] == split.labels.tolist()
    assert stream(prepared).labelled


def test_labels_of_a_stream_are_those_that_memory_would_hold(prepared):
    held = tfds.Tfds("tiny", prepared).load("train")
    assert stream(prepared).class_numbers.tolist() == held.class_numbers.tolist()
    assert set(tfds.Tfds("tiny_unlabelled", prepared, memory_limit=0).load("train").class_numbers) == {-1}


def test_images_of_a_stream_have_ids_that_stay_with_them(prepared):
    image_of = {int(record["id"]): record["image"] for record in records(stream(prepared))}
    assert len(image_of) == 50 and min(image_of) >= 0
    part = stream(prepared).cut([9], seed=0)[-1].shard(1, 2)  # ranges that begin and end inside files
    for record in records(part, shuffle_seed=5):
        assert image_of[int(record["id"])] == record["image"]


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("sizes", [[], [7], [5, 12]])
def test_cut_parts_of_a_stream_are_a_partition(prepared, sizes, seed):
    parts = stream(prepared).cut(sizes, seed=seed)
    assert [len(part) for part in parts] == [*sizes, 50 - sum(sizes)]
    assert sorted(sum(map(positions, parts), [])) == list(range(50))


def test_the_seed_decides_what_is_cut_from_a_stream(prepared):
    first, again, *others = (positions(stream(prepared).cut([5], seed=seed)[0]) for seed in (0, 0, 1, 2, 3))
    assert first == again and any(first != other for other in others)


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_shards_of_a_stream_are_a_partition_into_nearly_equal_parts(prepared, count):
    rest = stream(prepared).cut([6], seed=1)[-1]  # two ranges of 44 images together
    shards = [rest.shard(index, count) for index in range(count)]
    assert max(map(len, shards)) - min(map(len, shards)) <= 1
    assert sum(map(positions, shards), []) == positions(rest)


@pytest.mark.parametrize("limit, length", [(0, 44), (10, 10), (40, 40), (1000, 44)])
def test_first_takes_the_first_images_of_a_stream(prepared, limit, length):
    rest = stream(prepared).cut([6], seed=1)[-1]
    assert len(rest.ranges) == 2
    assert positions(rest.first(limit)) == positions(rest)[:length]


def test_a_stream_is_shuffled_by_its_seed_alone(prepared):
    stored, first, again, other = (idents(stream(prepared), seed) for seed in (None, 1, 1, 2))
    assert first == again and first != other and first != stored
    assert sorted(first) == sorted(other) == sorted(stored)


def test_a_stream_is_shuffled_both_by_file_and_within_a_buffer(prepared, monkeypatch):
    within = stream(prepared).first(10)  # of the first file's twelve
    assert idents(within, 1) != idents(within, 2)
    monkeypatch.setattr(tfds, "SHUFFLE_BUFFER", 1)
    assert len({tuple(idents(stream(prepared), seed)) for seed in range(3)}) > 1


def test_roles_of_a_stream_are_disjoint_and_complete(prepared):
    splits = Splits(tfds.Tfds("tiny", prepared, memory_limit=0), holdout_fraction=0.2)
    train, validation = (idents(splits.load(role)) for role in ("train", "validation"))
    assert len(train) == 40 and len(validation) == 10
    assert sorted(train + validation) == sorted(idents(stream(prepared)))
    assert splits.load("test").name == "test"


@pytest.mark.parametrize(
    "name, mentions",
    [
        ("cifar10", "cifar10 is not prepared in .*tfds build cifar10 --data_dir="),
        ("cifar1o", "did you mean cifar10"),
        ("cifar10:9.9.9", "cifar10:9.9.9 cannot be opened.*3.0.2"),
        ("imagenet2012_subset/2pct", "imagenet2012_subset/2pct cannot be opened"),
        ("two words", "two words cannot be opened"),
        ("tiny_words", "no feature 'image'; it has: text"),
    ],
)
def test_unusable_tfds_names_are_refused(prepared, name, mentions):
    with pytest.raises(ValueError, match=mentions) as error:
        open_source(f"tfds:{name}", directory=prepared)
    assert_one_line(error)


@pytest.mark.parametrize("name", ["huggingface:someone/theirs", "kaggle:x", "a_register:set/config:1.0.0", "a:b:c"])
def test_sets_whose_programs_come_from_elsewhere_are_not_opened(name, monkeypatch):
    monkeypatch.setattr(tensorflow_datasets, "builder", lambda *_, **__: pytest.fail("it was opened"))
    with pytest.raises(ValueError, match="is not supported: use NAME, NAME/CONFIG or NAME:VERSION") as error:
        open_source(f"tfds:{name}")
    assert_one_line(error)


def test_a_name_that_is_none_is_answered_without_the_network(monkeypatch):
    """TFDS would ask a bucket for the sets of others, now and then, and log that it was not let in."""
    from tensorflow_datasets.core import community

    monkeypatch.setattr(community, "community_register", lambda: pytest.fail("asked"))
    with pytest.raises(ValueError, match="did you mean cifar10"):
        open_source("tfds:cifar1o")
