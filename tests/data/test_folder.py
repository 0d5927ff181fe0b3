"""Folders give the files that are there with the classes they lie in, and what cannot be used is refused."""

import os
import pathlib

import pytest

from simclr_jax.data import walk
from simclr_jax.data.sources import open_source
from support.samples import assert_one_line, noise, png


def plant(root, *paths):
    """Writes a small image to each path."""
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(png(noise(1)[0]))


def listing(source, root, name):
    """{path below root: class name, or None where there is no label}."""
    split = source.load(name)
    labels = [-1] * len(split) if split.labels is None else split.labels
    paths = [str(pathlib.Path(os.fsdecode(path)).relative_to(root)) for path in split.images]
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


def test_other_spellings_of_splits_are_read_and_said(tmp_path):
    plant(
        tmp_path, "set/Train/a/1.png", "set/Train/b/1.png", "set/VAL/a/2.png", "set/testing/b/3.png", "set/more/4.png"
    )
    source = open_source(f"folder:{tmp_path}")
    assert set(source.split_names) == {"train", "validation", "test"}
    assert listing(source, tmp_path, "validation") == {"set/VAL/a/2.png": "a"}
    assert source.describe().understood == (
        "2 train images (Train/), 1 validation images (VAL/), 1 test images (testing/); 2 classes: a, b; "
        f"read from {tmp_path}/set"
    )
    assert source.describe().left_out == "outside the splits: set/more (1) images"


def test_the_users_names_of_splits_are_those_on_disk(tmp_path):
    plant(tmp_path, "seg_train/a/1.png", "seg_train/b/1.png", "seg_test/a/2.png", "more/a/3.png", "more/b/3.png")
    source = open_source(f"folder:{tmp_path}", splits=("more", "", "seg_train"))
    assert set(source.split_names) == {"more", "seg_train"}
    assert listing(source, tmp_path, "more") == {"more/a/3.png": "a", "more/b/3.png": "b"}


def test_nested_files_belong_to_the_outermost_class_if_one_says_so(tmp_path):
    plant(tmp_path, "train/a/b/c/1.png", "train/b/1.png")
    with pytest.raises(ValueError, match="--config.data.labels=folders"):
        open_source(f"folder:{tmp_path}")
    source = open_source(f"folder:{tmp_path}", labels="folders")
    assert listing(source, tmp_path, "train") == {"train/a/b/c/1.png": "a", "train/b/1.png": "b"}
    source = open_source(f"folder:{tmp_path}", labels="none")
    assert listing(source, tmp_path, "train") == {"train/a/b/c/1.png": None, "train/b/1.png": None}


def test_linked_class_folders_are_entered(tmp_path):
    plant(tmp_path, "store/x/1.png", "subset/train/y/2.png")
    (tmp_path / "subset/train/x").symlink_to(tmp_path / "store/x")
    source = open_source(f"folder:{tmp_path}/subset")
    assert listing(source, tmp_path / "subset", "train") == {"train/x/1.png": "x", "train/y/2.png": "y"}


def test_paths_come_in_the_order_of_their_names(tmp_path):
    names = ["c/1.png", "a/9.png", "a/10.png", "b/b/1.png", "b/a.png"]
    plant(tmp_path, *names)
    found = open_source(f"folder:{tmp_path}", labels="folders").load("train").images.tolist()
    assert found == [bytes(tmp_path / name) for name in sorted(names)]


def test_what_is_left_out_is_counted_and_said(tmp_path):
    plant(
        tmp_path, "train/a/1.png", "train/b/1.png", "test/a/1.png", "unlabeled/1.png", "unlabeled/x/2.png", "banner.png"
    )
    plant(tmp_path, "train/a/1.heic", "train/b/2.HEIC", "notes.txt", "train/._1.png")
    (tmp_path / "train/c").mkdir()
    (tmp_path / "val").mkdir()
    source = open_source(f"folder:{tmp_path}")
    assert set(source.split_names) == {"train", "test"}
    assert list(listing(source, tmp_path, "train")) == ["train/a/1.png", "train/b/1.png"]
    assert source.beside == {"unlabeled": 2, "PATH itself": 1}
    assert source.passed_over == {".heic": 2, ".txt": 1, walk.HIDDEN: 1}
    text = source.describe().left_out
    assert "2 × .heic" in text and "(convert .heic to JPEG or PNG to use them)" in text
    assert "PATH itself (1), unlabeled (2) images" in text and "folders without images: train/c, val" in text


@pytest.mark.parametrize(
    "paths, mentions",
    [
        ([], "holds no images"),
        (["a/notes.txt", ".hidden.png"], "holds no images"),
        (
            ["train/a/1.png", "val/a/1.png", "val/zebra/1.png"],
            "validation has classes that the training split does not.*: zebra",
        ),
        (["train/a/1.png", "val/a/1.png", "valid/a/2.png"], "val, valid"),
        (
            ["train/1.png", "car/1.png", "bus/1.png"],
            r"train \(1\) next to bus \(1\), car \(1\)",
        ),  # a train can be a class
        (
            ["train/Cat/1.png", "train/b/1.png", "val/cat/2.png"],
            "does not have: cat; train has Cat: use the same spelling",
        ),
        (["a/1.heic", "a/2.heic"], r"holds no images .*2 × .heic \(convert .heic to JPEG"),
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


# Labels from a table


def test_a_table_gives_the_labels(tmp_path):
    plant(tmp_path, "images/1.png", "images/2.png", "images/3.png")
    (tmp_path / "labels.csv").write_text("file,label,age\n1.png,cat,3\nimages/2.png,dog,4\n")
    bare = open_source(f"folder:{tmp_path}")
    assert bare.class_names == () and "--config.data.labels=csv:labels.csv" in bare.describe().understood
    source = open_source(f"folder:{tmp_path}", labels="csv:labels.csv")
    assert listing(source, tmp_path, "train") == {"images/1.png": "cat", "images/2.png": "dog", "images/3.png": None}
    text = source.describe().understood
    assert bare.passed_over == {".csv": 1} and source.passed_over == {}
    assert "2 classes: cat, dog; 1 images without a label" in text and "columns file, label, not age" in text


def test_a_table_named_like_a_split_means_its_images(tmp_path):
    plant(tmp_path, "train/0.png", "train/1.png", "test/0.png")
    (tmp_path / "train.csv").write_text("id,breed\n0,pug\n1,collie\n")
    source = open_source(f"folder:{tmp_path}", labels="csv:train.csv")
    assert listing(source, tmp_path, "train") == {"train/0.png": "pug", "train/1.png": "collie"}
    assert listing(source, tmp_path, "test") == {"test/0.png": None}
    (tmp_path / "train.csv").rename(tmp_path / "all.csv")
    with pytest.raises(ValueError, match="names 0, which may be test/0.png, train/0.png: give paths"):
        open_source(f"folder:{tmp_path}", labels=f"csv:{tmp_path}/all.csv")


def test_a_table_that_is_not_there_is_refused(tmp_path):
    plant(tmp_path, "1.png")
    with pytest.raises(ValueError, match="csv:no.csv: this file exists neither"):
        open_source(f"folder:{tmp_path}", labels="csv:no.csv")


def test_another_reading_of_the_same_files_is_another_fingerprint(tmp_path):
    plant(tmp_path, "a/1.png", "b/2.png")
    for name, content in {"x.csv": "file,label\n1,c\n", "y.csv": "file,label\n1,d\n"}.items():
        (tmp_path / name).write_text(content)
    readings = ["", "folders", "none", "csv:x.csv", "csv:y.csv"]
    prints = [open_source(f"folder:{tmp_path}", labels=labels).fingerprint() for labels in readings]
    assert prints[0] == prints[1] and len(set(prints)) == 4
