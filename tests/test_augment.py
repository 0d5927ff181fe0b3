"""Views on the host: the rule of their parameters, their pixels, what they depend on, what they can read.

Oracles are Pillow, scikit-image, SciPy and torchvision's published crop rule, never the code under test.
"""

import io
import itertools
import math

import jax.numpy as jnp
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from scipy import ndimage, stats
from skimage import color, filters

from simclr_jax.augment import host
from simclr_jax.augment import recipe as rules
from simclr_jax.augment.recipe import Recipe

SIZE = 40  # of the views here: the smallest with a kernel of 5 taps, so that one program compiles for all tests
NUM_DRAWS = 4000
Z = 4.5  # standard errors allowed to a rate; the draws are fixed, so a test that passes once passes always
P_VALUE = 1e-4  # least p-value allowed to a distribution
COINS = ("flip", "jitter", "grayscale", "blur")
NEUTRAL = dict.fromkeys(COINS, False) | {"brightness": 1.0, "contrast": 1.0, "saturation": 1.0, "hue": 0.0}
NEUTRAL |= {"order": 0, "sigma": 1.0}
NEVER = {f"{coin}_probability": 0.0 for coin in COINS}
IDENTITY = Recipe(SIZE, min_area=1.0, min_aspect=1.0, max_aspect=1.0, **NEVER)


def picture(height, width, seed=0):
    """A smooth uint8 picture of every colour, 0 and 255 among its values."""
    noise = np.random.default_rng(seed).normal(size=(height, width, 3))
    smooth = ndimage.gaussian_filter(noise, (height / 12, width / 12, 0))
    low, high = np.percentile(smooth, [3, 97])
    return np.uint8(np.clip((smooth - low) / (high - low), 0, 1) * 255)


def encode(pixels, kind, mode="RGB", **options):
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, kind, **options)
    return file.getvalue()


def pillow_resize(pixels, size=SIZE):
    """Pillow's bicubic in float, channel by channel, clipped to [0, 1]."""
    planes = [Image.fromarray(np.float32(pixels[..., c])) for c in range(3)]
    resized = [np.asarray(plane.resize((size, size), Image.Resampling.BICUBIC)) for plane in planes]
    return np.clip(np.stack(resized, axis=-1) / 255, 0, 1)


def whole(pixels):
    return {"y": 0, "x": 0, "height": pixels.shape[0], "width": pixels.shape[1]}


def render(pixels, **changes):
    return host.render(IDENTITY, pixels, whole(pixels) | NEUTRAL | changes).numpy()


def draws(recipe, height, width, count=NUM_DRAWS):
    """Parameters of `count` views as NumPy columns."""
    ids = tf.data.Dataset.range(count)
    drawn = ids.map(lambda i: host.draw(recipe, host.view_seed(0, 0, i, 0), height, width))
    return next(drawn.batch(count).as_numpy_iterator())


@pytest.fixture(scope="module")
def square_draws():
    return draws(Recipe(SIZE), 300, 300)


# The recipe


REFUSED = {
    "image_size": (0, 32.0, True),
    "min_area": (0.0, math.nan),
    "max_area": (1.01, 0.05),
    "min_aspect": (-1.0,),
    "max_aspect": (0.5, math.inf),
    "flip_probability": (1.1,),
    "jitter_probability": (-0.1,),
    "grayscale_probability": (math.nan,),
    "blur_probability": (2,),
    "jitter_strength": (-1.0,),
    "brightness": (-0.1,),
    "contrast": (math.inf,),
    "saturation": (-0.8,),
    "hue": (0.6,),
    "min_sigma": (0.0,),
    "max_sigma": (0.05,),
}


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, bad in REFUSED.items() for value in bad])
def test_a_value_out_of_range_is_refused_by_name(key, value):
    with pytest.raises(ValueError, match=rf"^augment\.{key} .*{value!r}[^\n]+$"):
        Recipe(**{"image_size": 32} | {key: value})


def test_hue_is_limited_after_jitter_strength():
    with pytest.raises(ValueError, match="use augment.hue <= 0.25"):
        Recipe(32, hue=0.3, jitter_strength=2.0)


@pytest.mark.parametrize(("side", "taps"), [(1, 1), (19, 1), (20, 3), (32, 3), (40, 5), (96, 9), (224, 23)])
def test_blur_kernel_is_a_tenth_of_the_side_and_odd(side, taps):
    assert rules.blur_kernel_size(side) == taps


# Parameters


def torchvision_box(uniforms, height, width):
    """RandomResizedCrop.get_params with its defaults, in float64, from one column of uniforms."""
    for area_draw, aspect_draw in zip(uniforms[:10], uniforms[10:20], strict=True):
        area = height * width * (0.08 + 0.92 * area_draw)
        aspect = math.exp(math.log(3 / 4) + (math.log(4 / 3) - math.log(3 / 4)) * aspect_draw)
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return int(uniforms[20] * (height - h + 1)), int(uniforms[21] * (width - w + 1)), h, w
    h, w = height, width
    if width / height < 3 / 4:
        h = round(width / (3 / 4))
    elif width / height > 4 / 3:
        w = round(height * (4 / 3))
    return (height - h) // 2, (width - w) // 2, h, w


@pytest.mark.parametrize("size", [(300, 300), (400, 300), (60, 200), (7, 3), (1, 500), (900, 30), (30, 900)])
def test_crop_is_torchvisions(size):
    uniforms = np.random.default_rng(0).random((rules.NUM_UNIFORMS, 1000), dtype=np.float32)
    drawn = rules.view_parameters(Recipe(SIZE), uniforms, *np.float32(size), np)
    boxes = np.stack([drawn[name] for name in ("y", "x", "height", "width")], axis=1)
    expected = np.array([torchvision_box(column, *size) for column in uniforms.T.astype(float)])
    assert np.mean((boxes != expected).any(axis=1)) <= 0.002  # float32 rounds a few sides the other way
    assert np.abs(boxes - expected).max() <= 1


def test_one_rule_in_numpy_jax_and_tensorflow():
    uniforms = np.random.default_rng(1).random((rules.NUM_UNIFORMS, 2000), dtype=np.float32)
    size = np.float32(120), np.float32(90)
    by_numpy = rules.view_parameters(Recipe(SIZE), uniforms, *size, np)
    others = [
        rules.view_parameters(Recipe(SIZE), jnp.asarray(uniforms), *size, jnp),
        rules.view_parameters(Recipe(SIZE), tf.constant(uniforms), *map(tf.constant, size), tf),
    ]
    for other, (name, values) in itertools.product(others, by_numpy.items()):
        close = np.isclose(np.asarray(other[name], float), np.asarray(values, float), rtol=1e-5, atol=1e-5)
        assert np.mean(close) >= 0.998, name


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (3, 7), (2, 2), (33, 31), (300, 400)])
def test_crop_lies_in_the_image(size):
    drawn = draws(Recipe(SIZE), *size, count=500)
    for start, length, side in (("y", "height", size[0]), ("x", "width", size[1])):
        assert drawn[start].min() >= 0
        assert drawn[length].min() >= 1
        assert (drawn[start] + drawn[length]).max() <= side


@pytest.mark.parametrize(("size", "aspects"), [((5, 1), (3.0, 4.0)), ((1, 5), (0.2, 0.3))])
def test_crop_has_a_pixel_even_where_no_aspect_is_possible(size, aspects):
    drawn = draws(Recipe(SIZE, min_aspect=aspects[0], max_aspect=aspects[1]), *size, count=50)
    assert set(drawn["height"]) == set(drawn["width"]) == {1}


def test_each_parameter_has_its_own_slot():
    """What a seed means would change with the slots."""
    names = ("y", "x", "flip", "jitter", *rules.JITTER_OPS, "order", "grayscale", "blur", "sigma")
    size = np.float32(100), np.float32(100)
    low = np.full(rules.NUM_UNIFORMS, 0.1, np.float32)
    base = rules.view_parameters(Recipe(SIZE), low, *size, np)
    for slot, name in enumerate(names, start=20):
        high = np.where(np.arange(len(low)) == slot, np.float32(0.99), low)
        other = rules.view_parameters(Recipe(SIZE), high, *size, np)
        assert [key for key in base if base[key] != other[key]] == [name]


def test_each_crop_position_is_equally_likely():
    recipe = Recipe(SIZE, min_area=0.25, max_area=0.25, min_aspect=1.0, max_aspect=1.0)
    drawn = draws(recipe, 8, 8)
    assert set(drawn["height"]) == set(drawn["width"]) == {4}
    counts = np.bincount(drawn["y"] * 5 + drawn["x"], minlength=25)
    assert stats.chisquare(counts).pvalue > P_VALUE


@pytest.mark.parametrize(("name", "rate"), [("flip", 0.5), ("jitter", 0.8), ("grayscale", 0.2), ("blur", 0.5)])
def test_rates_are_the_papers(square_draws, name, rate):
    bound = Z * math.sqrt(rate * (1 - rate) / NUM_DRAWS)
    assert abs(square_draws[name].mean() - rate) < bound


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_certain_outcomes_are_certain(probability):
    drawn = draws(Recipe(SIZE, **dict.fromkeys(NEVER, probability)), 9, 9, count=500)
    assert all((drawn[coin] == bool(probability)).all() for coin in COINS)


def assert_uniform(values, low, high):
    assert stats.kstest(values, stats.uniform(low, high - low).cdf).pvalue > P_VALUE


def test_strengths_are_uniform_over_the_papers_ranges(square_draws):
    for name in ("brightness", "contrast", "saturation"):
        assert_uniform(square_draws[name], 0.2, 1.8)
    assert_uniform(square_draws["hue"], -0.2, 0.2)
    assert_uniform(square_draws["sigma"], 0.1, 2.0)


def test_jitter_strength_scales_all_four_and_factors_stay_positive():
    half = draws(Recipe(SIZE, jitter_strength=0.5), 9, 9, count=1000)
    for name in ("brightness", "contrast", "saturation"):
        assert_uniform(half[name], 0.6, 1.4)
    assert_uniform(half["hue"], -0.1, 0.1)
    double = draws(Recipe(SIZE, jitter_strength=2.0), 9, 9, count=1000)
    assert_uniform(double["saturation"], 0.0, 2.6)


def test_area_is_uniform_and_aspect_log_uniform_where_every_candidate_fits(square_draws):
    # A candidate of up to 3/4 of a square fits whatever its aspect; 0.7 leaves room for whole pixels.
    area = square_draws["height"] * square_draws["width"] / 300**2
    fits = (area > 0.09) & (area < 0.7)
    assert_uniform(area[fits], 0.09, 0.7)
    log_aspect = np.log(square_draws["width"] / square_draws["height"])[fits]
    assert_uniform(log_aspect, math.log(3 / 4), math.log(4 / 3))


def test_all_orders_of_the_jitter_are_equally_likely(square_draws):
    counts = np.bincount(square_draws["order"])
    assert len(counts) == len(set(rules.JITTER_ORDERS)) == 24
    assert stats.chisquare(counts).pvalue > P_VALUE


def test_parameters_are_independent_of_each_other(square_draws):
    drawn = dict(square_draws)
    drawn["y"] = drawn["y"] / (301 - drawn.pop("height"))
    drawn["x"] = drawn["x"] / (301 - drawn.pop("width"))
    correlation = np.corrcoef(np.stack([np.float64(column) for column in drawn.values()]))
    assert np.abs(correlation - np.eye(len(drawn))).max() < Z / math.sqrt(NUM_DRAWS)


# Pixels


@pytest.mark.parametrize("size", [(100, 130), (64, 40), (17, 90), (20, 22), (1, 1)])
def test_identity_crop_is_pillows_bicubic_resize(size):
    pixels = np.random.default_rng(3).integers(0, 256, (*size, 3), dtype=np.uint8)
    np.testing.assert_allclose(render(pixels), pillow_resize(pixels), atol=2e-4)


def test_the_overshoot_of_the_resize_is_clipped_before_colour():
    pixels = np.random.default_rng(3).integers(0, 2, (20, 20, 3), dtype=np.uint8) * 255
    expected = pillow_resize(pixels) * 0.5
    np.testing.assert_allclose(render(pixels, jitter=True, brightness=0.5), expected, atol=2e-4)


def test_identity_recipe_returns_the_resized_image():
    pixels = picture(75, 75)
    views = host.two_views(IDENTITY, pixels, 0, 0, 0).numpy()
    np.testing.assert_allclose(views, np.stack([pillow_resize(pixels)] * 2), atol=2e-4)


def test_crop_then_flip():
    pixels = picture(90, 70)
    box = {"y": 11, "x": 5, "height": 60, "width": 53}
    expected = pillow_resize(pixels[11:71, 5:58])[:, ::-1]
    np.testing.assert_allclose(render(pixels, flip=True, **box), expected, atol=2e-4)


def brightness(image, factor):
    return np.clip(image * factor, 0, 1)


def contrast(image, factor):
    mean = image.mean(axis=(0, 1))
    return np.clip(mean + (image - mean) * factor, 0, 1)


def saturation(image, factor):
    hsv = color.rgb2hsv(image)
    hsv[..., 1] = np.minimum(hsv[..., 1] * factor, 1)
    return color.hsv2rgb(hsv)


def hue(image, shift):
    hsv = color.rgb2hsv(image)
    hsv[..., 0] = (hsv[..., 0] + shift) % 1
    return color.hsv2rgb(hsv)


OPS = {"brightness": brightness, "contrast": contrast, "saturation": saturation, "hue": hue}


@pytest.mark.parametrize(
    ("name", "value"),
    [*itertools.product(OPS, (0.3, 1.7)), ("saturation", 0.0), ("hue", -0.2), ("hue", -0.5), ("hue", 0.0)],
)
def test_each_colour_operation(name, value):
    pixels = picture(SIZE, SIZE)
    pixels[:8] = pixels[:8, :, :1]  # grays have no hue, black and white nothing at all
    expected = OPS[name](pixels / 255, value)
    np.testing.assert_allclose(render(pixels, jitter=True, **{name: value}), expected, atol=1e-5)


@pytest.mark.parametrize("order", range(0, 24, 5))
def test_jitter_applies_the_drawn_order_and_clips_between(order):
    pixels = picture(SIZE, SIZE)
    values = {"brightness": 1.6, "contrast": 1.7, "saturation": 1.5, "hue": 0.15}
    names = list(itertools.permutations(OPS))[order]
    expected = pixels / 255
    for name in names:
        expected = OPS[name](expected, values[name])
    np.testing.assert_allclose(render(pixels, jitter=True, order=order, **values), expected, atol=2e-5)


def test_grayscale_weighs_the_channels():
    pixels = picture(SIZE, SIZE)
    expected = np.repeat(pixels / 255 @ np.array([[0.2989], [0.587], [0.114]]), 3, axis=2)
    np.testing.assert_allclose(render(pixels, grayscale=True), expected, atol=1e-6)


@pytest.mark.parametrize("sigma", [0.1, 0.7, 2.0])
def test_blur_is_a_gaussian_of_5_taps_over_the_pixels_there_are(sigma):
    pixels = picture(SIZE, SIZE)
    options = {"mode": "constant", "truncate": 2 / sigma, "channel_axis": -1}
    inside = filters.gaussian(np.ones_like(pixels, float), sigma, **options)
    expected = filters.gaussian(pixels / 255, sigma, **options) / inside
    np.testing.assert_allclose(render(pixels, blur=True, sigma=sigma), expected, atol=1e-5)


def test_blur_comes_after_colour_and_leaves_a_constant_image_alone():
    pixels = np.full((SIZE, SIZE, 3), (200, 100, 50), np.uint8)
    np.testing.assert_allclose(render(pixels, blur=True, sigma=2.0), pixels / 255, atol=1e-6)
    edge = pixels.copy()
    edge[:, SIZE // 2 :] = 255
    sharp = render(edge, jitter=True, brightness=1.5)
    expected = filters.gaussian(sharp, 1.0, mode="nearest", truncate=2, channel_axis=-1)
    view = render(edge, jitter=True, brightness=1.5, blur=True, sigma=1.0)
    np.testing.assert_allclose(view[3:-3], expected[3:-3], atol=1e-5)


@pytest.mark.parametrize("size", [1, 8, 32])
def test_views_stay_in_range_at_the_strongest_colours(size):
    recipe = Recipe(size, jitter_strength=2.5, jitter_probability=1.0)
    images = tf.data.Dataset.from_tensor_slices(np.stack([picture(24, 31, seed) for seed in range(40)]))
    views = images.enumerate().map(lambda i, image: host.two_views(recipe, image, 0, 0, i))
    assert views.element_spec == tf.TensorSpec([2, size, size, 3], tf.float32)
    views = next(views.batch(40).as_numpy_iterator())
    assert views.min() == 0
    assert views.max() == 1


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


def test_alpha_is_dropped_not_blended():
    pixels = np.dstack([picture(SIZE, SIZE), np.zeros((SIZE, SIZE), np.uint8)])
    view = host.two_views(IDENTITY, encode(pixels, "PNG", "RGBA"), 0, 0, 0)[0].numpy()
    np.testing.assert_allclose(view, pixels[..., :3] / 255, atol=1e-6)


def test_an_animation_gives_its_first_frame():
    frames = [Image.fromarray(picture(50, 50, seed)).convert("P") for seed in range(3)]
    file = io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    expected = pillow_resize(np.asarray(frames[0].convert("RGB")))
    np.testing.assert_allclose(host.two_views(IDENTITY, file.getvalue(), 0, 0, 0)[0], expected, atol=2e-4)


def test_float_pixels_are_refused():
    for view in (
        lambda image: host.two_views(Recipe(SIZE), image, 0, 0, 0),
        lambda image: host.central_view(image, SIZE),
        lambda image: host.render(Recipe(SIZE), image, NEUTRAL),
    ):
        with pytest.raises(ValueError, match="float32; pass uint8"):
            view(np.zeros((8, 8, 3), np.float32))


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
