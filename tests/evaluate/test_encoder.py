"""What `Encoder.preprocess` makes of photos is what the probes and the command features see."""

import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import simclr_jax
from simclr_jax.commands import features
from simclr_jax.configs import features as config_of_features
from simclr_jax.data import feed, sources
from simclr_jax.data.split import Split
from simclr_jax.evaluate import feature_files
from simclr_jax.runtime import run_folder
from support.oracles import picture
from support.runs import write_run

SIZE = 24
SIDES = [(50, 40), (33, 90), (24, 24), (20, 31), (64, 64), (32, 32), (70, 45), (41, 41)]


@pytest.fixture(name="photos", scope="module")
def make_photos(tmp_path_factory):
    """Paths of files that differ in kind and size; some are turned, transparent or of 16 bits."""
    folder = tmp_path_factory.mktemp("photos")
    exif = Image.Exif()
    exif[274] = 6
    for number, sides in enumerate(SIDES):
        image = Image.fromarray(picture(*sides, seed=number))
        suffix = (".jpg", ".png", ".webp", ".png")[number % 4]
        options = {"exif": exif} if number % 2 else {}
        image.save(folder / f"{number}{suffix}", **options)
    clear = np.dstack([picture(40, 30, 9), picture(40, 30, 10)[..., 0]])
    Image.fromarray(clear).save(folder / "8.png")
    Image.fromarray(picture(30, 40, 11)[..., 0].astype(np.uint16) * 16).save(folder / "9.png")
    return sorted(folder.iterdir())


@pytest.fixture(name="run", scope="module")
def make_run(tmp_path_factory):
    run = write_run(tmp_path_factory.mktemp("runs") / "run", **{"augment.image_size": SIZE})
    run_folder.write_bits(str(run), 12)
    return str(run)


@pytest.fixture(name="encoder", scope="module")
def make_encoder(run):
    return simclr_jax.load_encoder(run)


def test_files_have_the_features_that_the_command_writes(photos, run, encoder, tmp_path):
    """To the rounding of batches of other sizes; each is its own nearest neighbour."""
    config = config_of_features.get_config()
    config.data.source = f"folder:{photos[0].parent}"
    features.run(config, run, str(tmp_path / "out"))
    splits = sources.Splits(sources.open_source(config.data.source))
    paths = {role: [os.fsdecode(path) for path in splits.load(role).images] for role in splits.roles}
    assert sum(map(len, paths.values())) == len(photos) and encoder.bits == 12
    written = {role: feature_files.read(tmp_path / "out" / role).array() for role in paths}
    for role, of_role in paths.items():
        np.testing.assert_allclose(encoder(encoder.preprocess(of_role)), written[role], rtol=1e-4, atol=1e-6)
    mine = encoder(encoder.preprocess(paths["train"][::-1]))[::-1]
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (mine, written["train"])]
    cosines = unit[0] @ unit[1].T
    assert (cosines.argmax(1) == np.arange(len(mine))).all() and (np.diag(cosines) > 0.9999).all()


def test_images_of_pillow_and_arrays_become_what_files_do(photos, encoder):
    from_files = encoder.preprocess([str(path) for path in photos])
    from_pillow = encoder.preprocess([Image.open(path) for path in photos])
    is_jpeg = np.array([path.suffix == ".jpg" for path in photos])
    np.testing.assert_allclose(from_pillow[~is_jpeg], from_files[~is_jpeg], atol=1e-4)
    assert np.abs(from_pillow[is_jpeg] - from_files[is_jpeg]).mean() < 0.01  # of two decoders
    arrays = [picture(*sides, seed=number) for number, sides in enumerate(SIDES)]
    wanted = encoder.preprocess([Image.fromarray(array) for array in arrays])
    np.testing.assert_array_equal(encoder.preprocess(arrays), wanted)
    for mixed in (encoder.preprocess([arrays[1], photos[1], Image.open(photos[3])]),):
        np.testing.assert_array_equal(mixed[1], from_files[1])
        np.testing.assert_array_equal(mixed[0], wanted[1])
        np.testing.assert_array_equal(mixed[2], from_pillow[3])


def test_a_batch_of_one_size_is_seen_as_an_archive_is(encoder):
    batch = np.stack([picture(50, 41, seed) for seed in range(5)])
    (seen,) = feed.central_views(Split.whole(batch, None), SIZE, batch_size=5, unreadable=None)
    np.testing.assert_array_equal(encoder.preprocess(batch), seen["images"])
    np.testing.assert_allclose(encoder.preprocess(list(batch)), seen["images"], atol=1e-4)


def test_one_image_is_a_batch_of_one(photos, encoder):
    array = picture(50, 41)
    for one in (photos[0], str(photos[0]), Image.open(photos[0]), array):
        assert encoder.preprocess(one).shape == (1, SIZE, SIZE, 3)
    assert (
        encoder.preprocess([]).shape == encoder.preprocess(np.zeros((0, 9, 9, 3), np.uint8)).shape == (0, SIZE, SIZE, 3)
    )
    pixels = encoder.preprocess(array)
    assert pixels.dtype == np.float32 and pixels.min() >= 0 and pixels.max() <= 1


def test_the_small_image_of_the_runs_size_is_left_as_it_is(encoder):
    array = picture(SIZE, SIZE)
    np.testing.assert_allclose(encoder.preprocess(array)[0], array / 255, atol=1e-6)


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((4, 4, 3)),
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        [np.zeros((2, 4, 4, 3), np.uint8)],
        [3],
        3,
        None,
    ],
)
def test_what_is_no_image_is_told_in_a_line(wrong, encoder):
    with pytest.raises(ValueError, match=r"an array is .*; give paths, Pillow images, or arrays") as error:
        encoder.preprocess(wrong)
    assert "\n" not in str(error.value)


def test_a_file_that_cannot_be_read_is_named(photos, encoder, tmp_path):
    (tmp_path / "x.jpg").write_text("<html>")
    with pytest.raises(
        ValueError, match=r"cannot be read: .*x.jpg: not an image, starts with b'<html>', 6 bytes, and 1 more$"
    ):
        encoder.preprocess([photos[0], tmp_path / "x.jpg", tmp_path / "x.jpg"])
    with pytest.raises(ValueError, match="^no such file: nowhere.png, and 1 more$"):
        encoder.preprocess([photos[0], "nowhere.png", tmp_path])
    with pytest.raises(ValueError, match=f"^{tmp_path} is a folder; give the paths of the files in it$"):
        encoder.preprocess(tmp_path)


ALONE = """
import sys
sys.modules["tensorflow"] = sys.modules["tensorflow_datasets"] = None
import numpy as np, simclr_jax
from PIL import Image
encoder = simclr_jax.load_encoder(sys.argv[1])
images = encoder.preprocess([Image.open(sys.argv[2]), np.zeros((9, 30, 3), np.uint8)])
np.save(sys.argv[3], encoder(images))
"""


def test_images_in_memory_need_no_tensorflow(photos, run, encoder, tmp_path):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    arguments = [run, str(photos[1]), str(tmp_path / "h.npy")]
    subprocess.run([sys.executable, "-c", ALONE, *arguments], check=True, env=environment, timeout=300)
    images = encoder.preprocess([Image.open(photos[1]), np.zeros((9, 30, 3), np.uint8)])
    np.testing.assert_allclose(np.load(tmp_path / "h.npy"), encoder(images), atol=1e-5)
