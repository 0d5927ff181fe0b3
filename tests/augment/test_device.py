"""Views on the device: what they depend on, and that a compiled step can make them."""

import functools
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from simclr_jax.augment import device, host
from simclr_jax.augment.recipe import Recipe
from support.oracles import SIZE, picture

ROOT = pathlib.Path(__file__).parents[2]
COUNT, HEIGHT, WIDTH = 16, 48, 52
BATCH = "they must be uint8 [n, height, width, 3], or uint16 or float32, or have 1 to 32 channels"


def images():
    return np.stack([picture(HEIGHT, WIDTH, seed) for seed in range(COUNT)])


@functools.cache
def compiled(recipe, seed=5):
    return jax.jit(lambda pixels, epoch, ids: device.two_views(recipe, pixels, seed, epoch, ids))


def views(pixels, ids, epoch=2, seed=5, recipe=None):
    epochs = np.full(len(ids), epoch)
    return np.asarray(compiled(recipe or Recipe(SIZE), seed)(pixels, epochs, np.asarray(ids)))


def test_views_do_not_depend_on_the_rest_of_the_batch():
    pixels, ids = images(), np.arange(COUNT) + 100
    whole = views(pixels, ids)
    np.testing.assert_array_equal(views(pixels[::-1], ids[::-1])[::-1], whole)
    np.testing.assert_allclose(views(pixels[3:4], ids[3:4]), whole[3:4], atol=1e-6)
    assert len(np.unique(whole.reshape(2 * COUNT, -1), axis=0)) == 2 * COUNT


def test_two_views_of_an_image_are_those_of_two_images_alike():
    pixels, ids = images(), np.arange(COUNT)
    drawn = jax.jit(lambda ids: device.draw(Recipe(SIZE), 5, 0 * ids + 2, ids, HEIGHT, WIDTH))(ids)
    pairs = jax.jit(device.render_pairs, static_argnums=0)(Recipe(SIZE), np.stack([pixels, pixels], axis=1), drawn)
    np.testing.assert_allclose(views(pixels, ids), pairs, atol=1e-5)


@pytest.mark.parametrize("count", [2, 4, 8])
def test_devices_make_the_views_that_one_makes(count):
    pixels, ids = images(), np.arange(COUNT)
    mapped = jax.pmap(
        lambda pixels, epoch, ids: device.two_views(Recipe(SIZE), pixels, 5, epoch, ids),
        devices=jax.local_devices()[:count],
    )
    parts = [x.reshape(count, -1, *x.shape[1:]) for x in (pixels, np.full(COUNT, 2), ids)]
    np.testing.assert_allclose(
        np.asarray(mapped(*parts)).reshape(COUNT, 2, SIZE, SIZE, 3), views(pixels, ids), atol=1e-6
    )


def parameters(seed=0, epoch=0, image_id=0):
    """Every parameter of both views of one image."""
    drawn = device.draw(Recipe(SIZE), seed, jnp.array([epoch]), jnp.array([image_id]), HEIGHT, WIDTH)
    return np.concatenate([np.ravel(values).astype(float) for values in drawn.values()])


def test_every_part_of_the_seed_matters():
    wide = [1, 2, 2**16, 2**24 + 1, 2**31 - 1]
    keys = [{}, *({name: value} for name in ("seed", "epoch", "image_id") for value in wide), {"epoch": -1}]
    assert len({tuple(parameters(**key)) for key in keys}) == len(keys)
    np.testing.assert_array_equal(parameters(image_id=7), parameters(image_id=7))


def test_the_views_of_an_image_are_drawn_independently():
    ids = np.arange(3000)
    drawn = device.draw(Recipe(SIZE), 0, np.zeros_like(ids), ids, 300, 300)
    for name in ("brightness", "hue", "sigma", "order", "flip", "y"):
        first, second = np.asarray(drawn[name], float).T
        assert abs(np.corrcoef(first, second)[0, 1]) < 4.5 / np.sqrt(len(ids)), name
        assert abs(np.corrcoef(first[1:], first[:-1])[0, 1]) < 4.5 / np.sqrt(len(ids)), name


def test_parameters_follow_the_size_of_each_image():
    sizes = jnp.array([[20.0], [200.0]]), jnp.array([[30.0], [10.0]])
    drawn = device.draw(Recipe(SIZE, min_area=0.9), 0, jnp.zeros(2, int), jnp.arange(2), *sizes)
    assert (drawn["height"] <= sizes[0]).all() and (drawn["width"] <= sizes[1]).all()
    np.testing.assert_array_equal(drawn["width"][1], [10, 10])  # too narrow for any aspect: all of its width


@pytest.mark.parametrize("size", [1, 8, 32])
def test_views_stay_in_range_at_the_strongest_colours(size):
    recipe = Recipe(size, jitter_strength=2.5, jitter_probability=1.0)
    pixels = images()
    pixels[0], pixels[1], pixels[2] = 0, 255, 128  # without hue, and in two cases without value or chroma
    made = views(pixels, np.arange(COUNT), recipe=recipe)
    assert made.shape == (COUNT, 2, size, size, 3) and made.dtype == np.float32
    assert made.min() == 0 and made.max() == 1


def test_a_recipe_without_an_operation_never_does_it():
    pixels, ids = images(), np.arange(COUNT)
    colourless = views(pixels, ids, recipe=Recipe(SIZE, grayscale_probability=1.0, blur_probability=0.0))
    np.testing.assert_allclose(colourless.std(-1), 0, atol=1e-6)
    unchanged = {f"{name}_probability": 0.0 for name in ("flip", "jitter", "grayscale", "blur")}
    plain = views(pixels, ids, recipe=Recipe(SIZE, **unchanged, min_area=1.0, min_aspect=1.0, max_aspect=1.0))
    crop = Image.fromarray(np.float32(pixels[0, :, 2:50, 1]))  # the largest central square
    expected = np.asarray(crop.resize((SIZE, SIZE), Image.Resampling.BICUBIC)) / 255
    np.testing.assert_allclose(plain[0, 0, :, :, 1], expected.clip(0, 1), atol=2e-4)


def test_a_compiled_step_neither_calls_the_host_nor_widens_numbers():
    lowered = compiled(Recipe(SIZE)).lower(images(), np.zeros(COUNT, np.int32), np.arange(COUNT, dtype=np.int32))
    text = lowered.as_text()
    assert "callback" not in text and "custom_call" not in text.replace("custom_call @Sharding", "")
    assert "f64" not in text and "bf16" not in text


@pytest.mark.parametrize(
    ("height", "width", "size"), [(32, 32, 32), (80, 64, 40), (33, 48, 40), (31, 20, 40), (1, 1, 8)]
)
def test_evaluation_sees_an_image_as_on_the_host(height, width, size):
    pixels = picture(height, width)
    seen = np.asarray(device.central_views(pixels[None], size))[0]
    np.testing.assert_allclose(seen, host.central_view(pixels, size), atol=1e-5)
    if size == 32:
        np.testing.assert_allclose(seen, np.float32(pixels) / np.float32(255), rtol=1.2e-7)  # one rounding


def test_it_needs_no_tensorflow():
    code = """
import sys
sys.modules["tensorflow"] = None
import numpy as np
from simclr_jax.augment import device
from simclr_jax.augment.recipe import Recipe
views = device.two_views(Recipe(8), np.zeros((2, 9, 9, 3), np.uint8), 0, np.zeros(2, int), np.arange(2))
assert views.shape == (2, 2, 8, 8, 3)
"""
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_views_are_those_of_pretraining():
    images = np.random.default_rng(0).integers(0, 255, (3, 12, 10, 3), np.uint8)
    recipe, ids = Recipe(8), jnp.array([5, 0, 7])
    wanted = device.two_views(recipe, jnp.asarray(images), 4, jnp.array([2, 2, 2]), ids)
    np.testing.assert_array_equal(device.views(recipe, images, seed=4, epoch=2, ids=ids), wanted)
    one = device.views(recipe, images[1:2], seed=4, epoch=2, ids=ids[1:2])  # of an image alone, but for rounding
    np.testing.assert_allclose(one, wanted[1:2], atol=1e-5)
    jitted = jax.jit(lambda images, epoch: device.views(recipe, images, seed=4, epoch=epoch, ids=ids))
    np.testing.assert_allclose(jitted(images, 2), wanted, atol=1e-5)
    assert np.abs(jitted(images, 3) - wanted).max() > 0.1
    of_places = device.two_views(recipe, jnp.asarray(images), 0, jnp.zeros(3, int), jnp.arange(3))
    np.testing.assert_array_equal(device.views(recipe, images), of_places)


@pytest.mark.parametrize(
    ("images", "ids", "words"),
    [
        (np.zeros((2, 8, 8, 3)), None, f"images are float64 [2, 8, 8, 3]; {BATCH}"),
        (np.zeros((8, 8, 3), np.uint8), None, f"images are uint8 [8, 8, 3]; {BATCH}"),
        ([[1, 2]], None, "images are list; they must be an array, uint8 [n, height, width, 3]"),
        (np.zeros((2, 8, 8, 3), np.uint8), [1], "ids have the shape [1]; one of each of the 2 images is needed: [2]"),
    ],
)
def test_views_of_what_is_no_batch_are_refused(images, ids, words):
    with pytest.raises(ValueError, match="^recipe is NoneType; it must be a simclr_jax.Recipe$"):
        device.views(None, images, ids=ids)
    with pytest.raises(ValueError) as error:
        device.views(Recipe(8), images, ids=ids)
    assert str(error.value) == words
