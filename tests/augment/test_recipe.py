"""The rule of a view's parameters, as both the host and the device draw them.

Oracles are the paper's distributions and torchvision's published crop rule, never the code under test.
"""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from simclr_jax.augment import device, host
from simclr_jax.augment import recipe as rules
from simclr_jax.augment.recipe import Recipe
from support.oracles import COINS, NEVER, SIZE

NUM_DRAWS = 4000
Z = 4.5  # standard errors allowed to a rate; the draws are fixed, so a test that passes once passes always
P_VALUE = 1e-4  # least p-value allowed to a distribution


def draws_of_host(recipe, height, width, count=NUM_DRAWS):
    """Parameters of `count` views as NumPy columns."""
    ids = tf.data.Dataset.range(count)
    drawn = ids.map(lambda i: host.draw(recipe, host.view_seed(0, 0, i, 0), height, width))
    return next(drawn.batch(count).as_numpy_iterator())


def draws_of_device(recipe, height, width, count=NUM_DRAWS):
    """Both views of half as many images."""
    images = -(-count // 2)
    ids = jnp.arange(images)
    drawn = jax.jit(lambda ids: device.draw(recipe, 0, jnp.zeros_like(ids), ids, height, width))(ids)
    columns = {name: np.asarray(values).reshape(-1)[:count] for name, values in drawn.items()}
    return columns | {name: columns[name].astype(int) for name in ("y", "x", "height", "width", "order")}


@pytest.fixture(scope="module", name="draws", params=[draws_of_host, draws_of_device], ids=["host", "device"])
def choose_draws(request):
    return request.param


@pytest.fixture(scope="module", name="square_draws")
def make_square_draws(draws):
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
    "solarize_probability": (1.5,),
    "noise_probability": (-1,),
    "noise_deviation": (0.0, 1.5, math.nan),
    "own": (3,),
}
MORE = {"solarize_probability": 0.3, "noise_probability": 0.7}  # what draws the last slots


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
    uniforms = np.random.default_rng(0).random((rules.num_uniforms(Recipe(SIZE)), 1000), dtype=np.float32)
    drawn = rules.view_parameters(Recipe(SIZE), uniforms, *np.float32(size), np)
    boxes = np.stack([drawn[name] for name in ("y", "x", "height", "width")], axis=1)
    expected = np.array([torchvision_box(column, *size) for column in uniforms.T.astype(float)])
    assert np.mean((boxes != expected).any(axis=1)) <= 0.002  # float32 rounds a few sides the other way
    assert np.abs(boxes - expected).max() <= 1


def test_one_rule_in_numpy_jax_and_tensorflow():
    recipe = Recipe(SIZE, **MORE)
    uniforms = np.random.default_rng(1).random((rules.num_uniforms(recipe), 2000), dtype=np.float32)
    size = np.float32(120), np.float32(90)
    by_numpy = rules.view_parameters(recipe, uniforms, *size, np)
    others = [
        rules.view_parameters(recipe, jnp.asarray(uniforms), *size, jnp),
        rules.view_parameters(recipe, tf.constant(uniforms), *map(tf.constant, size), tf),
    ]
    for other, (name, values) in itertools.product(others, by_numpy.items()):
        close = np.isclose(np.asarray(other[name], float), np.asarray(values, float), rtol=1e-5, atol=1e-5)
        assert np.mean(close) >= 0.998, name


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (3, 7), (2, 2), (33, 31), (300, 400)])
def test_crop_lies_in_the_image(draws, size):
    drawn = draws(Recipe(SIZE), *size, count=500)
    for start, length, side in (("y", "height", size[0]), ("x", "width", size[1])):
        assert drawn[start].min() >= 0
        assert drawn[length].min() >= 1
        assert (drawn[start] + drawn[length]).max() <= side


@pytest.mark.parametrize(("size", "aspects"), [((5, 1), (3.0, 4.0)), ((1, 5), (0.2, 0.3))])
def test_crop_has_a_pixel_even_where_no_aspect_is_possible(draws, size, aspects):
    drawn = draws(Recipe(SIZE, min_aspect=aspects[0], max_aspect=aspects[1]), *size, count=50)
    assert set(drawn["height"]) == set(drawn["width"]) == {1}


def test_each_parameter_has_its_own_slot():
    """What a seed means would change with the slots."""
    names = ("y", "x", "flip", "jitter", *rules.JITTER_OPS, "order", "grayscale", "blur", "sigma")
    names += ("solarize", "noise", "noise_key_1", "noise_key_2")
    size = np.float32(100), np.float32(100)
    recipe = Recipe(SIZE, **MORE)
    low = np.full(rules.num_uniforms(recipe), 0.1, np.float32)
    base = rules.view_parameters(recipe, low, *size, np)
    assert len(low) == 20 + len(names)
    for slot, name in enumerate(names, start=20):
        high = np.where(np.arange(len(low)) == slot, np.float32(0.99), low)
        other = rules.view_parameters(recipe, high, *size, np)
        assert [key for key in base if base[key] != other[key]] == [name]


@pytest.mark.parametrize("more", [{"solarize_probability": 0.3}, {"noise_probability": 0.7}, MORE])
def test_what_came_later_leaves_all_else_of_a_view_as_it_was(draws, more):
    plain, with_more = draws(Recipe(SIZE), 90, 120, count=300), draws(Recipe(SIZE, **more), 90, 120, count=300)
    added = {"solarize": {"solarize"}, "noise": {"noise", "noise_key_1", "noise_key_2"}}
    assert with_more.keys() - plain.keys() == set().union(*(added[key.split("_")[0]] for key in more))
    for name, values in plain.items():
        np.testing.assert_array_equal(with_more[name], values, err_msg=name)


def test_rates_and_keys_of_solarize_and_noise(draws):
    drawn = draws(Recipe(SIZE, **MORE, noise_deviation=0.25), 30, 30)
    assert set(drawn["noise"].tolist()) == {0.0, 0.25}
    for happens, rate in ((drawn["solarize"], 0.3), (drawn["noise"] > 0, 0.7)):
        assert abs(happens.mean() - rate) < Z * math.sqrt(rate * (1 - rate) / NUM_DRAWS)
    for name in ("noise_key_1", "noise_key_2"):
        assert_uniform(drawn[name], 0, 2**23)
        assert (drawn[name] % 1 == 0).all() and (drawn[name] % 2 == 1).any()


def test_each_crop_position_is_equally_likely(draws):
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
def test_certain_outcomes_are_certain(draws, probability):
    drawn = draws(Recipe(SIZE, **dict.fromkeys(NEVER, probability)), 9, 9, count=500)
    assert all((drawn[coin] == bool(probability)).all() for coin in COINS)


def assert_uniform(values, low, high):
    assert stats.kstest(values, stats.uniform(low, high - low).cdf).pvalue > P_VALUE


def test_strengths_are_uniform_over_the_papers_ranges(square_draws):
    for name in ("brightness", "contrast", "saturation"):
        assert_uniform(square_draws[name], 0.2, 1.8)
    assert_uniform(square_draws["hue"], -0.2, 0.2)
    assert_uniform(square_draws["sigma"], 0.1, 2.0)


def test_jitter_strength_scales_all_four_and_factors_stay_positive(draws):
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
