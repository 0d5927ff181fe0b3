"""Encoded images, and the two ways in which they are decoded: at once, and in the graph of a pipeline."""

import functools
import io

import pytest
import tensorflow as tf

from simclr_jax.augment import decode


def saved(image, kind, **options):
    """Pillow's image, as a file's bytes."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def eager(encoded, bits=16):
    return decode.whole(tf.constant(encoded), bits).numpy()


def mapped(encoded, bits=16):
    """As the pipeline decodes."""
    return _compiled(bits)(encoded).numpy()


@functools.cache
def _compiled(bits):
    signature = [tf.TensorSpec([], tf.string)]
    return tf.function(lambda encoded: decode.whole(encoded, bits), input_signature=signature, autograph=False)


both = pytest.mark.parametrize("pixels_of", [eager, mapped])
