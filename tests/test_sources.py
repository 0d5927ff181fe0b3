"""Which images there are: every kind of source gives the images and labels that were put there, and no role leaks."""

import io
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets
from tensorflow_datasets import features

from simclr_jax.data import sources, tfds
from simclr_jax.data.npz import Npz
from simclr_jax.data.sources import Splits, open_source
from simclr_jax.data.split import Split

CLASSES = ("ant", "bee", "cat")
REAL = os.environ.get("SIMCLR_TEST_DATA", "")
needs_real = pytest.mark.skipif(
    not REAL, reason="SIMCLR_TEST_DATA names no folder with cifar10.npz, tfds/ and imagewoof/"
)


def noise(n, *, side=5, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, side, side, 3), np.uint8)


def png(image):
    return tf.io.encode_png(image).numpy()


def decoded(split):
    """Pixels of a split of encoded images or of paths."""
    files = [pathlib.Path(path).read_bytes() for path in split.images] if split.kind == "paths" else split.images
    return np.stack([tf.io.decode_image(file, channels=3).numpy() for file in files])


def assert_one_line(error):
    assert "\n" not in str(error.value)


# Roles


class Numbers:
    """A source whose images are known by their ids, and that remembers which splits were read."""

    class_names = ("even", "odd")

    def __init__(self, **sizes):
        self.split_names = tuple(sizes)
        self._sizes = sizes
        self.read = []

    def load(self, name):
        self.read.append(name)
        n = self._sizes[name]
        return Split.whole(np.zeros((n, 1, 1, 3), np.uint8), np.arange(n) % 2)


def ids(splits, role):
    return splits.load(role).ids.tolist()


def test_hold_outs_and_train_are_disjoint_and_complete():
    splits = Splits(Numbers(train=50), holdout_fraction=0.2)
    parts = {role: ids(splits, role) for role in sources.ROLES}
    assert {role: len(part) for role, part in parts.items()} == {"train": 30, "validation": 10, "test": 10}
    assert sorted(sum(parts.values(), [])) == list(range(50))
    assert all(part == sorted(part) for part in parts.values()), "the stored order is kept"


def test_hold_outs_are_the_same_for_the_same_seed_and_others_for_another():
    first, again, other = (Splits(Numbers(train=50), seed=seed) for seed in (3, 3, 4))
    for role in ("validation", "test"):
        assert ids(first, role) == ids(again, role)
        assert ids(first, role) != ids(other, role)


def test_nothing_is_held_out_where_nothing_is_asked_for():
    splits = Splits(Numbers(train=20, test=5), holdout_fraction=0.0)
    assert [len(splits.load(role)) for role in sources.ROLES] == [20, 0, 5]


def test_images_without_labels_are_not_held_out_for_a_test():
    source = Numbers(train=20)
    source.class_names = ()
    splits = Splits(source, holdout_fraction=0.1)
    assert [len(splits.load(role)) for role in ("train", "validation")] == [18, 2]
    with pytest.raises(ValueError, match="no test images; probe on one with labels"):
        splits.load("test")


def test_the_training_split_is_read_once_for_all_roles():
    source = Numbers(train=50)
    splits = Splits(source)
    for role in sources.ROLES:
        splits.load(role)
    assert source.read == ["train"]


def test_a_hold_out_is_no_end_of_the_training_split():
    held = ids(Splits(Numbers(train=400), holdout_fraction=0.1), "validation")
    assert 100 < np.mean(held) < 300 and np.ptp(held) > 300


def test_labels_and_ids_stay_with_held_out_images():
    splits = Splits(Numbers(train=50))
    for role in sources.ROLES:
        part = splits.load(role)
        np.testing.assert_array_equal(part.labels, part.ids % 2)


def test_a_role_has_the_split_of_its_name():
    splits = Splits(Numbers(train=20, validation=7, test=5))
    assert [len(splits.load(role)) for role in sources.ROLES] == [20, 7, 5]
    assert [splits.split_of(role) for role in sources.ROLES] == ["train", "validation", "test"]


def test_a_source_without_validation_holds_it_out_of_train_alone():
    splits = Splits(Numbers(train=20, test=5), holdout_fraction=0.25)
    assert splits.split_of("validation") == ""
    assert [len(splits.load(role)) for role in sources.ROLES] == [15, 5, 5]
    assert not set(ids(splits, "train")) & set(ids(splits, "validation"))


def test_a_split_named_for_one_role_serves_no_other():
    splits = Splits(Numbers(train=20, validation=8), test="validation", holdout_fraction=0.1)
    assert len(splits.load("test")) == 8
    assert splits.split_of("validation") == "" and len(splits.load("validation")) == 2


def test_train_may_be_any_split():
    source = Numbers(train=20, test=6, unlabeled=40)
    splits = Splits(source, train="unlabeled", holdout_fraction=0.1)
    assert [len(splits.load(role)) for role in sources.ROLES] == [36, 4, 6]


@pytest.mark.parametrize("limit, expected", [(0, 45), (7, 7), (1000, 45)])
def test_limit_takes_the_first_training_images_and_nothing_else(limit, expected):
    whole = Splits(Numbers(train=50, test=5))
    limited = Splits(Numbers(train=50, test=5), limit=limit)
    assert ids(limited, "train") == ids(whole, "train")[:expected]
    assert ids(limited, "validation") == ids(whole, "validation")
    assert ids(limited, "test") == ids(whole, "test")


def test_the_test_split_is_read_for_the_test_alone():
    source = Numbers(train=20, test=5)
    splits = Splits(source)
    splits.load("train"), splits.load("validation")
    assert "test" not in source.read
    splits.load("test")
    assert source.read.count("test") == 1


@pytest.mark.parametrize(
    "wrong, mentions",
    [
        ({"train": "unsupervised"}, "data.train_split='unsupervised'.*train, test"),
        ({"train": ""}, "data.train_split='' .*train, test"),
        ({"validation": "val"}, "data.validation_split='val'.*train, test"),
        ({"validation": "test", "test": "test"}, "train, test, test"),
        ({"validation": "train"}, "train, train"),
        ({"holdout_fraction": -0.1}, "holdout_fraction=-0.1"),
        ({"holdout_fraction": 0.5}, "holdout_fraction=0.5"),
        ({"holdout_fraction": float("nan")}, "holdout_fraction=nan"),
        ({"limit": -1}, "limit=-1"),
    ],
)
def test_impossible_roles_are_refused(wrong, mentions):
    with pytest.raises(ValueError, match=mentions) as error:
        Splits(Numbers(train=20, test=5), **wrong)
    assert_one_line(error)


def test_too_few_images_to_hold_any_out_are_refused():
    with pytest.raises(ValueError, match="2 training images are too few"):
        Splits(Numbers(train=2)).load("train")


def test_labelled_tells_whether_any_image_has_a_label():
    images = noise(3)
    assert Split.whole(images, np.array([-1, 0, -1])).labelled
    assert not Split.whole(images, np.array([-1, -1, -1])).labelled
    assert not Split.whole(images, None).labelled


# Names


def test_textures_have_their_three_splits_and_classes():
    source = open_source("textures")
    assert source.split_names == sources.ROLES
    for name in source.split_names:
        split = source.load(name)
        assert split.kind == "pixels" and len(split) == len(split.labels) > 0
        assert set(split.labels) == set(range(len(source.class_names)))


@pytest.mark.parametrize(
    "name", ["", "texture", "textures:x", "npz", "npz:", "folder:", "tfds", "s3:bucket", "cifar10"]
)
def test_an_unknown_source_is_answered_with_the_known_ones(name):
    with pytest.raises(ValueError, match="textures, npz:PATH, folder:PATH or tfds:NAME"):
        open_source(name)


def test_sources_of_files_and_arrays_do_without_tensorflow(tmp_path):
    np.savez(tmp_path / "a.npz", x_train=noise(4))
    (tmp_path / "a.png").write_bytes(png(noise(1)[0]))
    program = f"""
import sys
sys.modules["tensorflow"] = sys.modules["tensorflow_datasets"] = None
from simclr_jax.data.sources import open_source
print(len(open_source("npz:{tmp_path}/a.npz").load("train")), len(open_source("folder:{tmp_path}").load("train")))
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["4", "1"]


# npz


def archive(path, **arrays):
    np.savez(path / "set.npz", **arrays)
    return open_source(f"npz:{path}/set.npz")


def test_npz_gives_the_stored_images_and_labels(tmp_path):
    images, labels = noise(6), np.array([2, 0, 1, 1, 0, 2])
    source = archive(tmp_path, x_train=images, y_train=labels, x_test=images[:2], y_test=labels[:2, None])
    train, test = source.load("train"), source.load("test")
    np.testing.assert_array_equal(train.images, images)
    np.testing.assert_array_equal(train.labels, labels)
    np.testing.assert_array_equal(test.labels, [2, 0])  # stored as [n, 1], as Keras has them
    assert train.labels.dtype == np.int64
    assert set(source.split_names) == {"train", "test"} and source.class_names == ("0", "1", "2")


@pytest.mark.parametrize("shape", [(4, 5, 6), (4, 5, 6, 1)])
def test_npz_repeats_grey_to_three_channels(tmp_path, shape):
    grey = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    images = archive(tmp_path, x_train=grey).load("train").images
    assert images.shape == (4, 5, 6, 3)
    for channel in range(3):
        np.testing.assert_array_equal(images[..., channel], grey.reshape(4, 5, 6))


def test_npz_without_labels_has_none(tmp_path):
    source = archive(tmp_path, x_train=noise(4), x_test=noise(3), y_test=np.array([0, 1, 0]))
    assert source.load("train").labels is None and source.load("test").labelled
    assert source.class_names == ("0", "1")


@pytest.mark.parametrize(
    "arrays, mentions",
    [
        ({"x_train": noise(3) / np.float32(255)}, r"x_train.*float32 \[3, 5, 5, 3\].*uint8"),
        ({"x_train": np.zeros((3, 5, 5, 4), np.uint8)}, r"\[3, 5, 5, 4\]"),
        ({"x_train": np.zeros((3, 75), np.uint8)}, r"\[3, 75\]"),
        ({"x_train": noise(3), "y_train": np.arange(4)}, "3 images x_train but 4 labels y_train"),
        ({"x_train": noise(3), "y_train": np.eye(3)}, r"y_train.*float64 \[3, 3\]"),
        ({"x_train": noise(3), "y_train": np.eye(3, dtype=int)}, r"y_train.*\[3, 3\]"),
        ({"x_train": noise(3), "y_train": np.array([0.0, 1.5, 2.0])}, r"y_train.*float64 \[3\]"),
        ({"images": noise(3), "labels": np.arange(3)}, "images, labels.*x_train"),
        ({}, "nothing.*x_train"),
        ({"x_train": np.array([noise(1)[0], None], object)}, "x_train.*set.npz cannot be read.*allow_pickle"),
        ({"x_train": noise(1), "y_train": np.array(["a", 1], object)}, "y_train.*set.npz cannot be read.*allow_pickle"),
    ],
)
def test_unusable_arrays_are_refused(tmp_path, arrays, mentions):
    with pytest.raises(ValueError, match=mentions) as error:
        archive(tmp_path, **arrays).load("train")
    assert_one_line(error)


def npy_bytes():
    file = io.BytesIO()
    np.save(file, noise(3))
    return file.getvalue()


def half_an_archive():
    file = io.BytesIO()
    np.savez(file, x_train=noise(3))
    return file.getvalue()[:200]


@pytest.mark.parametrize("content", [npy_bytes(), half_an_archive(), b"", b"\x80\x04K\x01.", b"text\n"])
def test_a_file_that_is_no_archive_is_refused(tmp_path, content):
    (tmp_path / "set.npz").write_bytes(content)
    with pytest.raises(ValueError, match="set.npz is not a NumPy .npz archive") as error:
        Npz(str(tmp_path / "set.npz"))
    assert_one_line(error)


@pytest.mark.parametrize("name", ["missing.npz", "."])
def test_a_missing_archive_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match="does not exist"):
        Npz(str(tmp_path / name))


# folder


def plant(root, *paths):
    """Writes a small image to each path."""
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(png(noise(1)[0]))


def listing(source, root, name):
    """{path below root: class name, or None where there is no label}."""
    split = source.load(name)
    labels = [-1] * len(split) if split.labels is None else split.labels
    paths = [str(pathlib.Path(path).relative_to(root)) for path in split.images]
    assert len(set(paths)) == len(paths)
    return {path: source.class_names[label] if label >= 0 else None for path, label in zip(paths, labels, strict=True)}


def test_folder_with_splits_and_classes(tmp_path):
    plant(tmp_path, "train/bee/1.png", "train/ant/1.png", "train/ant/2.jpg", "validation/bee/1.png", "test/ant/9.gif")
    source = open_source(f"folder:{tmp_path}")
    assert source.class_names == ("ant", "bee")
    assert set(source.split_names) == {"train", "validation", "test"}
    assert listing(source, tmp_path, "train") == {
        "train/bee/1.png": "bee",
        "train/ant/1.png": "ant",
        "train/ant/2.jpg": "ant",
    }
    assert listing(source, tmp_path, "validation") == {"validation/bee/1.png": "bee"}
    assert listing(source, tmp_path, "test") == {"test/ant/9.gif": "ant"}


def test_folder_with_classes_is_all_train(tmp_path):
    plant(tmp_path, "b/1.png", "a10/1.png", "a9/1.png")
    source = open_source(f"folder:{tmp_path}")
    assert source.split_names == ("train",) and source.class_names == ("a10", "a9", "b")
    assert listing(source, tmp_path, "train") == {"b/1.png": "b", "a10/1.png": "a10", "a9/1.png": "a9"}


def test_folder_of_a_flat_pile_has_no_labels(tmp_path):
    plant(tmp_path, "2.png", "1.bmp", "übung 3.png")
    source = open_source(f"folder:{tmp_path}")
    assert source.class_names == () and not source.load("train").labelled
    assert listing(source, tmp_path, "train") == {"1.bmp": None, "2.png": None, "übung 3.png": None}


def test_folder_with_flat_splits_has_no_labels(tmp_path):
    plant(tmp_path, "train/1.png", "train/2.png", "test/1.png")
    source = open_source(f"folder:{tmp_path}")
    assert listing(source, tmp_path, "train") == {"train/1.png": None, "train/2.png": None}
    assert listing(source, tmp_path, "test") == {"test/1.png": None}


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_other_names_of_validation(tmp_path, name):
    plant(tmp_path, "train/a/1.png", f"{name}/a/2.png")
    source = open_source(f"folder:{tmp_path}")
    assert set(source.split_names) == {"train", "validation"}
    assert listing(source, tmp_path, "validation") == {f"{name}/a/2.png": "a"}


def test_nested_files_belong_to_the_outermost_class(tmp_path):
    plant(tmp_path, "train/a/b/c/1.png", "train/b/1.png")
    source = open_source(f"folder:{tmp_path}")
    assert source.class_names == ("a", "b")
    assert listing(source, tmp_path, "train") == {"train/a/b/c/1.png": "a", "train/b/1.png": "b"}


def test_suffixes_in_upper_case_count_and_other_files_do_not(tmp_path):
    plant(tmp_path, "a/1.JPEG", "a/2.Png", "a/3.JPG", "a/._1.jpg", "a/.hidden/4.png", ".cache/5.png")
    plant(tmp_path, "a/notes.txt", "a/jpg", "a/1.png.part", "b/Thumbs.db")
    source = open_source(f"folder:{tmp_path}")
    assert set(listing(source, tmp_path, "train")) == {"a/1.JPEG", "a/2.Png", "a/3.JPG"}
    assert source.class_names == ("a",)


def test_linked_class_folders_are_entered(tmp_path):
    plant(tmp_path, "store/x/1.png")
    (tmp_path / "subset/train").mkdir(parents=True)
    (tmp_path / "subset/train/x").symlink_to(tmp_path / "store/x")
    source = open_source(f"folder:{tmp_path}/subset")
    assert listing(source, tmp_path / "subset", "train") == {"train/x/1.png": "x"}


def test_paths_come_in_the_order_of_their_names(tmp_path):
    names = ["c/1.png", "a/9.png", "a/10.png", "b/b/1.png", "b/a.png"]
    plant(tmp_path, *names)
    found = open_source(f"folder:{tmp_path}").load("train").images.tolist()
    assert found == [str(tmp_path / name) for name in sorted(names)]


def test_what_lies_beside_split_folders_with_classes_is_passed_over(tmp_path):
    plant(tmp_path, "train/a/1.png", "test/a/1.png", "unlabeled/1.png", "banner.png")
    source = open_source(f"folder:{tmp_path}")
    assert set(source.split_names) == {"train", "test"}
    assert list(listing(source, tmp_path, "train")) == ["train/a/1.png"]


@pytest.mark.parametrize(
    "paths, mentions",
    [
        ([], "holds no images"),
        (["a/notes.txt", ".hidden.png"], "holds no images"),
        (["train/a/1.png", "val/a/1.png", "val/zebra/1.png"], "validation has classes that train does not.*: zebra"),
        (["train/a/1.png", "val/a/1.png", "valid/a/2.png"], "val, valid"),
        (["train/1.png", "car/1.png", "bus/1.png"], "train beside bus, car"),  # a train can be a class
    ],
)
def test_unusable_folders_are_refused(tmp_path, paths, mentions):
    plant(tmp_path, *paths)
    with pytest.raises(ValueError, match=mentions) as error:
        open_source(f"folder:{tmp_path}")
    assert_one_line(error)


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match="nowhere is not a folder"):
        open_source(f"folder:{tmp_path}/nowhere")


# tfds

TRAIN, TEST = noise(50, seed=1), noise(11, seed=2)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A data set that TFDS's own writer prepared in four files a split: image i has the label i mod 3."""
    directory = tmp_path_factory.mktemp("tfds")
    image = features.Image(shape=(5, 5, 3), encoding_format="png")
    kinds = {
        "tiny": {"image": image, "label": features.ClassLabel(names=CLASSES)},
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


def rows(images, labels):
    """Images and labels as a sorted list that does not depend on their order."""
    return sorted((image.tobytes(), int(label)) for image, label in zip(images, labels, strict=True))


def stream(prepared, name="train"):
    return tfds.Tfds("tiny", prepared, memory_limit=0).load(name)


def positions(stream):
    return [position for start, stop in stream.ranges for position in range(start, stop)]


def records(stream, shuffle_seed=None):
    return list(stream.read(shuffle_seed=shuffle_seed).as_numpy_iterator())


def idents(stream, shuffle_seed=None):
    return [int(record["id"]) for record in records(stream, shuffle_seed)]


@pytest.mark.parametrize("name, images", [("train", TRAIN), ("test", TEST)])
def test_tfds_gives_the_prepared_images_and_labels(prepared, name, images):
    source = open_source("tfds:tiny", directory=prepared)
    split = source.load(name)
    assert set(source.split_names) == {"train", "test"} and source.class_names == CLASSES
    assert split.kind == "bytes" and split.labels.dtype == np.int64
    assert rows(decoded(split), split.labels) == rows(images, np.arange(len(images)) % 3)


def test_tfds_without_labels_has_none(prepared):
    source = open_source("tfds:tiny_unlabelled", directory=prepared)
    assert source.class_names == () and source.load("train").labels is None
    records_of = tfds.Tfds("tiny_unlabelled", prepared, memory_limit=0).load("train").read(shuffle_seed=None)
    assert {int(record["label"]) for record in records_of.as_numpy_iterator()} == {-1}


def test_a_stream_holds_what_memory_would_hold(prepared):
    split, read = tfds.Tfds("tiny", prepared).load("train"), records(stream(prepared))
    assert len(stream(prepared)) == len(split) == len(read) == 50
    assert [record["image"] for record in read] == split.images.tolist()
    assert [record["label"] for record in read] == split.labels.tolist()
    assert stream(prepared).labelled


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


# Real data


@needs_real
def test_cifar10_is_the_same_from_tfds_and_from_an_archive():
    from_tfds = open_source("tfds:cifar10", directory=f"{REAL}/tfds").load("test")
    from_archive = open_source(f"npz:{REAL}/cifar10.npz").load("test")
    assert rows(decoded(from_tfds), from_tfds.labels) == rows(from_archive.images, from_archive.labels)


@needs_real
def test_imagewoof_has_ten_breeds_in_two_splits():
    source = open_source(f"folder:{REAL}/imagewoof")
    assert set(source.split_names) == {"train", "validation"} and len(source.class_names) == 10
    for name in source.split_names:
        split = source.load(name)
        breeds = [pathlib.Path(path).parent.name for path in split.images]
        assert [source.class_names[label] for label in split.labels] == breeds
