"""Views of images of any number of channels and of any type, and how their files are read: against NumPy and Pillow."""

import functools
import io

import jax
import numpy as np
import pytest
import tifffile
from PIL import Image

from simclr_jax.augment import bands, decode, device, host
from simclr_jax.augment.recipe import JITTER_ORDERS, Recipe
from support.oracles import NEUTRAL, NEVER, SIZE, brightness, contrast, encode, picture
from support.samples import assert_one_line

COLOURLESS = {"saturation": 0.0, "hue": 0.0, "grayscale_probability": 0.0}
RECIPE = Recipe(SIZE, **COLOURLESS)
BITS = 12
WHITE = {"uint8": 255, "uint16": 2**BITS - 1, "float32": 1}


def image(channels, dtype, height=48, width=52):
    """As smooth as `picture`, with as many levels as its type has."""
    exact = np.concatenate([picture(height, width, seed) / 255 for seed in range(-(-channels // 3))], axis=-1)
    exact = np.sqrt(exact[..., :channels] * 0.9 + 0.05) * WHITE[dtype]
    return exact.astype(dtype) if dtype == "float32" else np.rint(exact).astype(dtype)


@functools.cache
def on_device(recipe):
    return jax.jit(functools.partial(device.render_pairs, recipe, bits=BITS))


@pytest.mark.parametrize(("channels", "dtype"), [(1, "uint8"), (2, "float32"), (5, "uint16")])
def test_host_and_device_make_the_same_views_of_any_images(channels, dtype):
    always = {f"{name}_probability": 1.0 for name in ("blur", "jitter", "solarize", "noise")}
    pixels, recipe = image(channels, dtype), Recipe(SIZE, **COLOURLESS | always)
    seeds = [host.view_seed(0, 0, 3, view) for view in (0, 1)]
    drawn = [host.draw(recipe, seed, *pixels.shape[:2]) for seed in seeds]
    parameters = {name: np.stack([of[name] for of in drawn])[None] for name in drawn[0]}
    views = host.two_views(recipe, pixels, 0, 0, 3, bits=BITS).numpy()
    assert views.shape == (2, SIZE, SIZE, channels) and views.min() >= 0 and 0.5 < views.max() <= 1
    np.testing.assert_allclose(on_device(recipe)(np.stack([pixels] * 2)[None], parameters)[0], views, atol=1e-5)
    # So do crops that travel to the devices, and many images of one size at once.
    crops = host.two_crops(recipe, pixels, 0, 0, 3, bits=BITS)
    assert crops["crops"].dtype.name == dtype
    sent = {name: values.numpy()[None] for name, values in crops["parameters"].items()}
    np.testing.assert_allclose(on_device(recipe)(crops["crops"].numpy()[None], sent)[0], views, atol=1e-5)
    chunk = host.pairs_of_views(recipe, pixels[None], 0, np.int64([0]), np.int64([3]), bits=BITS)
    np.testing.assert_allclose(chunk[0], views, atol=1e-5)
    central = host.central_view(pixels, SIZE, bits=BITS)
    np.testing.assert_allclose(device.central_views(pixels[None], SIZE, BITS)[0], central, atol=1e-5)


@pytest.mark.parametrize("dtype", WHITE)
def test_each_channel_becomes_what_pillow_and_numpy_make_of_it(dtype):
    pixels, factors = image(5, dtype), {"brightness": 1.3, "contrast": 0.6}
    planes = [Image.fromarray(np.float32(pixels[5:45, 2:38, c])) for c in range(5)]
    resized = [np.asarray(plane.resize((SIZE, SIZE), Image.Resampling.BICUBIC)) for plane in planes]
    wanted = np.clip(np.stack(resized, -1) / WHITE[dtype], 0, 1)[:, ::-1]
    for order in ((0, 1, 2, 3), (3, 1, 2, 0)):  # brightness first, contrast first
        expected = wanted
        for operation in order[:2] if order[0] == 0 else (1, 0):
            expected = (brightness, contrast)[operation](expected, list(factors.values())[operation])
        box = {"y": 5, "x": 2, "height": 40, "width": 36, "flip": True, "jitter": True, "grayscale": True}
        parameters = NEUTRAL | box | factors | {"saturation": 3.0, "hue": 0.4, "order": JITTER_ORDERS.index(order)}
        found = host.render(RECIPE, pixels, parameters, bits=BITS).numpy()
        np.testing.assert_allclose(found, expected, atol=2e-4)
        columns = {
            name: np.array([value], bool if isinstance(value, bool) else np.float32)
            for name, value in parameters.items()
        }
        np.testing.assert_allclose(device.render(RECIPE, pixels[None], columns, BITS)[0], expected, atol=2e-4)


def test_twelve_bits_are_not_rounded_to_eight():
    levels = np.linspace(1000, 1015, 16).astype(np.uint16).reshape(4, 4, 1)  # one level of 8 bits
    identity = Recipe(4, min_area=1.0, min_aspect=1.0, max_aspect=1.0, **NEVER)
    views = host.two_views(identity, levels, 0, 0, 0, bits=BITS).numpy()
    np.testing.assert_allclose(np.unique(views), np.arange(1000, 1016) / 4095, atol=1e-6)


def test_views_of_ones_own_loop_have_as_many_channels():
    views = jax.jit(device.views, static_argnums=0, static_argnames="bits")
    assert views(Recipe(8, **COLOURLESS), image(2, "uint16")[None], bits=BITS).shape == (1, 2, 8, 8, 2)
    with pytest.raises(ValueError, match=r"2 channels have no colours for hue: give --config.augment.hue=0") as error:
        device.views(Recipe(8, **COLOURLESS | {"hue": 0.1}), image(2, "uint8")[None])
    assert_one_line(error)
    with pytest.raises(ValueError, match="uint8 .* or uint16 or float32, or have 1 to 32 channels"):
        device.views(Recipe(8), np.zeros((1, 9, 9, 3), np.int32))


def test_colour_operations_that_are_off_are_not_asked_for():
    Recipe(8, jitter_probability=0.0, grayscale_probability=0.0).check_channels(1)
    Recipe(8, jitter_strength=0.0, grayscale_probability=0.0).check_channels(5)
    Recipe(8).check_channels(3)
    with pytest.raises(ValueError, match="saturation=0 .*hue=0 .*grayscale_probability=0"):
        Recipe(8).check_channels(1)


def luma(colours):
    return colours @ np.array([0.2989, 0.587, 0.114])


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp", "tiff"])
def test_colours_become_grey_by_luma_and_what_is_grey_keeps_its_values(kind):
    options = {"lossless": True} if kind == "webp" else {}
    colours = encode(picture(20, 24), kind, **options)
    pixels = decode.whole(colours, channels=1).numpy()
    expected = luma(decode.whole(colours).numpy() / 255)  # Pillow's JPEG has other colours
    np.testing.assert_allclose(pixels[..., 0], expected, atol=1e-6)
    grey = encode(picture(20, 24)[..., 0], kind, "L", **options)
    found = decode.whole(grey, channels=1).numpy()
    np.testing.assert_array_equal(found[..., 0], decode.whole(grey).numpy()[..., 1] / np.float32(255))


@pytest.mark.parametrize("kind", ["png", "tiff"])
def test_sixteen_bits_of_one_channel_are_all_kept(kind):
    values = np.random.default_rng(0).integers(0, 5000, (7, 9)).astype(np.uint16)
    file = io.BytesIO()
    Image.fromarray(values).save(file, kind)
    pixels = decode.whole(file.getvalue(), BITS, 1).numpy()
    np.testing.assert_allclose(pixels[..., 0], np.minimum(values, 4095) / 4095, rtol=1e-6)  # brighter ones are white


def tiff(values, **options):
    file = io.BytesIO()
    tifffile.imwrite(file, values, **options)
    return file.getvalue()


@pytest.mark.parametrize("dtype", WHITE)
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("planes", ["contig", "separate", "pages"])
def test_a_tiff_of_five_channels_gives_its_values(dtype, order, planes):
    values = image(5, dtype, 10, 12).astype(np.dtype(dtype).newbyteorder(order))
    options = {} if planes == "pages" else {"photometric": "minisblack", "planarconfig": planes}
    stored = values if planes == "contig" else np.moveaxis(values, -1, 0)
    encoded = tiff(stored, byteorder=order, compression="zlib", **options)
    np.testing.assert_array_equal(bands.read(encoded, 5), values)
    pixels = decode.whole(encoded, BITS, 5).numpy()
    np.testing.assert_allclose(pixels, values.astype(np.float32) / np.float32(WHITE[dtype]), rtol=1e-6)


def test_a_float_tiff_of_one_channel_needs_no_tifffile():
    values = image(1, "float32", 10, 12)
    np.testing.assert_array_equal(decode.whole(tiff(values[..., 0]), channels=1), values)


BAD = {
    "3 channels": (
        tiff(np.zeros((8, 9, 3), np.uint8), photometric="rgb"),
        5,
        "3 channels of 8 × 9 .*channels=5; give ",
    ),
    "a JPEG": (encode(picture(8, 8), "jpeg"), 4, "a JPEG of 3 channels, and data.channels=4: only a TIFF has 4"),
    "int32": (
        tiff(np.zeros((8, 9, 5), np.int32), photometric="minisblack", planarconfig="contig"),
        5,
        "are int32; save",
    ),
    "two axes more": (tiff(np.zeros((2, 5, 8, 9), np.uint8)), 5, "are not height, width and channels"),
    "infinite": (tiff(np.full((5, 8, 9), np.inf, np.float32)), 5, r"not finite \(NaN or infinite\)"),
    "above 1": (tiff(np.full((5, 8, 9), 7, np.float32)), 5, r"values from 7 to 7; floats must lie in \[0, 1\]"),
    "five for one": (
        tiff(np.zeros((8, 9, 5), np.uint16), photometric="minisblack", planarconfig="contig"),
        1,
        "a TIFF of 5 channels of uint16; give --config.data.channels=5",
    ),
    "damaged": (tiff(np.zeros((5, 8, 9), np.uint8))[:90], 5, "corrupted IFD structure, 90 bytes"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_such_image_is_told_in_one_line(name):
    encoded, channels, mentions = BAD[name]
    with pytest.raises(ValueError, match=mentions) as error:
        decode.examine(encoded, channels)
    assert_one_line(error)
