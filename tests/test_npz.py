"""Arrays give the images and labels that were stored, and what cannot be used is refused."""

import io

import numpy as np
import pytest
from samples import assert_one_line, noise

from simclr_jax.data.npz import Npz
from simclr_jax.data.sources import open_source


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
