"""Noise of views: normal, independent over pixels, channels, views, images and epochs; the same in any batch."""

import functools

import jax
import numpy as np
import pytest
from scipy import stats

from simclr_jax.augment import device, host
from simclr_jax.augment.recipe import Recipe
from support.oracles import NEVER

SIDE, IMAGES, DEVIATION = 32, 24, 0.08
RECIPE = Recipe(SIDE, **NEVER, noise_probability=1.0, noise_deviation=DEVIATION)
GRAY = np.full((IMAGES, 20, 20, 3), 128, np.uint8)  # six deviations from black and from white: nothing is clipped
Z = 4.5  # standard errors, as of the recipe's tests


@functools.cache
def on_device():
    return jax.jit(lambda images, epochs, ids: device.two_views(RECIPE, images, 5, epochs, ids))


def of_device(ids, epoch=2):
    return np.asarray(on_device()(GRAY[: len(ids)], np.full(len(ids), epoch), np.int32(ids)))


def of_host(ids, epoch=2):
    epochs = np.full(len(ids), epoch)
    return host.pairs_of_views(RECIPE, GRAY[: len(ids)], 5, epochs, np.int64(ids)).numpy()


@pytest.fixture(scope="module", name="noise", params=[of_host, of_device])
def make_noise(request):
    """In deviations, float64 [image, view, y, x, channel], of two epochs."""
    ids = np.arange(IMAGES) * 1000
    return np.concatenate([request.param(ids, epoch) - np.float64(128 / 255) for epoch in (2, 3)]) / DEVIATION


def test_it_is_normal(noise):
    n = noise.size
    assert abs(noise.mean()) < Z / np.sqrt(n) and abs(noise.var() - 1) < Z * np.sqrt(2 / n)
    assert abs(stats.skew(noise, None)) < Z * np.sqrt(6 / n) and abs(stats.kurtosis(noise, None)) < Z * np.sqrt(24 / n)
    assert stats.kstest(noise.ravel(), "norm").pvalue > 1e-4
    assert 4 < np.abs(noise).max() < 6


def test_it_is_independent_of_all_other_noise(noise):
    first, second = np.split(noise, 2)  # of one epoch and of the next
    pairs = {
        "y": (noise[:, :, 1:], noise[:, :, :-1]),
        "x": (noise[:, :, :, 1:], noise[:, :, :, :-1]),
        "two pixels on": (noise[:, :, :, 2:], noise[:, :, :, :-2]),
        "channel": (noise[..., 1:], noise[..., :-1]),
        "view": (noise[:, 0], noise[:, 1]),
        "image": (noise[1:], noise[:-1]),
        "epoch": (first, second),
    }
    for name, (one, other) in pairs.items():
        for power in (1, 2):  # of numbers that are not correlated, the squares may be
            found = np.corrcoef(one.ravel() ** power, other.ravel() ** power)[0, 1]
            assert abs(found) < Z / np.sqrt(one.size), (name, power)


def test_no_two_views_have_the_same(noise):
    fields = np.sort(noise.reshape(-1, SIDE * SIDE * 3), axis=1)  # in another order it would not be other noise
    assert len(np.unique(fields.round(6), axis=0)) == len(fields)


@pytest.mark.parametrize("make", [of_host, of_device])
def test_it_depends_on_the_image_and_not_on_what_is_made_with_it(make):
    ids = np.arange(12) + 7
    whole = make(ids)
    np.testing.assert_array_equal(make(ids), whole)
    np.testing.assert_array_equal(make(ids[::-1])[::-1], whole)
    np.testing.assert_allclose(make(ids[4:5]), whole[4:5], atol=1e-6)
