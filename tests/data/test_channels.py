"""Sources of images of any number of channels: what they give, and what is refused with both numbers and the mend."""

import dataclasses
import sys

import numpy as np
import pytest
import tifffile
from PIL import Image

from simclr_jax.data import feed
from simclr_jax.data.sources import Splits, open_source
from simclr_jax.data.unreadable import Unreadable
from support.samples import assert_one_line, noise

RNG = np.random.default_rng(0)


def npz(path, images, channels):
    np.savez(path / "set.npz", x_train=images)
    return open_source(f"npz:{path}/set.npz", channels=channels).load("train")


def values(dtype, channels, n=6):
    exact = RNG.uniform(0, 0.9, (n, 5, 7, channels))
    return exact.astype(np.float32) if dtype == "float32" else (exact * np.iinfo(dtype).max).astype(dtype)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", ">u2", "float32"])
@pytest.mark.parametrize("channels", [1, 3, 5, 32])
def test_arrays_keep_their_values(tmp_path, dtype, channels):
    images = values(dtype, channels) if dtype != ">u2" else values("uint16", channels).astype(">u2")
    split = npz(tmp_path, images, channels)
    assert split.images.dtype.isnative and split.kind == "pixels" and split.channels == channels
    np.testing.assert_array_equal(split.images, images)


def test_one_channel_and_three_become_one_another(tmp_path):
    colours, grey = values("uint8", 3), values("uint16", 1)
    np.testing.assert_array_equal(npz(tmp_path, grey[..., 0], 1).images, grey)
    np.testing.assert_array_equal(npz(tmp_path, grey, 3).images, np.repeat(grey, 3, -1))
    luma = colours @ np.array([0.2989, 0.587, 0.114]) / 255
    np.testing.assert_allclose(npz(tmp_path, colours, 1).images[..., 0], luma, atol=1e-6)
    deep = npz(tmp_path, values("uint16", 3), 1).images
    assert deep.dtype == np.uint16 and deep.shape == (6, 5, 7, 1)  # which value is white is found later
    assert open_source("textures", channels=1).load("test").images.shape[-1] == 1


NAN = np.full((2, 5, 7, 4), 0.5, np.float32)
NAN[1, 2, 3, 0] = np.nan
BAD = {
    "other channels": (values("uint8", 5), 4, r"x_train of .* is uint8 \[6, 5, 7, 5\], 5 channels, and "
                       "data.channels=4: give --config.data.channels=5"),
    "too many": (values("uint8", 33), 32, "33 channels, and data.channels=32: at most 32 channels are supported"),
    "int32": (np.zeros((2, 5, 7, 4), np.int32), 4, r"is int32 \[2, 5, 7, 4\]; images must be uint8 .* or uint16 or"),
    "bool": (np.zeros((2, 5, 7, 4), bool), 4, "is bool .*; images must be uint8"),
    "NaN": (NAN, 4, "x_train of .* has values that are not finite"),
    "above 1": (np.float32(NAN[:1] * 3), 4, r"has values from 1.5 to 1.5; floats must lie in \[0, 1\]: subtract"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_arrays_that_do_not_fit_are_refused(tmp_path, name):
    images, channels, mentions = BAD[name]
    with pytest.raises(ValueError, match=mentions) as error:
        npz(tmp_path, images, channels)
    assert_one_line(error)


def test_the_bit_depth_of_uint16_arrays_is_found(tmp_path):
    np.savez(tmp_path / "set.npz", x_train=np.full((20, 5, 7, 2), 3000, np.uint16))
    source = open_source(f"npz:{tmp_path}/set.npz", channels=2)
    splits = Splits(source)
    assert splits.white.bits == 12 and splits.load("train").bits == splits.load("validation").bits == 12
    assert splits.bits_of_white == 12 and Splits(source, bits=14).load("train").bits == 14


@pytest.fixture(name="folder")
def make_folder(tmp_path):
    """Ten TIFFs of 12 bits and five channels, one of them in pages."""
    images = RNG.integers(0, 4096, (10, 9, 9, 5)).astype(np.uint16)
    for number, image in enumerate(images):
        options = {"photometric": "minisblack", "planarconfig": "contig"}
        tifffile.imwrite(
            tmp_path / f"{number}.tif", image if number else image.transpose(2, 0, 1), **options if number else {}
        )
    return tmp_path, images


def central(split, size=9):
    batches = feed.central_views(split, size, batch_size=4, unreadable=Unreadable(len(split), 0.0))
    return np.concatenate([batch["images"].copy() for batch in batches])


def test_a_folder_of_tiff_gives_the_same_as_an_array(folder, tmp_path):
    path, images = folder
    splits = Splits(open_source(f"folder:{path}", channels=5), holdout_fraction=0.0)
    train = splits.load("train")
    assert train.channels == 5 and splits.white.bits == 12
    of_array = npz(tmp_path, images, 5)
    np.testing.assert_allclose(central(train), central(dataclasses.replace(of_array, bits=12)), atol=1e-6)
    np.testing.assert_allclose(central(train), images / np.float32(4095), atol=1e-6)


def test_a_file_of_other_channels_is_named(folder):
    path, _ = folder
    with pytest.raises(
        ValueError, match=r"0.tif: 5 channels of 9 × 9 pixels, and data.channels=4; give .*channels=5"
    ) as error:
        open_source(f"folder:{path}", channels=4).load("train")
    assert_one_line(error)
    with pytest.raises(ValueError, match=r"1.tif: a TIFF of 5 channels of uint16; give --config.data.channels=5"):
        open_source(f"folder:{path}").load("train")
    tifffile.imwrite(path / "9.tif", noise(1)[0], photometric="rgb")
    with pytest.raises(ValueError, match=r"9.tif: 3 channels of 5 × 5 pixels, and data.channels=5"):
        open_source(f"folder:{path}", channels=5).load("train")


def test_an_odd_file_that_was_not_looked_at_is_named_when_it_is_read(folder):
    path, _ = folder
    for number in range(10, 60):
        (path / f"{number}.tif").write_bytes((path / "1.tif").read_bytes())
    split = open_source(f"folder:{path}", channels=5).load("train")
    tifffile.imwrite(split.images[3].decode(), noise(1)[0], photometric="rgb")
    unreadable = Unreadable(len(split), 1.0)
    batches = feed.central_views(split, 9, batch_size=8, unreadable=unreadable)
    assert sum(len(batch["ids"]) for batch in batches) == 59
    assert ".tif: 3 channels of 5 × 5 pixels, and data.channels=5" in unreadable.names[0]


def test_photos_have_no_four_channels(tmp_path):
    Image.fromarray(noise(1)[0]).save(tmp_path / "a.jpg")
    with pytest.raises(ValueError, match="a.jpg: a JPEG of 3 channels, and data.channels=4: only a TIFF has 4"):
        open_source(f"folder:{tmp_path}", channels=4).load("train")
    with pytest.raises(ValueError, match="data.channels=4: images of tfds:cifar10 have 1 or 3"):
        open_source("tfds:cifar10", channels=4)


def test_without_tifffile_the_extra_is_named(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "tifffile", None)
    with pytest.raises(ValueError, match=r"pip install 'simclr_jax\[tiff\]'") as error:
        open_source(f"folder:{folder[0]}", channels=5).load("train")
    assert_one_line(error)


def test_files_kept_at_one_channel_are_read_once_as_such(tmp_path):
    for number in range(4):
        Image.fromarray(np.full((9, 9), 10000 * number, np.uint16)).save(tmp_path / f"{number}.png")
    split = Splits(open_source(f"folder:{tmp_path}", channels=1), holdout_fraction=0.0).load("train")
    views = central(split)
    assert views.shape == (4, 9, 9, 1) and split.bits == 16
    np.testing.assert_allclose(views[:, 0, 0, 0], np.arange(4) * 10000 / 65535, atol=1e-6)
