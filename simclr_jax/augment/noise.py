"""Random bits of a view's pixels, the same wherever the view is made: a hash of the view's key and a value's number.

A library's own generator would give other numbers in TensorFlow than in jax, and for another order of pixels. Written
in the arithmetic that NumPy, jax.numpy and TensorFlow spell alike; turning bits to a normal number is left to them.
"""

from typing import Any

import numpy as np

_STEP, _HALF = np.float32(2.0**-23), np.float32(2.0**23 - 0.5)


def bits(key: tuple[Any, Any], numbers: Any) -> Any:
    """Returns 24 random bits for each number.

    Args:
      key: two arrays, uint32, which numbers broadcast with.
      numbers: uint32, a value's place in its view: (y · width + x) · channels + channel.
    """
    first, second = key
    return _mixed(_mixed(numbers ^ _mixed(first)) ^ second) // np.uint32(2**8)


def centred(of_bits: Any) -> Any:
    """Returns `bits`, given as float32, as numbers above -1 and below 1, equally far apart; nothing is rounded."""
    return (of_bits - _HALF) * _STEP


def _mixed(x: Any) -> Any:
    """Each bit of the result depends on all of x: lowbias32 of Wellons 2018, "Prospecting for Hash Functions"."""
    x = (x ^ (x // np.uint32(2**16))) * np.uint32(0x7FEB352D)
    x = (x ^ (x // np.uint32(2**15))) * np.uint32(0x846CA68B)
    return x ^ (x // np.uint32(2**16))
