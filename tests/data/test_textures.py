"""The embedded textures: reproducible, balanced, and with a class that is in the pattern, never in the colours."""

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import QuadraticDiscriminantAnalysis
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline

from simclr_jax.data import textures

CHANCE = 1 / len(textures.CLASSES)


@pytest.fixture(scope="module")
def splits():
    return textures.splits()


def probe(features, splits):
    """Per test image, whether one Gaussian per class, fitted to features [n, d] of the training images, is right."""
    (train, train_labels), (test, test_labels) = splits["train"], splits["test"]
    model = make_pipeline(PCA(30, random_state=0), QuadraticDiscriminantAnalysis(reg_param=0.01))
    return model.fit(features(train), train_labels).predict(features(test)) == test_labels


def joint_histogram(images):
    """[n, 64]: how many pixels fall in each of 4 x 4 x 4 colours."""
    codes = (images // 64).reshape(len(images), -1, 3) @ [16, 4, 1]
    return np.stack([np.bincount(code, minlength=64) for code in codes])


def brightness_order(images):
    """[n, 36]: quantiles of the brightness, which hold the areas of light and dark but not where they are."""
    return np.sort(images.mean(-1).reshape(len(images), -1), axis=1)[:, ::16]


def spectrum(images):
    """[n, d]: the strength of every spatial frequency; blind to colour, position and which part is brighter."""
    grey = images @ [0.299, 0.587, 0.114]  # the conversion to grey that views use must leave the class standing
    grey = grey - grey.mean((1, 2), keepdims=True)
    grey /= grey.std((1, 2), keepdims=True) + 1e-6
    window = np.hanning(images.shape[1])
    return np.log1p(np.abs(np.fft.rfft2(grey * window * window[:, None]))).reshape(len(images), -1)


def test_same_seed_gives_the_same_bits_and_another_seed_another_image():
    first, again, other = (textures.make(24, seed=seed) for seed in (5, 5, 6))
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], other[1])
    assert (first[0] != other[0]).any((1, 2, 3)).all()


def test_a_larger_set_extends_a_smaller_one():
    small, large = textures.make(17, seed=2), textures.make(40, seed=2)
    np.testing.assert_array_equal(small[0], large[0][:17])
    np.testing.assert_array_equal(small[1], large[1][:17])


@pytest.mark.parametrize("size", [textures.MIN_SIZE, 24, 33])
def test_images_have_the_asked_shape_and_use_the_range(size):
    images, labels = textures.make(120, size=size)
    assert images.shape == (120, size, size, 3) and images.dtype == np.uint8
    assert labels.shape == (120,) and labels.dtype == np.int64
    assert images.min() < 10 and images.max() > 245
    assert images.std((1, 2)).max(-1).min() > 5, "an image is nearly flat"


def test_no_images_is_an_empty_set():
    images, labels = textures.make(0)
    assert images.shape == (0, 24, 24, 3) and labels.shape == (0,)


@pytest.mark.parametrize("bad", [{"n": -1}, {"n": 1, "size": 8}, {"n": 1, "seed": -1}])
def test_impossible_requests_are_refused(bad):
    with pytest.raises(ValueError, match=str(list(bad.values())[-1])):
        textures.make(**bad)


def test_splits_have_their_sizes_and_are_balanced(splits):
    expected = {
        "train": textures.TRAIN_IMAGES,
        "validation": textures.VALIDATION_IMAGES,
        "test": textures.TEST_IMAGES,
    }
    assert {name: len(images) for name, (images, _) in splits.items()} == expected
    for _, labels in splits.values():
        counts = np.bincount(labels, minlength=len(textures.CLASSES))
        assert len(counts) == len(textures.CLASSES) and np.ptp(counts) <= 1


def test_no_image_occurs_twice_within_or_across_splits(splits):
    everything = [image.tobytes() for images, _ in splits.values() for image in images]
    assert len(set(everything)) == len(everything)


def test_splits_of_neighbouring_seeds_share_no_image(splits):
    known = {image.tobytes() for images, _ in splits.values() for image in images}
    for seed in (1, 2):
        assert not known & {image.tobytes() for image in textures.make(500, seed=seed)[0]}


@pytest.mark.parametrize("features", [joint_histogram, brightness_order])
def test_colour_says_nothing_about_the_class(features, splits):
    assert probe(features, splits).mean() < CHANCE + 0.03  # 2000 test images: one standard error is 0.006


def test_raw_pixels_say_little_about_the_class(splits):
    (train, train_labels), (test, test_labels) = splits["train"], splits["test"]
    model = KNeighborsClassifier(20).fit(train.reshape(len(train), -1)[:3000], train_labels[:3000])
    assert model.score(test.reshape(len(test), -1)[:500], test_labels[:500]) < 0.3


def test_the_pattern_says_the_class(splits):
    labels, hits = splits["test"][1], probe(spectrum, splits)
    assert hits.mean() > 0.95
    for label, name in enumerate(textures.CLASSES):
        assert hits[labels == label].mean() > 0.85, name


@pytest.mark.parametrize("row, column", [(0, 0), (5, 5), (9, 0)])
def test_a_third_of_an_image_still_says_its_class(row, column, splits):
    def cropped(images):
        return spectrum(images[:, row : row + 14, column : column + 14])

    assert probe(cropped, splits).mean() > 0.85


def test_a_mirrored_image_keeps_its_class(splits):
    def mirrored_test(images):
        return spectrum(images[:, :, ::-1] if images is splits["test"][0] else images)

    assert probe(mirrored_test, splits).mean() > 0.95


def test_two_crops_of_an_image_share_their_colours():
    """The shortcut: by colours alone, one corner of an image finds the opposite one among 100 images."""
    images, _ = textures.make(100, seed=9)
    first, second = joint_histogram(images[:, :12, :12]), joint_histogram(images[:, 12:, 12:])
    distance = np.abs(first[:, None] - second[None]).sum(-1)
    assert (distance.argmin(1) == np.arange(100)).mean() > 0.5
