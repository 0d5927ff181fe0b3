"""Test images, and what Pillow and scikit-image make of them: oracles for the tests of views."""

import io

import numpy as np
from PIL import Image
from scipy import ndimage
from skimage import color

from simclr_jax.augment.recipe import Recipe

SIZE = 40  # of the views: the smallest with a kernel of 5 taps, so that one program compiles for all tests
COINS = ("flip", "jitter", "grayscale", "blur")
NEUTRAL = dict.fromkeys(COINS, False) | {"brightness": 1.0, "contrast": 1.0, "saturation": 1.0, "hue": 0.0}
NEUTRAL |= {"order": 0, "sigma": 1.0, "solarize": False, "noise": 0.0, "noise_key_1": 5.0, "noise_key_2": 2.0**22 + 1}
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
