"""Which images there are: every kind of source gives the images and labels that were put there, and no role leaks."""

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from simclr_jax.data import sources
from simclr_jax.data.sources import Splits, open_source
from simclr_jax.data.split import Split
from support.samples import REAL, assert_one_line, decoded, needs_real, noise, png, rows

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
        labels = np.arange(n) % 2 if self.class_names else None
        return Split.whole(np.arange(n, dtype="<u4").view(np.uint8).reshape(n, 1, 1, 4), labels)

    def labelled(self, name):
        return bool(self.class_names) and name not in self.without_labels

    without_labels = ()


def ids(splits, role):
    return splits.load(role).ids.tolist()


def test_hold_outs_and_train_are_disjoint_and_complete():
    splits = Splits(Numbers(train=50), holdout_fraction=0.2)
    parts = {role: ids(splits, role) for role in sources.ROLES}
    assert min(map(len, parts.values())) > 1 and len(parts["train"]) > 20
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
    assert splits.roles == ("train", "validation")
    assert sorted(ids(splits, "train") + ids(splits, "validation")) == list(range(20))
    with pytest.raises(ValueError, match="no test images; use one with labels"):
        splits.load("test")


@pytest.mark.parametrize("role", ["validation", "test"])
def test_a_split_without_labels_beside_a_labelled_one_judges_nothing_unless_it_is_named(role):
    """As competitions have it: the labels of test are secret, and train has to give images to judge on."""
    source = Numbers(train=40, validation=9, test=9)
    source.without_labels = (role,)
    assert Splits(source).split_of(role) == ""
    assert Splits(source, **{role: role}).split_of(role) == role
    assert Splits(source, identity="position").split_of(role) == role, "an older run keeps what it was trained on"
    source.without_labels = ("train", role)
    assert Splits(source).split_of(role) == role


def test_older_runs_keep_their_hold_outs_and_samples():
    """By position: what they held out is what NumPy's permutation gave, and no image it trained on is judged."""
    splits = Splits(Numbers(train=50), holdout_fraction=0.2, identity="position", seed=3, limit=7)
    order = np.random.default_rng([3, 50]).permutation(50)
    assert ids(splits, "validation") == sorted(order[:10]) and ids(splits, "test") == sorted(order[10:20])
    assert ids(splits, "train") == sorted(order[20:])[:7]


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


@pytest.mark.parametrize("limit", [0, 7, 1000])
def test_limit_takes_a_sample_of_the_training_images_and_nothing_else(limit):
    whole = Splits(Numbers(train=400, test=5))
    limited = Splits(Numbers(train=400, test=5), limit=limit)
    found = ids(limited, "train")
    assert len(found) == (7 if limit == 7 else len(ids(whole, "train")))
    assert set(found) <= set(ids(whole, "train")) and found == sorted(found) and max(found) > 200
    assert ids(limited, "validation") == ids(whole, "validation")
    assert ids(limited, "test") == ids(whole, "test")


def test_the_test_split_is_read_for_the_test_alone():
    source = Numbers(train=20, test=5)
    splits = Splits(source)
    splits.load("train"), splits.load("validation")
    assert "test" not in source.read
    splits.load("test")
    assert source.read.count("test") == 1


def test_a_validation_split_is_read_once_for_training_and_for_what_it_holds():
    source = Numbers(train=20, validation=7)
    splits = Splits(source)
    splits.load("validation"), splits.contents(), splits.load("validation")
    assert source.read.count("validation") == 1


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
    with pytest.raises(ValueError, match="2 training images are too few to hold out 0.1 of them") as error:
        Splits(Numbers(train=2)).load("train")
    assert_one_line(error)
    assert len(Splits(Numbers(train=2), holdout_fraction=0.0).load("train")) == 2, "the mend that it names"


def test_labelled_tells_whether_any_image_has_a_label():
    images = noise(3)
    assert Split.whole(images, np.array([-1, 0, -1])).labelled
    assert not Split.whole(images, np.array([-1, -1, -1])).labelled
    assert not Split.whole(images, None).labelled


# Names


def test_textures_have_their_three_splits_and_classes():
    source = open_source("textures")
    assert source.split_names == sources.ROLES
    sizes = "6,000 train images, 1,000 validation images, 2,000 test images"
    assert source.describe().understood.startswith(f"{sizes}; 12 classes: ")
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


@pytest.mark.parametrize("name", ["textures", "npz:no/such.npz", "tfds:cifar10"])
@pytest.mark.parametrize("labels", ["none", "folders", "csv:x.csv"])
def test_labels_that_are_not_to_be_chosen_are_refused(name, labels):
    with pytest.raises(ValueError, match=f"data.labels={labels} only works with folder:PATH"):
        open_source(name, labels=labels)


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
        breeds = [pathlib.Path(os.fsdecode(path)).parent.name for path in split.images]
        assert [source.class_names[label] for label in split.labels] == breeds
