"""Folders give the files that are there with the classes they lie in, and what cannot be used is refused."""

import os
import pathlib

import pytest

from simclr_jax.data import folder
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
    assert found == [bytes(tmp_path / name) for name in sorted(names)]


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


def test_what_would_never_end_to_be_read_is_passed_over_and_counted(tmp_path):
    plant(tmp_path, "a/1.png", "a/2.png")
    os.mkfifo(tmp_path / "a" / "pipe.jpg")
    (tmp_path / "a" / "zero.png").symlink_to("/dev/zero")
    (tmp_path / "a" / "notes.txt").write_text("")
    (tmp_path / "a" / "gone.png").symlink_to("/no/where.png")  # no image either, but it says so when it is read
    source = open_source(f"folder:{tmp_path}")
    assert set(listing(source, tmp_path, "train")) == {"a/1.png", "a/2.png", "a/gone.png"}
    assert source.passed_over == {folder.NO_FILE: 2, ".txt": 1}


def test_links_into_one_another_end(tmp_path):
    """Two folders that link to each other; entered for ever, they would have 2^40 paths."""
    plant(tmp_path, "a/1.png", "b/2.png")
    for link in ("c", "d"):
        (tmp_path / "a" / link).symlink_to(tmp_path / "b")
        (tmp_path / "b" / link).symlink_to(tmp_path / "a")
    found = listing(open_source(f"folder:{tmp_path}"), tmp_path, "train")
    assert set(found) == {"a/1.png", "a/c/2.png", "a/d/2.png", "b/2.png", "b/c/1.png", "b/d/1.png"}


def test_a_maze_of_links_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(folder, "MOST_LINKS", 100)
    plant(tmp_path, "9/1.png")
    for number in range(9):
        (tmp_path / str(number)).mkdir()
        for link in ("x", "y"):
            (tmp_path / str(number) / link).symlink_to(tmp_path / str(number + 1))
    with pytest.raises(ValueError, match="there are more than 100 links to folders") as error:
        open_source(f"folder:{tmp_path}")
    assert_one_line(error)


def test_a_bottomless_folder_is_refused(tmp_path):
    tmp_path.joinpath(*["d"] * (folder.MOST_DEPTH + 2)).mkdir(parents=True)
    with pytest.raises(ValueError, match="there are more than 64 folders in each other") as error:
        open_source(f"folder:{tmp_path}")
    assert_one_line(error)
