"""Weights for images of another size or number of channels, against a loop by hand and Pillow's resizing."""

import numpy as np
import pytest
from PIL import Image

from simclr_jax.models import fitting

KERNEL, POSITIONS = "params/encoder/stem_conv/kernel", "params/encoder/stem_positions"


def drawn(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize(("old", "new"), [(3, 1), (5, 1), (3, 2), (3, 4), (3, 7), (1, 3), (4, 3)])
def test_a_kernel_gets_the_channels_of_the_old_one_in_turn(old, new):
    kernel = drawn(2, 3, old, 4)
    found = fitting.adapted(KERNEL, kernel, (2, 3, new, 4))
    assert found.shape == (2, 3, new, 4) and found.dtype == np.float32
    for channel in range(new):
        wanted = sum(kernel[:, :, c] for c in range(old)) if new == 1 else kernel[:, :, channel % old] * old / new
        np.testing.assert_allclose(found[:, :, channel], wanted, rtol=1e-6, atol=1e-6)


def test_the_stem_of_selective_kernels_has_its_first_layer_adapted_and_no_other():
    assert fitting.adapted(KERNEL.replace("conv", "conv1"), drawn(3, 3, 3, 8), (3, 3, 6, 8)).shape == (3, 3, 6, 8)
    kernel = drawn(3, 3, 3, 8)
    for path in (KERNEL.replace("conv", "conv2"), "params/encoder/stage1_block1/conv1/kernel", "params/head/x/kernel"):
        assert fitting.adapted(path, kernel, (3, 3, 6, 8)) is kernel


@pytest.mark.parametrize(("old", "new"), [(7, 4), (4, 10), (3, 1)])
def test_positions_are_resized_as_pillow_resizes_pictures(old, new):
    positions = drawn(1, 1 + old**2, 3)
    found = fitting.adapted(POSITIONS, positions, (1, 1 + new**2, 3))
    np.testing.assert_array_equal(found[:, 0], positions[:, 0])
    for number in range(3):
        grid = Image.fromarray(positions[0, 1:, number].reshape(old, old))
        wanted = np.asarray(grid.resize((new, new), Image.Resampling.BICUBIC))
        np.testing.assert_allclose(found[0, 1:, number].reshape(new, new), wanted, atol=2e-6)


@pytest.mark.parametrize(
    ("path", "have", "wanted"),
    [
        (KERNEL, (3, 3, 3, 8), (7, 7, 1, 8)),
        (KERNEL, (3, 3, 3, 8), (3, 3, 1, 16)),
        (KERNEL, (3, 3, 3, 8), (27, 8)),
        (POSITIONS, (1, 10, 4), (1, 17, 8)),
        (POSITIONS, (1, 11, 4), (1, 17, 4)),
        (POSITIONS, (1, 10, 4), (1, 16, 4)),
        (POSITIONS, (1, 1, 4), (1, 17, 4)),
        ("params/encoder/block1/fc1/kernel", (4, 16), (4, 8)),
    ],
)
def test_nothing_else_is_adapted(path, have, wanted):
    array = drawn(*have)
    assert fitting.adapted(path, array, wanted) is array
