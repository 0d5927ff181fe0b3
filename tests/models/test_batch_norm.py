"""BatchNorm with its own gradient against flax's, whose gradient jax finds, and against float64."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax.models import batch_norm
from simclr_jax.models.batch_norm import BatchNorm

HOW = {"momentum": 0.9, "epsilon": 1e-5}
SHAPES = ((8, 5, 4, 6), (16, 6))
AXIS = "batch"


def case(shape, mean=1.0, deviation=2.0):
    rng = np.random.default_rng(0)
    x = (mean + deviation * rng.normal(size=shape)).astype(np.float32)
    channels = shape[-1:]
    params = {"scale": rng.uniform(0.5, 2, channels).astype(np.float32)}
    params["bias"] = rng.normal(size=channels).astype(np.float32)
    stats = {
        "mean": rng.normal(size=channels).astype(np.float32),
        "var": rng.uniform(1, 2, channels).astype(np.float32),
    }
    return x, params, stats, rng.normal(size=shape).astype(np.float32)


def outcome(module, x, params, stats, weights):
    """Output, next statistics, and the gradients of a weighted sum of its squares, which depends on every output."""

    def loss(x, params):
        y, updates = module.apply({"params": params, "batch_stats": stats}, x, mutable=["batch_stats"])
        wide = y.astype(jnp.float32)
        return (weights * wide * wide).sum(), (y, updates)

    gradients, rest = jax.grad(loss, (0, 1), has_aux=True)(x, params)
    return *rest, *gradients


def assert_close(got, want, rtol=1e-4, atol=1e-4):
    assert jax.tree.structure(got) == jax.tree.structure(want)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=rtol, atol=atol), got, want)


@pytest.mark.parametrize("use_bias", (True, False))
@pytest.mark.parametrize("shape", SHAPES)
def test_it_is_that_of_flax(shape, use_bias):
    x, params, stats, weights = case(shape)
    if not use_bias:
        del params["bias"]
    got, want = (
        jax.jit(functools.partial(outcome, of(use_running_average=False, use_bias=use_bias, **HOW)))(
            x, params, stats, weights
        )
        for of in (BatchNorm, nn.BatchNorm)
    )
    assert_close(got, want)


@pytest.mark.parametrize(
    ("shape", "cached"),  # shapes of their own: jax keeps what it traced for a shape
    [((8, 3, 7, 6), 0), ((24, 6), 0), ((8, 7, 3, 6), 2**24), ((32, 6), 2**24)],
)
def test_the_form_of_gpus_is_that_of_flax(shape, cached, monkeypatch):
    monkeypatch.setattr(batch_norm, "_CACHED", cached)
    monkeypatch.setattr(batch_norm, "sums_elsewhere", batch_norm.sums_on_gpu)
    test_it_is_that_of_flax(shape, use_bias=True)


@pytest.mark.parametrize("form", ("sums_on_gpu", "sums_elsewhere"))
def test_sums_are_those_of_float64(form, monkeypatch):
    monkeypatch.setattr(batch_norm, "_CACHED", 2**16)
    for side in (4, 64):  # the cache holds the first
        a, b = np.random.default_rng(side).normal(1, 2, (2, 16, side, side, 8)).astype(np.float32)
        got = jax.jit(getattr(batch_norm, form))(a, b)
        want = [x.astype(np.float64).sum((0, 1, 2)) for x in (a, b)]
        np.testing.assert_allclose(got, want, rtol=1e-5)


def test_a_gpu_sums_large_arrays_as_one_complex_number():
    x = jax.ShapeDtypeStruct((2, 3000, 3000, 1), np.float32)
    for platform, expected in (("cuda", True), ("cpu", False), ("tpu", False)):
        text = jax.jit(batch_norm._sums_of_channels).trace(x, x).lower(lowering_platforms=(platform,)).as_text()
        assert ("complex<f32>" in text) is expected, platform


def test_variables_and_evaluation_are_those_of_flax():
    x, params, stats, _ = case(SHAPES[0])
    ours, flax = (of(use_running_average=True, **HOW) for of in (BatchNorm, nn.BatchNorm))
    assert_close(ours.init(jax.random.key(0), x), flax.init(jax.random.key(0), x))
    variables = {"params": params, "batch_stats": stats}
    np.testing.assert_allclose(ours.apply(variables, x), flax.apply(variables, x), rtol=1e-6, atol=1e-6)


def test_devices_give_what_flax_gives_for_the_whole_batch():
    x, params, stats, weights = case(SHAPES[0])
    want = outcome(nn.BatchNorm(use_running_average=False, **HOW), x, params, stats, weights)
    step = functools.partial(outcome, BatchNorm(use_running_average=False, axis_name=AXIS, **HOW))
    y, updates, to_x, to_params = jax.pmap(step, AXIS, in_axes=(0, None, None, 0), devices=jax.local_devices()[:4])(
        x.reshape(4, 2, *x.shape[1:]), params, stats, weights.reshape(4, 2, *x.shape[1:])
    )
    whole = y.reshape(x.shape), jax.tree.map(lambda of: of[0], updates), to_x.reshape(x.shape)
    assert_close((*whole, jax.tree.map(lambda of: of.sum(0), to_params)), want)


def test_bfloat16_is_rounded_once():
    x, params, stats, weights = case(SHAPES[0])
    x = jnp.asarray(x, jnp.bfloat16)
    got, want = (
        outcome(BatchNorm(use_running_average=False, dtype=dtype, **HOW), x.astype(dtype), params, stats, weights)
        for dtype in ("bfloat16", "float32")
    )
    # Half a unit in the last place of the output, and of its gradient, whose error a later sum does not add up.
    assert_close(jax.tree.map(lambda of: of.astype(jnp.float32), got), want, rtol=2**-7, atol=0.05)


def test_a_channel_without_variance_gets_no_gradient_from_its_variance():
    """Rounding leaves a variance below nothing, which is raised to 0, and depends on nothing."""
    x, params, stats, weights = case((2, 200), mean=3e3, deviation=1e-3)  # of two rows the sums have one order only
    raised = np.square(x).mean(0) < np.square(x.mean(0))
    assert raised.sum() > 20
    ours, flax = (
        outcome(of(use_running_average=False, **HOW), jnp.asarray(x), params, stats, weights)
        for of in (BatchNorm, nn.BatchNorm)
    )
    np.testing.assert_array_equal((ours[1]["batch_stats"]["var"] == flax[1]["batch_stats"]["var"])[raised], True)
    np.testing.assert_allclose(ours[2][:, raised], flax[2][:, raised], rtol=1e-3, atol=1e-2)
