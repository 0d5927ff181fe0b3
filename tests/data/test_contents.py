"""What a run remembers of its data: the same wherever they lie, another when an image or a label is another."""

import os
import shutil

import numpy as np
import pytest

from simclr_jax.data import contents, sources
from support.samples import noise, png


@pytest.fixture(name="folder")
def make_folder(tmp_path):
    for split, name, n in (
        ("train", "cat", 6),
        ("train", "dog", 6),
        ("validation", "cat", 2),
        ("validation", "dog", 2),
    ):
        place = tmp_path / "here" / split / name
        place.mkdir(parents=True)
        for i in range(n):
            (place / f"{i}.png").write_bytes(png(noise(1, seed=n + i)[0]))
    return tmp_path / "here"


@pytest.fixture(name="arrays")
def make_arrays():
    return {
        "x_train": noise(30),
        "y_train": np.arange(30) % 3,
        "x_validation": noise(6, seed=1),
        "y_validation": np.arange(6) % 3,
    }


def of(name):
    return sources.Splits(sources.open_source(name)).contents()


def save(path, arrays):
    np.savez(path, **arrays)
    return of(f"npz:{path}")


def test_a_copy_elsewhere_with_other_times_is_the_same(folder, arrays, tmp_path):
    before = of(f"folder:{folder}")
    assert {name: found["images"] for name, found in before.items()} == {"train": 12, "validation": 4}
    shutil.copytree(folder, tmp_path / "there")
    os.utime(tmp_path / "there/train/cat/0.png", (1, 1))
    assert of(f"folder:{tmp_path}/there") == before
    assert save(tmp_path / "a.npz", arrays) == save(tmp_path / "b.npz", arrays)


def one_more(folder):
    (folder / "train/cat/new.png").write_bytes(png(noise(1)[0]))


def one_less(folder):
    (folder / "train/cat/0.png").unlink()


def renamed(folder):
    (folder / "train/cat/0.png").rename(folder / "train/cat/00.png")


def other_class(folder):
    (folder / "train/cat/0.png").rename(folder / "train/dog/x.png")
    (folder / "train/dog/0.png").rename(folder / "train/cat/0.png")


def larger(folder):
    (folder / "train/cat/0.png").write_bytes((folder / "train/cat/0.png").read_bytes() + b" ")


def other_pixels_of_the_same_size(folder):
    encoded = bytearray((folder / "train/cat/0.png").read_bytes())
    encoded[-20] ^= 255
    (folder / "train/cat/0.png").write_bytes(encoded)


def a_class_came(folder):
    (folder / "train/emu").mkdir()
    (folder / "train/emu/0.png").write_bytes(png(noise(1)[0]))


def validation_shrank(folder):
    (folder / "validation/cat/0.png").unlink()


def validation_went(folder):
    shutil.rmtree(folder / "validation")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (one_more, "train: 12 → 13 images"),
        (one_less, "train: 12 → 11 images"),
        (renamed, "train: as many images, but different files"),
        (other_class, "train: as many images, but different files"),
        (larger, "train: as many images, but different files"),
        (other_pixels_of_the_same_size, "train: as many images, but different files"),
        (a_class_came, "train: 12 → 13 images, 2 → 3 classes"),
        (validation_shrank, "validation: 4 → 3 images"),
        (validation_went, "validation was removed"),
    ],
)
def test_whatever_changed_in_a_folder_is_told(folder, change, words):
    before = of(f"folder:{folder}")
    change(folder)
    assert words in "; ".join(contents.changes(before, of(f"folder:{folder}")))


def test_a_file_that_is_not_looked_into_is_known_by_its_size(folder, monkeypatch):
    monkeypatch.setattr(contents, "SAMPLED", 1)
    before = of(f"folder:{folder}")
    last = folder / "train/dog/5.png"
    last.write_bytes(last.read_bytes() + b" ")
    assert contents.changes(before, of(f"folder:{folder}"))


@pytest.mark.parametrize("name", ["x_train", "y_train", "x_validation"])
def test_one_other_number_in_an_archive_is_told(arrays, tmp_path, name):
    before = save(tmp_path / "a.npz", arrays)
    changed = arrays[name].copy()
    changed.flat[0] ^= 1
    found = contents.changes(before, save(tmp_path / "a.npz", arrays | {name: changed}))
    assert found == [f"{name[2:]}: as many images, but different files, classes or pixels"]


def test_nothing_changed_is_no_change(folder):
    assert contents.changes(of(f"folder:{folder}"), of(f"folder:{folder}")) == []
