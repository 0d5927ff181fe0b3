"""Depthwise convolutions as they are written for a CPU, against sums that are written out."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax.models.cpu_depthwise import depthwise


def by_hand(x, kernel, gradient):
    """Values, dgrad and wgrad, float64, a tap at a time."""
    x, kernel, gradient = (np.asarray(of, np.float64) for of in (x, kernel, gradient))
    side, (height, width) = len(kernel), x.shape[1:3]
    pad = side // 2
    around = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    value, to_around, to_kernel = np.zeros(x.shape), np.zeros(around.shape), np.zeros(kernel.shape)
    for i, j in itertools.product(range(side), repeat=2):
        seen = np.s_[:, i : i + height, j : j + width]
        value += around[seen] * kernel[i, j, 0]
        to_around[seen] += gradient * kernel[i, j, 0]
        to_kernel[i, j, 0] = (around[seen] * gradient).sum((0, 1, 2))
    return value, to_around[:, pad : pad + height, pad : pad + width], to_kernel


@pytest.mark.parametrize(("shape", "side"), [((3, 5, 8, 4), 7), ((2, 2, 1, 3), 7), ((1, 6, 4, 2), 3)])
@pytest.mark.parametrize("dtype", ("float32", "bfloat16"))
def test_values_and_gradients_are_those_of_sums_written_out(shape, side, dtype):
    rng = np.random.default_rng(0)
    x, gradient = (jnp.asarray(rng.normal(size=shape), dtype) for _ in range(2))
    kernel = jnp.asarray(rng.normal(size=(side, side, 1, shape[-1])), dtype)

    @jax.jit
    def all_three(x, kernel, gradient):
        value, pull_back = jax.vjp(depthwise, x, kernel)
        return value, *pull_back(gradient)

    got = all_three(x, kernel, gradient)
    assert {of.dtype for of in got} == {jnp.dtype(dtype)}
    for ours, wanted in zip(got, by_hand(x, kernel, gradient), strict=True):
        # Of bfloat16 each is rounded once, by half of 2^-8.
        tolerance = {"float32": 1e-5, "bfloat16": 2**-8}[dtype] * np.abs(wanted).max()
        np.testing.assert_allclose(np.asarray(ours, np.float64), wanted, rtol=0, atol=tolerance)
