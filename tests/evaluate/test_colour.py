"""How far colour goes, against loops and against images whose colours are known."""

import numpy as np

from simclr_jax.evaluate import colour

RNG = np.random.default_rng(0)


def test_histograms_by_numpy():
    images = RNG.random((3, 5, 4, 3)).astype(np.float32)
    images[0, 0, 0], images[0, 0, 1] = 0, 1
    found = colour.histograms(images)
    for image, row in zip(images, found, strict=True):
        want = [np.histogram(image[..., c], colour.BINS, (0, 1))[0] / 20 for c in range(3)]
        np.testing.assert_allclose(row, np.concatenate(want))


def test_views_with_their_image_s_colours_are_found_and_others_are_not():
    colours = RNG.random((64, 1, 1, 3))
    first, second = (np.clip(colours + RNG.normal(0, 0.05, (64, 6, 6, 3)), 0, 1) for _ in range(2))
    assert colour.matching_top1(first, second) > 0.8
    assert colour.matching_top1(first, np.roll(second, 1, axis=0)) < 0.1
    noise = RNG.random((2, 64, 6, 6, 3))
    assert colour.matching_top1(*noise) < 0.1


def test_explained_is_one_where_colour_is_a_linear_part_of_the_features_and_nothing_where_it_is_not():
    colours = RNG.random((400, 3))
    h = np.hstack([colours @ RNG.normal(size=(3, 5)), RNG.normal(size=(400, 3))])
    assert colour.explained((h[:300], colours[:300]), (h[300:], colours[300:])) > 0.99
    other = RNG.normal(size=(400, 8))
    assert colour.explained((other[:300], colours[:300]), (other[300:], colours[300:])) < 0.05
