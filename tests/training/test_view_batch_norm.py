"""Each view with BatchNorm statistics of its own: a network of one BatchNorm and one layer, against NumPy by hand."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from simclr_jax.models import Network, SimCLR, create_model
from simclr_jax.models.norms import norm_layer
from simclr_jax.runtime import devices
from simclr_jax.training import gradients as passes

IMAGES, SIDE, Z = 16, 2, 3
AXIS = devices.AXIS


class Pixels(nn.Module):
    axis_name: str | None = None

    @nn.compact
    def __call__(self, images, train):
        return norm_layer("batch", train=train, axis_name=self.axis_name)(name="norm")(images.mean((1, 2)))


class Layer(nn.Module):
    @nn.compact
    def __call__(self, h, train):
        return [h, nn.Dense(Z, use_bias=False, name="dense")(h)]


def model_of(axis_name=None, view_batch_norm=True):
    return SimCLR(Pixels(axis_name), Layer(), view_batch_norm)


RNG = np.random.default_rng(0)
VIEWS = np.float32(RNG.uniform(size=(IMAGES, 2, SIDE, SIDE, 3)) * np.array([1.0, 3.0]).reshape(2, 1, 1, 1))
BATCH = {"views": VIEWS, "labels": np.arange(IMAGES, dtype=np.int32)}
KERNEL, SCALE, BIAS = (np.float32(RNG.normal(size=shape)) for shape in ((3, Z), 3, 3))
PARAMS = {"encoder": {"norm": {"scale": SCALE, "bias": BIAS}}, "head": {"dense": {"kernel": KERNEL}}}
STATS = {"encoder": {"norm": {"mean": np.float32([0.1, 0.2, 0.3]), "var": np.float32([1.0, 2.0, 3.0])}}}
WEIGHTS = RNG.normal(size=(2, IMAGES, Z))


def loss(z1, z2, labels):
    """Of no two images together, so that the loss of a batch is the sum of what its parts give."""
    rows = z1.shape[0]
    first = lax.axis_index(AXIS) * rows if rows < IMAGES else 0
    w1, w2 = (lax.dynamic_slice_in_dim(jnp.float32(w), first, rows) for w in WEIGHTS)
    return jnp.sum(w1 * jnp.sin(z1) + w2 * jnp.sin(z2)), {}


def by_hand(parts=1):
    """h, z of each view, the running statistics and the gradient of the kernel: each part of each view by itself."""
    mean, var = (np.float64(STATS["encoder"]["norm"][name]) for name in ("mean", "var"))
    h, running, gradient = [], {"mean": mean, "var": var}, 0.0
    for view in range(2):
        pixels = np.float64(VIEWS[:, view].mean((1, 2))).reshape(parts, -1, 3)
        of_parts = {"mean": pixels.mean(1), "var": pixels.var(1)}
        running = {name: 0.9 * running[name] + 0.1 * of_parts[name].mean(0) for name in running}
        normal = (pixels - of_parts["mean"][:, None]) / np.sqrt(of_parts["var"][:, None] + 1e-5)
        h.append((normal * SCALE + BIAS).reshape(IMAGES, 3))
        gradient = gradient + h[-1].T @ (WEIGHTS[view] * np.cos(h[-1] @ KERNEL))
    return np.concatenate(h), np.concatenate(h) @ KERNEL, running, gradient


def check(result, gradients, want):
    h, _, running, gradient = want
    np.testing.assert_allclose(result.h, h, rtol=1e-4, atol=1e-4)
    for name, value in running.items():
        np.testing.assert_allclose(result.batch_stats["encoder"]["norm"][name], value, rtol=1e-5, err_msg=name)
    np.testing.assert_allclose(gradients["head"]["dense"]["kernel"], gradient, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("parts", (1, 2))
def test_each_view_passes_by_itself_and_the_running_statistics_move_by_one_after_the_other(parts):
    how = {"views_of": lambda batch: batch, "model": model_of(), "loss": loss}
    passing = functools.partial(passes.in_micro_batches, count=parts) if parts > 1 else passes.in_one_pass
    result, gradients = jax.jit(functools.partial(passing, **how))(PARAMS, STATS, BATCH)
    want = by_hand(parts)
    check(result, gradients, want)
    z = want[1].reshape(2, IMAGES, Z)
    np.testing.assert_allclose(result.loss, np.sum(WEIGHTS * np.sin(z)), rtol=1e-3)


def test_on_devices_the_statistics_of_a_view_are_those_of_all_devices():
    count = 4

    def step(variables, batch):
        how = {"views_of": lambda batch: batch, "model": model_of(AXIS), "loss": loss}
        result, gradients = passes.in_one_pass(*variables, batch, **how)
        return result._replace(batch_stats=lax.pmean(result.batch_stats, AXIS)), lax.psum(gradients, AXIS)

    local = jax.local_devices()[:count]
    mapped = jax.pmap(step, AXIS, in_axes=(None, 0), devices=local)
    result, gradients = mapped((PARAMS, STATS), devices.shard(BATCH, local))
    h = np.asarray(result.h).reshape(count, 2, IMAGES // count, 3).swapaxes(0, 1).reshape(2 * IMAGES, 3)
    first = functools.partial(jax.tree.map, lambda x: x[0])
    check(result._replace(h=h, batch_stats=first(result.batch_stats)), first(gradients), by_hand())


def test_by_default_both_views_pass_together():
    how = {"views_of": lambda batch: batch, "model": model_of(view_batch_norm=False), "loss": loss}
    result, _ = jax.jit(functools.partial(passes.in_one_pass, **how))(PARAMS, STATS, BATCH)
    pixels = np.float64(VIEWS.mean((2, 3))).swapaxes(0, 1).reshape(2 * IMAGES, 3)
    np.testing.assert_allclose(result.h, (pixels - pixels.mean(0)) / pixels.std(0) * SCALE + BIAS, rtol=1e-3, atol=1e-3)
    assert not create_model(Network()).view_batch_norm and create_model(Network(view_batch_norm=True)).view_batch_norm
