"""Small random images, and what a split holds of them."""

import os

import numpy as np
import pytest
import tensorflow as tf

REAL = os.environ.get("SIMCLR_TEST_DATA", "")
needs_real = pytest.mark.skipif(
    not REAL, reason="SIMCLR_TEST_DATA names no folder with cifar10.npz, tfds/ and imagewoof/"
)


def noise(n, *, side=5, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, side, side, 3), np.uint8)


def png(image):
    return tf.io.encode_png(image).numpy()


def decoded(split):
    """Pixels of a split of whatever kind."""
    if split.kind == "pixels":
        return split.images
    files = [tf.io.read_file(path) for path in split.images] if split.kind == "paths" else split.images
    return np.stack([tf.io.decode_image(file, channels=3).numpy() for file in files])


def rows(images, labels):
    """Images and labels as a sorted list that does not depend on their order."""
    return sorted((image.tobytes(), int(label)) for image, label in zip(images, labels, strict=True))


def assert_one_line(error):
    assert "\n" not in str(error.value)
