"""Views on the host: what they depend on, what they can read, how evaluation sees an image."""

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from simclr_jax.augment import host
from simclr_jax.augment.recipe import Recipe
from support.oracles import IDENTITY, NEUTRAL, SIZE, encode, picture, pillow_resize


@pytest.mark.parametrize("size", [1, 8, 32])
def test_views_stay_in_range_at_the_strongest_colours(size):
    recipe = Recipe(size, jitter_strength=2.5, jitter_probability=1.0)
    images = tf.data.Dataset.from_tensor_slices(np.stack([picture(24, 31, seed) for seed in range(40)]))
    views = images.enumerate().map(lambda i, image: host.two_views(recipe, image, 0, 0, i))
    assert views.element_spec == tf.TensorSpec([2, size, size, 3], tf.float32)
    views = next(views.batch(40).as_numpy_iterator())
    assert views.min() == 0
    assert views.max() == 1


def test_identity_recipe_returns_the_resized_image():
    pixels = picture(75, 75)
    views = host.two_views(IDENTITY, pixels, 0, 0, 0).numpy()
    np.testing.assert_allclose(views, np.stack([pillow_resize(pixels)] * 2), atol=2e-4)


# What a view depends on


def test_views_repeat_bit_for_bit_whatever_the_workers_and_the_order():
    ids = np.arange(24)
    pixels = np.stack([picture(48, 52, seed) for seed in ids])

    def run(order, workers):
        images = tf.data.Dataset.from_tensor_slices((ids[order], pixels[order]))
        views = images.map(lambda i, x: host.two_views(Recipe(SIZE), x, 5, 2, i), num_parallel_calls=workers)
        return next(views.batch(len(ids)).as_numpy_iterator())

    forward = run(ids, workers=1)
    np.testing.assert_array_equal(forward, run(ids, workers=4))
    np.testing.assert_array_equal(forward, run(ids[::-1], workers=2)[::-1])
    assert len(np.unique(forward.reshape(2 * len(ids), -1), axis=0)) == 2 * len(ids)


def test_two_views_are_views_0_and_1():
    pixels = picture(48, 52)
    seeds = [host.view_seed(5, 2, 77, view) for view in (0, 1)]
    views = [host.render(Recipe(SIZE), pixels, host.draw(Recipe(SIZE), seed, 48, 52)) for seed in seeds]
    np.testing.assert_array_equal(host.two_views(Recipe(SIZE), pixels, 5, 2, 77), np.stack(views))


@pytest.mark.parametrize(("side", "recipe"), [(32, Recipe(SIZE)), (37, Recipe(24)), (48, Recipe(20, max_sigma=4.0))])
def test_many_images_of_one_size_in_one_program_give_the_views_of_each(side, recipe):
    pixels = np.stack([picture(side, side + 5, seed) for seed in range(12)])
    epochs, ids = np.arange(12) // 5, np.arange(12) * 2**40
    together = host.pairs_of_views(recipe, pixels, 5, epochs, ids)
    for made, *image in zip(together, pixels, epochs, ids, strict=True):
        np.testing.assert_allclose(made, host.two_views(recipe, image[0], 5, *image[1:]), atol=1e-4)


def test_many_images_in_one_program_do_not_change_one_another():
    pixels, ids = np.stack([picture(32, 32, seed) for seed in range(9)]), np.arange(9)
    together = host.pairs_of_views(Recipe(SIZE), pixels, 5, 0 * ids, ids)
    apart = [host.pairs_of_views(Recipe(SIZE), pixels[i : i + 1], 5, 0 * ids[:1], ids[i : i + 1])[0] for i in ids]
    np.testing.assert_array_equal(together, np.stack(apart))


def test_every_part_of_the_seed_matters():
    pixels = picture(48, 52)
    wide = [0, 1, 2**31, 2**32, 2**32 + 1, 2**53, 2**53 + 1, 2**62, 2**63 - 2, 2**63 - 1]
    keys = [(0, 0, i) for i in wide] + [(0, i, 0) for i in wide[1:]] + [(i, 0, 0) for i in wide[1:]]
    recipe = Recipe(SIZE, grayscale_probability=0.0)
    views = np.concatenate([host.two_views(recipe, pixels, *key) for key in keys])
    assert len(np.unique(views.reshape(len(views), -1), axis=0)) == 2 * len(keys)


# What can be read


@pytest.mark.parametrize("subsampling", [0, 2])
def test_jpeg_bytes_give_the_views_of_the_decoded_image(subsampling):
    encoded = encode(picture(61, 83), "JPEG", quality=80, subsampling=subsampling)
    decoded = tf.io.decode_jpeg(encoded, channels=3)
    recipe = Recipe(SIZE)
    for image_id in range(30):
        of_bytes = host.two_views(recipe, encoded, 0, 0, image_id)
        np.testing.assert_array_equal(of_bytes, host.two_views(recipe, decoded, 0, 0, image_id))
        parameters = host.draw(recipe, host.view_seed(0, 0, image_id, 0), 61, 83)
        np.testing.assert_array_equal(host.render(recipe, encoded, parameters), of_bytes[0])
    np.testing.assert_array_equal(host.central_view(encoded, SIZE), host.central_view(decoded, SIZE))


@pytest.mark.parametrize("subsampling", [0, 1, 2])
def test_a_jpeg_crop_is_exact_wherever_it_cuts_the_blocks(subsampling):
    encoded = encode(picture(40, 83), "JPEG", quality=80, subsampling=subsampling)
    decoded = tf.io.decode_jpeg(encoded, channels=3)
    for start in range(36):  # blocks are 16 pixels wide where chroma is halved
        box = {"y": start // 2, "x": start, "height": 21, "width": 47} | NEUTRAL
        of_bytes, of_pixels = (host.render(IDENTITY, image, box) for image in (encoded, decoded))
        np.testing.assert_array_equal(of_bytes, of_pixels, err_msg=f"x = {start}")


LOSSLESS = {"PNG": ("RGB", "L", "RGBA", "LA", "P"), "BMP": ("RGB", "L"), "GIF": ("RGB",)}
LOSSY = {"JPEG": ("RGB", "L", "CMYK")}  # decoders may differ by a few of 255 steps


@pytest.mark.parametrize(("kinds", "tolerance"), [(LOSSLESS, 1e-6), (LOSSY, 0.03)])
def test_any_file_gives_the_view_that_pillow_reads(kinds, tolerance):
    for kind, mode in [(kind, mode) for kind, modes in kinds.items() for mode in modes]:
        encoded = encode(picture(50, 70), kind, mode)
        pixels = np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB"))
        of_bytes, of_pixels = (host.two_views(IDENTITY, image, 0, 0, 0) for image in (encoded, pixels))
        np.testing.assert_allclose(of_bytes, of_pixels, atol=tolerance, err_msg=f"{kind} {mode}")


def test_what_is_transparent_lies_on_white():
    pixels = np.dstack([picture(SIZE, SIZE), np.zeros((SIZE, SIZE), np.uint8)])
    pixels[:9, :, 3] = 255
    view = host.two_views(IDENTITY, encode(pixels, "PNG", "RGBA"), 0, 0, 0)[0].numpy()
    np.testing.assert_allclose(view[:9], pixels[:9, :, :3] / 255, atol=1e-6)
    np.testing.assert_allclose(view[9:], 1, atol=1e-6)


def test_an_animation_gives_its_first_frame():
    frames = [Image.fromarray(picture(50, 50, seed)).convert("P") for seed in range(3)]
    file = io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    expected = pillow_resize(np.asarray(frames[0].convert("RGB")))
    np.testing.assert_allclose(host.two_views(IDENTITY, file.getvalue(), 0, 0, 0)[0], expected, atol=2e-4)


def test_pixels_of_64_bits_are_refused():
    for view in (
        lambda image: host.two_views(Recipe(SIZE), image, 0, 0, 0),
        lambda image: host.central_view(image, SIZE),
        lambda image: host.render(Recipe(SIZE), image, NEUTRAL),
    ):
        with pytest.raises(ValueError, match="float64; pass uint8"):
            view(np.zeros((8, 8, 3)))


# Evaluation


def test_a_cifar_image_is_evaluated_as_it_is():
    pixels = picture(32, 32)
    np.testing.assert_array_equal(host.central_view(pixels, 32), np.float32(pixels) / np.float32(255))


@pytest.mark.parametrize(
    ("size", "box"),
    [((80, 64), (12, 4, 56)), ((33, 48), (2, 10, 29)), ((31, 20), (6, 0, 20)), ((1, 1), (0, 0, 1))],
)
def test_central_view_is_the_centre_resized(size, box):
    pixels = picture(*size)
    y, x, side = box
    expected = pillow_resize(pixels[y : y + side, x : x + side])
    np.testing.assert_allclose(host.central_view(pixels, SIZE), expected, atol=2e-4)
    np.testing.assert_allclose(host.central_view(encode(pixels, "PNG"), SIZE), expected, atol=2e-4)
