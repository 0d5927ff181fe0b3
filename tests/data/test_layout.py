"""What people's folders are called, each layout with its right reading; and what cannot be told from names is asked."""

import re
import shlex

import pytest

from simclr_jax.data import layout

CLASSES = ("cat", "dog")
TRAIN, VALIDATION, TEST = "train", "validation", "test"


def read(*folders, **options):
    """Reads folders, each with a number of images of its own; returns {folder: split and class} and where they lie."""
    counts = {tuple(filter(None, folder.split("/"))): 10 + i for i, folder in enumerate(folders)}
    found = layout.read("PATH", counts, **options)
    return {"/".join(place): "/".join(pair).strip("/") for place, pair in found.place.items()}, "/".join(found.top)


def classes_in(*splits):
    return [f"{split}/{name}" for split in splits for name in CLASSES]


SPELLINGS = [
    *[
        ("train", spelt, VALIDATION)
        for spelt in ("val", "valid", "validation", "VAL", "dev", "val_256", "valset", "Val Set")
    ],
    *[
        ("train", spelt, TEST)
        for spelt in ("test", "TEST", "eval", "evaluation", "holdout", "hold_out", "test1", "tst")
    ],
    *[
        (spelt, "test", TEST)
        for spelt in ("Train", "TRAIN", "training", "trainval", "train_full", "01-train", "trainset")
    ],
    ("Training", "Testing", TEST),
    ("training_set", "test_set", TEST),
    ("train-set", "test-set", TEST),
    ("Train Set", "Test Set", TEST),
    ("TrainSet", "TestSet", TEST),
    ("Training Data", "Validation Data", VALIDATION),
    ("traindata", "testdata", TEST),
    ("train2017", "val2017", VALIDATION),
    ("train_images", "test_images", TEST),
    ("imgs_train", "imgs_val", VALIDATION),
    ("train_224x224", "test_224x224", TEST),  # the "x" that both have
    ("seg_train", "seg_test", TEST),
    ("cifar10-train", "cifar10-test", TEST),
    ("asl_alphabet_train", "asl_alphabet_test", TEST),
    ("fold1_train", "fold1_val", VALIDATION),
]


@pytest.mark.parametrize("train, other, role", SPELLINGS)
def test_splits_are_known_by_their_usual_spellings(train, other, role):
    right = {f"{train}/cat": "train/cat", f"{train}/dog": "train/dog", f"{other}/cat": f"{role}/cat"}
    assert read(*right) == (right, "")
    assert read(train, other) == ({train: "train", other: role}, "")


RIGHT = {  # {what it is: {folder: split/class}, where the splits or classes lie}
    "classes": ({"cat": "train/cat", "dog": "train/dog"}, ""),
    "a flat pile": ({"": "train"}, ""),
    "one folder too high": ({"dataset/train": "train", "dataset/test": "test"}, "dataset"),
    "one folder too high, with classes": ({"x/train/a": "train/a", "x/train/b": "train/b", "x/test/a": "test/a"}, "x"),
    "any name above splits": ({"dogs-vs-cats/x/train": "train", "dogs-vs-cats/x/test1": "test"}, "dogs-vs-cats/x"),
    "splits within images": ({"images/train": "train", "images/val": "validation"}, "images"),
    "splits and classes within images": ({"images/train/a": "train/a", "images/train/b": "train/b"}, "images"),
    "classes within photos": ({"flower_photos/a": "train/a", "flower_photos/b": "train/b"}, "flower_photos"),
    "a pile within images": ({"images": "train"}, "images"),
    "VOC": ({"JPEGImages": "train"}, "JPEGImages"),
    "CelebA": ({"img_align_celeba/img_align_celeba": "train"}, "img_align_celeba/img_align_celeba"),
    "images within splits": ({"train/images": "train", "valid/images": "validation", "test/images": "test"}, ""),
    "Tiny ImageNet": (
        {"train/n1/images": "train/n1", "train/n2/images": "train/n2", "val/images": "validation"},
        "",
    ),
    "Intel's of Kaggle": (
        {
            "seg_train/seg_train/sea": "train/sea",
            "seg_train/seg_train/street": "train/street",
            "seg_test/seg_test/sea": "test/sea",
            "seg_pred/seg_pred": None,
        },
        "",
    ),
    "a test of nobody knows what": ({"train/a": "train/a", "train/b": "train/b", "test/unknown": "test"}, ""),
    "one class of several in a split": (
        {"train/small_dogs": "train/small_dogs", "train/b": "train/b", "test/small_dogs": "test/small_dogs"},
        "",
    ),
    "more images beside": ({"train/a": "train/a", "train/b": "train/b", "extra": None, "more": None, "": None}, ""),
    "more images beside a pile": ({"train": "train", "test": "test", "extra": None}, ""),
    "images of no class": ({"train": "train", "train/a": "train/a", "train/b": "train/b"}, ""),
    "numbers": ({f"{i}": f"train/{i}" for i in range(2100)}, ""),
    "subjects": ({"s1": "train/s1", "s2": "train/s2", "s10": "train/s10"}, ""),
    "a class that has test in its name": ({"test_tube": "train/test_tube", "flask": "train/flask"}, ""),
}


@pytest.mark.parametrize("name", RIGHT)
def test_a_clear_layout_is_read_rightly(name):
    right, top = RIGHT[name]
    assert read(*right) == ({folder: place for folder, place in right.items() if place}, top)


UNCLEAR = {  # {folders: what the message says}
    ("cat",): "cat (10) may not be classes: there is only one",
    ("train/cat", "val/cat"): "cat (21) may not be classes: there is only one",
    ("", "cat"): "there is only one",
    ("2023", "2024"): "2023 (10), 2024 (11) may not be classes: they look like dates",
    ("2023/winter", "2023/summer/coast", "2024/spring"): "like dates .*(2023, 2024)",
    ("2023/winter",): "like dates",
    ("2023-01-15 beach", "2023-02-01 hills"): "like dates",
    ("20230115", "20230116"): "like dates",
    ("15.01.2023", "16.01.2023"): "like dates",
    ("January", "february"): "like dates",
    ("train/2023", "train/2024", "train/misc"): "like dates",
    ("100CANON", "101CANON"): "a camera's folders",
    ("HAM_images_part_1", "HAM_images_part_2"): "parts of one data set",
    ("batch1", "batch2", "batch3"): "parts of one data set",
    ("images_001/images", "images_002/images"): "some names describe what is stored",
    ("images", "masks"): "names describe what is stored.* (images).*--config.data.source=folder:PATH/images",
    ("JPEGImages", "SegmentationClass"): "names describe what is stored",
    ("a/b/c", "b"): "they contain further folders (a/b)",
    ("cat/train", "cat/test", "dog/train", "dog/test"): "there are splits inside classes, and they belong "
    "outside (cat/train",
    ("phase1/cat", "phase1/dog", "phase2/cat"): "they contain further folders",
    ("ObjectCategories/a", "ObjectCategories/b"): "--config.data.source=folder:PATH/ObjectCategories",
    ("DCIM/a", "DCIM/b"): "they contain further folders",
    ("train/test", "train/control"): "some are named like splits (test)",
    ("cat", "dog", "unlabeled"): "some are named like images without a class (unlabeled)",
    ("train/pos", "train/neg", "train/unsup"): "some are named like images without a class (unsup)",
    ("Cat", "cat"): "they differ only in upper and lower case (Cat, cat)",
}


@pytest.mark.parametrize("folders", UNCLEAR)
def test_folders_that_may_be_no_classes_are_asked_about(folders):
    with pytest.raises(ValueError) as error:
        read(*folders)
    text = str(error.value)
    assert re.search(UNCLEAR[folders].replace("(", r"\(").replace(")", r"\)"), text), text
    assert "\n" not in text and "images" in text
    for settled in re.findall(r"--config\.data\.labels=(folders|none)", text):  # as the message says
        place, _ = read(*folders, labels=settled)
        assert len(place) == len(folders)
        assert any("/" in pair for pair in place.values()) == (settled == "folders")


SPLITS_OR_CLASSES = {
    ("test", "control"): ("test (10) next to control (11)", {"test", "control"}),
    ("train", "car", "bus"): ("train (10) next to car (11), bus (12)", {"train", "car", "bus"}),
    ("train", "test", "cat"): ("train (10), test (11) next to cat (12)", {"train", "test", "cat"}),
    ("cat", "dog", "test"): ("test (12) next to cat (10), dog (11)", {"cat", "dog", "test"}),
    ("", "test"): ("test (11) and 10 images in no folder", {"test"}),
    ("val/a", "test/a", "test/b"): ("val (10), test (23)", {"val", "test"}),
    ("test",): ("test (10)", {"test"}),
}


@pytest.mark.parametrize("folders", SPLITS_OR_CLASSES)
def test_folders_that_may_be_splits_or_classes_are_asked_about(folders):
    what, classes = SPLITS_OR_CLASSES[folders]
    with pytest.raises(ValueError) as error:
        read(*folders)
    text = str(error.value)
    assert f"PATH has {what}: are these splits or classes?" in text and "\n" not in text
    place, _ = read(*folders, labels="folders")
    assert {pair.partition("/")[2] for pair in place.values()} - {""} == classes
    place, _ = read(*folders, labels="none")
    alone = {"train", "test"} <= set(folders)
    assert ("trains on all of them" in text) == (set(place.values()) == {"train"}) == (not alone)
    assert ("which reads only train, test" in text) == (set(place.values()) == {"train", "test"}) == alone
    if named := re.search(r"--config\.data\.train_split=([^;]+)", text):
        place, _ = read(*folders, labels="none", named=(named[1], "", ""))
        assert named[1] in place.values()


def test_what_a_message_says_to_type_is_quoted_for_a_shell():
    with pytest.raises(ValueError) as error:
        read("My Things/a", "My Things/b")
    said = re.search(r"'--config.data.source=.*'", str(error.value))[0]
    assert shlex.split(said) == ["--config.data.source=folder:PATH/My Things"]
    with pytest.raises(ValueError, match="'--config.data.train_split=Train Set'"):
        read("Train Set", "training")


def test_labels_none_and_a_table_read_splits_and_no_classes():
    for labels in ("none", "csv:x"):
        assert read("train/cat", "train/dog", "test/cat", labels=labels)[0] == {
            "train/cat": "train",
            "train/dog": "train",
            "test/cat": "test",
        }


def test_one_split_in_two_folders_is_refused_until_one_is_named():
    with pytest.raises(ValueError, match="more than one folder of training images: trainA, trainB.*train_split=trainA"):
        read("trainA", "trainB", "testA", "testB")
    with pytest.raises(ValueError, match="of test images: testA, testB.*--config.data.test_split=testA"):
        read("trainA", "trainB", "testA", "testB", named=("trainA", "", ""))
    place, _ = read("trainA", "trainB", "testA", "testB", named=("trainA", "", "testA"))
    assert place == {"trainA": "trainA", "testA": "testA"}
    with pytest.raises(ValueError, match="of validation images: validation, val.*validation_split=val"):
        read("train", "validation", "val")
    assert read("train", "validation", "val", named=("train", "val", ""))[0] == {"train": "train", "val": "val"}


def test_a_folder_that_is_named_is_a_split_whatever_it_is_called():
    assert read("phase1/a", "phase1/b", "phase2/a", named=("phase1", "", "phase2"))[0] == {
        "phase1/a": "phase1/a",
        "phase1/b": "phase1/b",
        "phase2/a": "phase2/a",
    }
    place, _ = read(*classes_in("train", "extra"), "val/cat", named=("extra", "", ""))
    assert place == {"extra/cat": "extra/cat", "extra/dog": "extra/dog", "val/cat": "validation/cat"}
    assert read("x/seg_train", "x/other", named=("seg_train", "", "")) == ({"x/seg_train": "seg_train"}, "x")


@pytest.mark.parametrize(
    "name", ["cat", "contest", "latest", "valley", "trainee", "steam_train", "train_test", "device", "2017", ""]
)
def test_other_names_spell_no_split(name):
    assert layout.split_of(name) is None


def test_odd_names_stay_in_their_line():
    with pytest.raises(ValueError) as error:
        read("2023\n\x1b[2J", "2024")
    assert str(error.value).isprintable()
