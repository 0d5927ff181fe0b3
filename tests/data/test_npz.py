"""Arrays give the images and labels that were stored, and what cannot be used is refused."""

import io
import os
import types
import warnings
import zipfile

import numpy as np
import pytest

from simclr_jax.data.npz import Npz
from simclr_jax.data.sources import open_source
from support.samples import assert_one_line, noise


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


@pytest.mark.parametrize("name", ["val", "valid", "dev", "VAL", "validation_set", "validation"])
def test_npz_has_splits_of_other_spellings(tmp_path, name):
    arrays = {"x_training": noise(4), "y_training": np.arange(4), f"x_{name}": noise(2), "y_val": np.array([3, 2])}
    source = archive(tmp_path, **arrays)
    assert source.split_names == ("train", "validation")
    np.testing.assert_array_equal(source.load("validation").images, noise(2))
    np.testing.assert_array_equal(source.load("validation").labels, [3, 2])
    assert "4 train images (x_training), 2 validation images" in source.describe().understood


def test_npz_keeps_the_names_that_the_user_gives(tmp_path):
    arrays = {"x_train": noise(3), "x_val": noise(2), "y_val": np.zeros(2, int), "x_extra": noise(5)}
    np.savez(tmp_path / "set.npz", **arrays)
    source = open_source(f"npz:{tmp_path}/set.npz", splits=("extra", "val", ""))
    assert source.split_names == ("train", "val", "extra")
    assert len(source.load("extra")) == 5 and source.load("val").labelled


def test_npz_says_what_it_is_and_what_is_left_out(tmp_path):
    arrays = {"x_train": noise(3), "y_train": np.array([0, -1, 1]), "mean": np.zeros(3), "ids_train": np.arange(3)}
    found = archive(tmp_path, **arrays).describe()
    assert found.understood == "3 train images; 2 classes: 0, 1; 1 images without a label"
    assert found.left_out == "arrays that are not used: mean, ids_train"
    assert archive(tmp_path, x_train=noise(3)).describe() == ("3 train images; no labels", "")


@pytest.mark.parametrize(
    "arrays, mentions",
    [
        ({"x_train": noise(3), "y_test": np.arange(3)}, "holds y_test but no images x_test; add them"),
        (
            {"x_train": noise(1), "x_val": noise(1), "x_validation": noise(2)},
            "x_val and x_validation, which both mean validation; keep one, or choose one: .*data.validation_split=val$",
        ),
        ({"x_train": noise(1), "X_train": noise(1)}, "x_train and X_train, which both mean train"),
        ({"x_train": noise(3) / 255}, r"x_train.*float64 \[3, 5, 5, 3\].*uint8"),
        ({"x_train": np.zeros((3, 5, 5, 4), np.uint8)}, r"\[3, 5, 5, 4\]"),
        ({"x_train": np.zeros((3, 75), np.uint8)}, r"\[3, 75\]"),
        ({"x_train": noise(3), "y_train": np.arange(4)}, "3 images x_train but 4 labels y_train"),
        ({"x_train": noise(3), "y_train": np.eye(3)}, r"y_train.*float64 \[3, 3\]"),
        ({"x_train": noise(3), "y_train": np.eye(3, dtype=int)}, r"y_train.*\[3, 3\]"),
        ({"x_train": noise(3), "y_train": np.array([0.0, 1.5, 2.0])}, r"y_train.*float64 \[3\]"),
        ({"images": noise(3), "labels": np.arange(3)}, "images, labels.*x_train"),
        ({}, "nothing.*x_train"),
        (
            {"x_train": np.array([noise(1)[0], None], object)},
            "x_train.*set.npz cannot be read.*which are never loaded",
        ),
        ({"x_train": noise(1), "y_train": np.array(["a", 1], object)}, "y_train.*set.npz cannot be read.*a pickle"),
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


def header(shape, kind="|u1", fortran=False):
    text = f"{{'descr': {kind!r}, 'fortran_order': {fortran}, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


def zipped(path, members):
    with zipfile.ZipFile(path / "set.npz", "w", zipfile.ZIP_DEFLATED) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zipfile's, of names that come twice
        for name, content in members:
            file.writestr(name, content)
    return f"npz:{path}/set.npz"


PIXELS = bytes(range(75)) * 4
EMPTY = header((0,), "<i8")


@pytest.mark.parametrize(
    ("members", "mentions"),
    [
        ([("x_train.npy", header((10**15, 4, 4, 3)) + PIXELS)], "declares uint8 .*000,000 bytes, but 300 follow"),
        ([("x_train.npy", header((4, 5, 5, 3)) + PIXELS[:-1])], "300 bytes, but 299 follow"),
        ([("x_train.npy", header((4, 5, 5, 3)) + PIXELS + b"more")], "300 bytes, but 304 follow"),
        ([("x_train.npy", header((-4, -5, 5, 3)) + PIXELS)], r"\[-4, -5, 5, 3\]"),
        ([("x_train.npy", header((2**70, 0, 4, 3)))], "cannot be read: Python int too large"),
        ([("x_train.npy", header((0, 5, 5, 3)))], r"\[0, 5, 5, 3\]; images must be"),
        ([("x_train.npy", header((4, 0, 5, 3)))], r"\[4, 0, 5, 3\]; images must be"),
        ([("x_train.npy", header((1,), "|O") + b"\x80\x04K\x01.")], "a pickle.*, which are never loaded"),
        ([("x_train.npy", header((4,), [("a", "|O")]) + PIXELS)], "a pickle"),
        ([("x_train.npy", header("__import__('os').system('false')") + PIXELS)], "cannot be read"),
        ([("x_train.npy", b"\x93NUMPY\x03\x00" + b"\0" * 40)], "version"),
        ([("x_train.npy", b"\x93NUMPY\x01\x00\xff")], "cannot be read"),
        ([("x_train.npy", b"(" * 9999)], "cannot be read"),
        ([("x_train", header((4, 5, 5, 3)) + PIXELS)], "cannot be read"),
        ([("../x_train.npy", header((4, 5, 5, 3)) + PIXELS)], r"holds '../x_train'; images must be named"),
        ([("x_train.npy", header((4, 5, 5, 3)) + PIXELS)] * 2, "holds x_train more than once"),
        ([(f"name{i}.npy", b"") for i in range(1000)], "name9 and others; images"),
        ([("x\n\x1b[2J.npy", b"")], r"holds 'x\\n\\x1b\[2J'"),
        ([("x_train.npy", header((1, 1, 1, 3)) + b"abc"), ("y_train.npy", EMPTY)], "1 images x_train but 0 labels"),
        (
            [("x_train.npy", header((1, 1, 1, 3)) + b"abc"), ("y_train.npy", header((), "<i8") + bytes(8))],
            r"int64 \[\]",
        ),
    ],
)
def test_an_archive_of_ill_will_is_refused(tmp_path, members, mentions):
    with pytest.raises(ValueError, match=mentions) as error:
        open_source(zipped(tmp_path, members)).load("train")
    assert_one_line(error)
    assert str(error.value).isprintable() and len(str(error.value)) < 1000


@pytest.mark.parametrize("label", [2**62, 2**20, -2, np.uint64(2**63)])
def test_labels_that_number_no_classes_are_refused(tmp_path, label):
    with pytest.raises(ValueError, match="y_train of .* has labels from .*number the classes 0, 1, 2"):
        archive(tmp_path, x_train=noise(1), y_train=np.array([label]))


def test_what_no_memory_holds_is_refused_before_it_is_read(tmp_path, monkeypatch):
    name = zipped(tmp_path, [("x_train.npy", header((2**20, 5, 5, 3)) + bytes(75 * 2**20))])  # 75 MiB, zipped to 75 KiB
    monkeypatch.setattr("psutil.virtual_memory", lambda: types.SimpleNamespace(total=2**24))
    with pytest.raises(ValueError, match=r"uint8 \[1048576, 5, 5, 3\] takes 0.1 GiB, more than this machine has"):
        open_source(name).load("train")


def test_the_order_of_fortran_is_read_rightly(tmp_path):
    images = noise(4)
    train = archive(tmp_path, x_train=np.asfortranarray(images), y_train=np.array([-1, 0, 1, 2])).load("train")
    np.testing.assert_array_equal(train.images, images)
    np.testing.assert_array_equal(train.labels, [-1, 0, 1, 2])


def test_what_never_ends_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.npz")
    for path in (tmp_path / "pipe.npz", "/dev/zero"):
        with pytest.raises(ValueError, match="does not exist|is not a file but a pipe or device"):
            Npz(str(path))
