"""Where views are made changes neither which images a step sees nor, beyond rounding, what their views look like."""

import dataclasses
import io
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image

from simclr_jax.augment import own
from simclr_jax.augment.recipe import Recipe
from simclr_jax.data import feed
from simclr_jax.data.split import Split
from simclr_jax.runtime import devices

ROOT = pathlib.Path(__file__).parents[2]
SIZE, IMAGES, BATCH, STEPS = 24, 40, 16, 4  # two epochs of two steps
RECIPE = Recipe(SIZE)  # with a blur of 3 taps
COLOURLESS = Recipe(SIZE, jitter_probability=0.0)


def pictures(count=IMAGES, side=20, seed=0):
    """Smooth colour images of rising brightness: [count, side, side, 3]."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, 3, 3, 3), np.uint8)
    return np.stack([np.asarray(Image.fromarray(c).resize((side, side), Image.Resampling.BILINEAR)) for c in coarse])


def pixels():
    return Split.whole(pictures(), np.arange(IMAGES))


def files(folder, side=20, kind="PNG"):
    """Writes the pictures as files; a split of their paths."""
    paths = []
    for number, picture in enumerate(pictures(side=side)):
        paths.append(f"{folder}/{number:03}.{kind.lower()}")
        Image.fromarray(picture).save(paths[-1])
    return Split.whole(np.array([path.encode() for path in paths]), np.arange(IMAGES))


def feed_of(split, where="host", cache="host", *, shard=(0, 1), seed=0, recipe=RECIPE):
    return feed.Feed(
        split,
        split,
        recipe,
        placement=where,
        cache=cache,
        batch_size=BATCH,
        validation_batch_size=BATCH,
        seed=seed,
        shard=shard,
        max_corrupt_fraction=0.0,
    )


def seen(made, batches, resident):
    """What a step would see: [{"views", "labels"}] as NumPy arrays."""
    views_of = jax.jit(made.views_of)
    return [jax.tree.map(np.asarray, dict(views_of(batch, resident))) for batch in batches]


def trained(made, first=0, last=STEPS):
    return seen(made, made.training(first, last), made.resident)


def validated(made):
    return seen(made, made.validation(), None)


def assert_same(actual, expected, atol=0.0):
    assert len(actual) == len(expected)
    for one, other in zip(actual, expected, strict=True):
        np.testing.assert_array_equal(one["labels"], other["labels"])
        np.testing.assert_allclose(one["views"], other["views"], atol=atol, rtol=0)


@pytest.fixture(scope="module", name="resident")
def make_resident():
    return feed_of(pixels(), "device", "device")


@pytest.fixture(scope="module", name="unstopped")
def make_unstopped(resident):
    return trained(resident)


def test_a_cached_split_gives_the_views_of_one_that_travels(unstopped):
    assert_same(trained(feed_of(pixels(), "device", "host")), unstopped)


def test_nothing_but_numbers_of_images_travels_to_a_cached_split(resident):
    batch = next(resident.training(0, 1))
    assert {name: (values.shape, values.dtype.name) for name, values in batch.items()} == {
        "positions": ((BATCH,), "int32"),
        "epoch": ((BATCH,), "int32"),
    }


@pytest.mark.parametrize("where", ["host", "device"])
def test_a_run_that_resumes_sees_what_one_sees_that_did_not_stop(where):
    made = feed_of(pixels(), where)
    assert_same(trained(made, first=3), trained(made)[3:])


def test_views_of_an_image_change_with_the_epoch_and_its_label_stays(unstopped):
    first, second = ({}, {})
    for step, batch in enumerate(unstopped):
        (first, second)[step // 2].update(zip(batch["labels"].tolist(), batch["views"], strict=True))
    both = sorted(set(first) & set(second))
    assert len(both) > 10
    assert all(np.abs(first[label] - second[label]).max() > 0.02 for label in both)


@pytest.mark.parametrize("where", ["host", "device"])
def test_two_hosts_together_see_what_one_sees(where):
    whole = trained(feed_of(pixels(), where))
    halves = [trained(feed_of(pixels(), where, shard=(host, 2))) for host in range(2)]
    together = [jax.tree.map(lambda *parts: np.concatenate(parts), *batches) for batches in zip(*halves, strict=True)]
    assert_same(together, whole, atol=1e-6)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_devices_together_see_what_one_sees(count, resident, unstopped):
    some = jax.local_devices()[:count]

    def step(state, batch, held, axis_name):
        return resident.views_of(batch, held)

    mapped = devices.map_step(step, some)
    held = devices.replicate(resident.resident, some)
    for batch, expected in zip(resident.training(0, STEPS), unstopped, strict=True):
        views = mapped(None, devices.shard(batch, some), held)
        joined = jax.tree.map(lambda x: np.asarray(x).reshape(-1, *x.shape[2:]), views)
        assert_same([joined], [expected], atol=1e-6)


def test_host_and_device_see_the_same_images_in_the_same_order(unstopped):
    for one, other in zip(trained(feed_of(pixels())), unstopped, strict=True):
        np.testing.assert_array_equal(one["labels"], other["labels"])
        assert one["views"].shape == other["views"].shape and one["views"].dtype == other["views"].dtype


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_views_of_files_finished_on_the_device_are_those_of_the_host(tmp_path, kind):
    split = files(tmp_path, side=2 * SIZE, kind=kind)
    host, mixed = feed_of(split), feed_of(split, "device")
    assert next(mixed.training(0, 1))["crops"].shape == (BATCH, 2, 2 * SIZE, 2 * SIZE, 3)
    assert_same(trained(mixed, last=2), trained(host, last=2), atol=2e-4)
    assert_same(validated(mixed), validated(host), atol=2e-4)


def test_crops_that_are_larger_than_their_canvas_differ_by_the_rounding_to_uint8(tmp_path):
    """Without jitter, which can stretch a rounding error; a blur cannot."""
    split = files(tmp_path, side=4 * SIZE)
    host, mixed = (feed_of(split, where, recipe=COLOURLESS) for where in ("host", "device"))
    (batch,) = mixed.training(0, 1)
    resized = batch["parameters"]["height"] == SIZE
    assert 0 < resized.sum() < resized.size
    assert_same(trained(mixed, last=1), trained(host, last=1), atol=0.5 / 255 + 2e-4)


@pytest.mark.parametrize("cache", ["host", "device"])
def test_validation_sees_each_image_once_and_always_alike(cache):
    made = feed_of(pixels(), "device", cache)
    first, again = validated(made), validated(made)
    assert_same(again, first)
    assert np.concatenate([batch["labels"] for batch in first]).tolist() == list(range(32))


def test_images_without_labels_have_the_label_minus_one():
    (batch,) = trained(feed_of(Split.whole(pictures(), None), "device", "device"), last=1)
    assert (batch["labels"] == -1).all()


def test_pixels_and_files_are_evaluated_alike(tmp_path):
    options = {"image_size": 16, "batch_size": 15, "unreadable": None}
    from_files, from_pixels = (list(feed.central_views(split, **options)) for split in (files(tmp_path), pixels()))
    assert [len(batch["labels"]) for batch in from_pixels] == [15, 15, 10]
    for one, other in zip(from_files, from_pixels, strict=True):
        np.testing.assert_array_equal(one["labels"], other["labels"])
        np.testing.assert_allclose(one["images"], other["images"], atol=1e-5)


def test_the_cache_refuses_what_does_not_fit_with_the_numbers():
    split = Split.whole(np.zeros((1024, 32, 32, 3), np.uint8), None)  # 3 MiB
    feed.check(split, placement="device", cache="device", free_bytes=3 * 2**20)
    with pytest.raises(ValueError, match=r"take 3 MiB, and a device has 2 MiB .*data.cache=host, or data.limit"):
        feed.check(split, placement="device", cache="device", free_bytes=2 * 2**20)


def test_the_cache_refuses_files_and_views_of_the_host(tmp_path):
    with pytest.raises(ValueError, match="encoded files: use data.cache=host"):
        feed.check(files(tmp_path), placement="device", cache="device", free_bytes=2**40)
    with pytest.raises(ValueError, match=r"needs augment.placement=device"):
        feed.check(pixels(), placement="host", cache="device", free_bytes=2**40)


def test_a_device_has_memory_for_data():
    assert 2**20 < devices.free_bytes() < 2**50


def of_chance(key, view):
    """Nothing of the view is left: all that it shows is its key."""
    return jax.random.uniform(key, view.shape)


@pytest.fixture(name="own_recipe")
def register_own(monkeypatch):
    monkeypatch.setattr(own.OWN, "own", {})
    own.register_view_function("chance", of_chance)
    return Recipe(SIZE, own="chance")


def test_an_own_function_sees_the_same_key_wherever_views_are_made(own_recipe):
    made = [feed_of(pixels(), *place, recipe=own_recipe) for place in (("host",), ("device",), ("device", "device"))]
    unstopped = trained(made[0])
    every = np.concatenate([batch["views"] for batch in unstopped]).reshape(2 * STEPS * BATCH, -1)
    assert len(np.unique(every, axis=0)) == len(every)
    for other in made[1:]:
        assert_same(trained(other), unstopped)
        assert_same(validated(other), validated(made[0]))
    halves = [trained(feed_of(pixels(), "host", shard=(number, 2), recipe=own_recipe)) for number in range(2)]
    together = [jax.tree.map(lambda *parts: np.concatenate(parts), *batches) for batches in zip(*halves, strict=True)]
    assert_same(together, unstopped)
    assert_same(trained(made[0], first=3), unstopped[3:])


def only_five(key, view):
    assert view.shape == (SIZE, SIZE, 5)
    return 1 - view


def test_an_own_function_sees_all_channels(monkeypatch):
    monkeypatch.setattr(own.OWN, "own", {"only_five": only_five})
    images = np.random.default_rng(0).integers(0, 256, (IMAGES, SIZE, SIZE, 5), np.uint8)
    colourless = {"saturation": 0.0, "hue": 0.0, "grayscale_probability": 0.0}
    of_both = [
        next(
            feed.view_pairs(
                Split.whole(images, None),
                Recipe(SIZE, **colourless, own=name),
                placement="device",
                batch_size=IMAGES,
                seed=0,
                max_corrupt_fraction=0.0,
            )
        )
        for name in ("", "only_five")
    ]
    assert of_both[0].shape == (IMAGES, 2, SIZE, SIZE, 5)
    np.testing.assert_allclose(of_both[1], 1 - of_both[0], atol=1e-6)


def test_an_own_function_sees_all_bits_of_the_id_of_a_file(tmp_path, own_recipe):
    split = files(tmp_path)
    low = np.arange(IMAGES) % 2 + 2**31  # two values of the lower half, twenty of each
    split = dataclasses.replace(split, ids=low + (np.arange(IMAGES) << 33))
    host, mixed = (feed_of(split, where, recipe=own_recipe) for where in ("host", "device"))
    views = trained(host)
    assert_same(trained(mixed), views)
    every = np.concatenate([batch["views"] for batch in views]).reshape(2 * STEPS * BATCH, -1)
    assert len(np.unique(every, axis=0)) == len(every)


WITHOUT_TENSORFLOW = """
import sys
sys.modules["tensorflow"] = sys.modules["tensorflow_datasets"] = None
from simclr_jax.configs import linear, quickstart
from simclr_jax.commands import probes
from simclr_jax.commands import pretrain
changes = {"data.limit": 64, "augment.image_size": 8, "train.batch_size": 32, "train.epochs": 2, "data.source": SOURCE}
config = quickstart.get_config()
config.update_from_flattened_dict(changes)
try:
    pretrain.run(config, RUN)
except ValueError as error:
    print("refused:", error)
config.augment.placement = config.data.cache = "device"
pretrain.run(config, RUN)
probe = linear.get_config()
probe.epochs, probe.learning_rates, probe.weight_decays = 1, (0.1,), (0.0,)
probes.run("linear", probe, RUN)
"""


def test_training_and_probe_run_without_tensorflow(tmp_path):
    labels = np.arange(100) % 2
    images = np.where(labels, 200, 20).astype(np.uint8)[:, None, None, None] * np.ones((1, 8, 8, 3), np.uint8)
    np.savez(tmp_path / "images.npz", x_train=images, y_train=labels, x_test=images[:30], y_test=labels[:30])
    code = f"SOURCE, RUN = 'npz:{tmp_path}/images.npz', '{tmp_path}/run'\n{WITHOUT_TENSORFLOW}"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False, timeout=300
    )
    assert result.returncode == 0, result.stderr[-2000:]
    assert "refused: tensorflow is not installed" in result.stdout
    assert (tmp_path / "run/eval/linear.json").exists()


def test_jpeg_bytes_in_memory_travel_as_crops():
    encoded = []
    for picture in pictures(BATCH):
        stream = io.BytesIO()
        Image.fromarray(picture).save(stream, "JPEG")
        encoded.append(stream.getvalue())
    split = Split.whole(np.array(encoded, object), None)
    assert split.kind == "bytes"
    (batch,) = trained(feed_of(split, "device"), last=1)
    assert batch["views"].shape == (BATCH, 2, SIZE, SIZE, 3)
