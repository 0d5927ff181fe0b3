"""The stem's max-pool is lax's: its values bit for bit, and its gradient, ties and numbers that are none included."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax.models.max_pool import max_pool

PADDINGS = ("SAME", ((1, 1), (1, 1)))
SHAPES = ((2, 8, 8, 3), (2, 7, 10, 3), (1, 3, 3, 2), (2, 1, 2, 1))


def of_lax(x, padding):
    return nn.max_pool(x, (3, 3), strides=(2, 2), padding=padding)


def numbers(kind, shape):
    rng = np.random.default_rng(0)
    x = rng.normal(size=shape).astype(np.float32)
    if kind == "distinct":
        return x
    x = np.maximum(np.round(2 * x), 0)  # as behind a ReLU, where most windows hold their maximum several times
    if kind == "infinite":
        x[:, :, : shape[2] // 2 + 1] = -np.inf
    if kind == "nan":
        x[rng.random(shape) < 0.1] = np.nan
    return x


@pytest.mark.parametrize("kind", ("distinct", "ties", "infinite", "nan"))
@pytest.mark.parametrize("dtype", ("float32", "bfloat16"))
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_gradient_are_those_of_lax(shape, padding, dtype, kind):
    x = jnp.asarray(numbers(kind, shape), dtype)
    # Whole numbers, whose sums both dtypes hold.
    gradient = np.random.default_rng(1).integers(-8, 9, (shape[0], -(-shape[1] // 2), -(-shape[2] // 2), shape[3]))

    @functools.partial(jax.jit, static_argnums=0)
    def value_and_gradient(pool, x):
        value, pull = jax.vjp(lambda x: pool(x, padding), x)
        return value, pool(x, padding), *pull(jnp.asarray(gradient, dtype))

    for got, want in zip(value_and_gradient(max_pool, x), value_and_gradient(of_lax, x), strict=True):
        assert got.dtype == want.dtype
        np.testing.assert_array_equal(got.astype(jnp.float32), want.astype(jnp.float32))


def test_its_program_scatters_nothing():
    x = jnp.zeros((1, 8, 8, 2))
    program = jax.jit(jax.grad(lambda x: max_pool(x, "SAME").sum())).lower(x).as_text()
    assert "scatter" not in program and "reduce_window" not in program


@pytest.mark.parametrize(("platform", "of_its_own"), [("tpu", True), ("cuda", False), ("cpu", False)])
def test_a_tpu_keeps_its_own_form_of_the_gradient(platform, of_its_own):
    gradient = jax.jit(jax.grad(lambda x: max_pool(x, "SAME").sum()))
    text = (
        gradient.trace(jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32)).lower(lowering_platforms=(platform,)).as_text()
    )
    assert ("select_and_scatter" in text) == of_its_own
