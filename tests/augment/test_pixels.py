"""The pixels of views of given parameters: host and device against Pillow, SciPy and scikit-image, and one another."""

import functools
import itertools
from unittest import mock

import jax
import numpy as np
import pytest
from scipy import stats
from skimage import filters

from simclr_jax.augment import device, host
from simclr_jax.augment.recipe import Recipe
from support.oracles import NEUTRAL, OPS, SIZE, picture, pillow_resize

EVERYTHING = Recipe(
    SIZE, solarize_probability=0.5, noise_probability=0.5, noise_deviation=0.2
)  # the device leaves out what a recipe never does


def whole(pixels):
    return {"y": 0, "x": 0, "height": pixels.shape[0], "width": pixels.shape[1]}


def render_on_host(pixels, parameters):
    return host.render(EVERYTHING, pixels, parameters).numpy()


@functools.cache
def compiled():
    return jax.jit(functools.partial(device.render, EVERYTHING))


def render_on_device(pixels, parameters):
    columns = {
        name: np.array([value], bool if isinstance(value, bool) else np.float32) for name, value in parameters.items()
    }
    return np.asarray(compiled()(pixels[None], columns))[0]


RENDERERS = {"host": render_on_host, "device": render_on_device}


@pytest.fixture(name="render", params=RENDERERS)
def make_render(request):
    def render(pixels, **changes):
        return RENDERERS[request.param](pixels, whole(pixels) | NEUTRAL | changes)

    return render


@pytest.mark.parametrize("size", [(100, 130), (64, 40), (17, 90), (20, 22), (1, 1)])
def test_identity_crop_is_pillows_bicubic_resize(render, size):
    pixels = np.random.default_rng(3).integers(0, 256, (*size, 3), dtype=np.uint8)
    np.testing.assert_allclose(render(pixels), pillow_resize(pixels), atol=2e-4)


def test_the_overshoot_of_the_resize_is_clipped_before_colour(render):
    pixels = np.random.default_rng(3).integers(0, 2, (20, 20, 3), dtype=np.uint8) * 255
    expected = pillow_resize(pixels) * 0.5
    np.testing.assert_allclose(render(pixels, jitter=True, brightness=0.5), expected, atol=2e-4)


def test_crop_then_flip(render):
    pixels = picture(90, 70)
    box = {"y": 11, "x": 5, "height": 60, "width": 53}
    expected = pillow_resize(pixels[11:71, 5:58])[:, ::-1]
    np.testing.assert_allclose(render(pixels, flip=True, **box), expected, atol=2e-4)


@pytest.mark.parametrize(
    ("name", "value"),
    [*itertools.product(OPS, (0.3, 1.7)), ("saturation", 0.0), ("hue", -0.2), ("hue", -0.5), ("hue", 0.0)],
)
def test_each_colour_operation(render, name, value):
    pixels = picture(SIZE, SIZE)
    pixels[:8] = pixels[:8, :, :1]  # grays have no hue, black and white nothing at all
    expected = OPS[name](pixels / 255, value)
    np.testing.assert_allclose(render(pixels, jitter=True, **{name: value}), expected, atol=1e-5)


@pytest.mark.parametrize("order", range(0, 24, 5))
def test_jitter_applies_the_drawn_order_and_clips_between(render, order):
    pixels = picture(SIZE, SIZE)
    values = {"brightness": 1.6, "contrast": 1.7, "saturation": 1.5, "hue": 0.15}
    names = list(itertools.permutations(OPS))[order]
    expected = pixels / 255
    for name in names:
        expected = OPS[name](expected, values[name])
    np.testing.assert_allclose(render(pixels, jitter=True, order=order, **values), expected, atol=2e-5)


def lowered_for(platform):
    """Renders on this machine with the form of the colour operations that programs for a platform have."""

    def choose(*arguments, default, **forms):
        return forms.get(platform, default)(*arguments)

    def render(*arguments):
        with mock.patch.object(jax.lax, "platform_dependent", choose):
            return np.asarray(jax.jit(functools.partial(device.render, EVERYTHING))(*arguments))

    return render


@pytest.mark.parametrize("platform", ["cpu", "cuda"])
def test_contrast_is_around_the_mean_of_what_comes_before_it(platform):
    """In all orders, so at each of its four places, with clipping before and after it."""
    pixels = np.stack([picture(SIZE, SIZE, seed) for seed in range(24)])
    values = {"brightness": 1.6, "contrast": 1.7, "saturation": 1.5, "hue": 0.15}
    same = {name: np.full(24, value) for name, value in (whole(pixels[0]) | NEUTRAL | values).items()}
    views = lowered_for(platform)(pixels, same | {"jitter": np.ones(24, bool), "order": np.arange(24)})
    for view, image, order in zip(views, pixels, itertools.permutations(OPS), strict=True):
        expected = image / 255
        for name in order:
            expected = OPS[name](expected, values[name])
        np.testing.assert_allclose(view, expected, atol=2e-5, err_msg=", ".join(order))


def test_a_program_has_the_colour_operations_of_the_platform_that_it_is_lowered_for():
    """A CPU's are a loop, which would write all pixels in each round on an accelerator."""
    pixels = picture(SIZE, SIZE)
    one = {name: np.array([value]) for name, value in (whole(pixels) | NEUTRAL).items()}
    traced = jax.jit(functools.partial(device.render, EVERYTHING)).trace(pixels[None], one)
    for platform, loops in {"cpu": 1, "cuda": 0, "rocm": 0, "tpu": 0}.items():
        assert traced.lower(lowering_platforms=(platform,)).as_text().count("stablehlo.while") == loops, platform


def test_grayscale_weighs_the_channels(render):
    pixels = picture(SIZE, SIZE)
    expected = np.repeat(pixels / 255 @ np.array([[0.2989], [0.587], [0.114]]), 3, axis=2)
    np.testing.assert_allclose(render(pixels, grayscale=True), expected, atol=1e-6)


@pytest.mark.parametrize("sigma", [0.1, 0.7, 2.0])
def test_blur_is_a_gaussian_of_5_taps_over_the_pixels_there_are(render, sigma):
    pixels = picture(SIZE, SIZE)
    options = {"mode": "constant", "truncate": 2 / sigma, "channel_axis": -1}
    inside = filters.gaussian(np.ones_like(pixels, float), sigma, **options)
    expected = filters.gaussian(pixels / 255, sigma, **options) / inside
    np.testing.assert_allclose(render(pixels, blur=True, sigma=sigma), expected, atol=1e-5)


def test_blur_comes_after_colour_and_leaves_a_constant_image_alone(render):
    pixels = np.full((SIZE, SIZE, 3), (200, 100, 50), np.uint8)
    np.testing.assert_allclose(render(pixels, blur=True, sigma=2.0), pixels / 255, atol=1e-6)
    edge = pixels.copy()
    edge[:, SIZE // 2 :] = 255
    sharp = render(edge, jitter=True, brightness=1.5)
    expected = filters.gaussian(sharp, 1.0, mode="nearest", truncate=2, channel_axis=-1)
    view = render(edge, jitter=True, brightness=1.5, blur=True, sigma=1.0)
    np.testing.assert_allclose(view[3:-3], expected[3:-3], atol=1e-5)


def test_solarize_comes_after_the_blur_and_inverts_the_brighter_half(render):
    pixels = picture(SIZE, SIZE)
    sharp, blurred = pixels / 255, render(pixels, blur=True, sigma=1.0)
    for image, drawn in ((sharp, {}), (blurred, {"blur": True, "sigma": 1.0})):
        expected = np.where(image < 0.5, image, 1 - image)
        np.testing.assert_allclose(render(pixels, solarize=True, **drawn), expected, atol=1e-6)


def lowbias32(x):
    """Wellons's hash in Python's whole numbers."""
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        x = (x ^ (x >> shift)) * factor % 2**32
    return x ^ (x >> 16)


@pytest.mark.parametrize("keys", [(0, 0), (5, 2**22 + 1), (2**23 - 1, 77)])
def test_noise_is_the_normal_quantile_of_a_hash_of_key_and_place_after_all_else(render, keys):
    pixels = picture(SIZE, SIZE)
    before = render(pixels, solarize=True)
    places = range(SIZE * SIZE * 3)
    hashed = [lowbias32(lowbias32(place ^ lowbias32(keys[0])) ^ keys[1]) for place in places]
    normal = stats.norm.ppf((np.array(hashed) // 2**8 + 0.5) / 2**24).reshape(before.shape)
    drawn = {"noise": 0.3, "noise_key_1": float(keys[0]), "noise_key_2": float(keys[1])}
    view = render(pixels, solarize=True, **drawn)
    np.testing.assert_allclose(view, np.clip(before + 0.3 * normal, 0, 1), atol=1e-5)
    assert view.min() == 0 and view.max() == 1


@pytest.mark.parametrize(("size", "atol"), [((32, 32), 2e-5), ((64, 48), 1e-4), ((3, 50), 2e-5)])
def test_host_and_device_agree_on_drawn_parameters(size, atol):
    """Smooth pictures and noise, every operation; Keys' kernel in float32 is what differs."""
    count = 24
    images = np.stack([picture(*size, seed) for seed in range(count)])
    images[::3] = np.random.default_rng(0).integers(0, 256, images[::3].shape)
    drawn = jax.jit(lambda ids: device.draw(EVERYTHING, 3, 0 * ids, ids, *size))(np.arange(count))
    views = np.asarray(jax.jit(device.render_pairs, static_argnums=0)(EVERYTHING, np.stack([images] * 2, 1), drawn))
    whole_numbers = {"y", "x", "height", "width", "order"}
    for image, view in itertools.product(range(count), range(2)):
        own = {name: np.asarray(values[image, view]) for name, values in drawn.items()}
        own = {name: np.int32(value) if name in whole_numbers else value for name, value in own.items()}
        expected = host.render(EVERYTHING, images[image], own)
        np.testing.assert_allclose(views[image, view], expected, atol=atol, err_msg=f"image {image}, view {view}")
