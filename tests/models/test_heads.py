"""Projection heads against their formula in NumPy: layers, widths, norms and types."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax.models import Head, Network, ProjectionHead
from support.numpy_resnet import NumpyResNet
from support.variables import random_variables, variable_shapes


def projection_head(**settings):
    return ProjectionHead(Network(head=Head(**settings)))


def numpy_head(variables, h, layers, train):
    """[h, layer 1 after ReLU, ..., z] and the new running statistics."""
    by_hand = NumpyResNet(variables, train)
    hiddens = [np.asarray(h, np.float64)]
    for i in range(1, layers + 1):
        x = hiddens[-1] @ by_hand.params[f"dense{i}"]["kernel"]
        x = by_hand.norm(x, by_hand.params[f"norm{i}"], by_hand.running[f"norm{i}"])
        hiddens.append(x if i == layers else np.maximum(x, 0))
    return hiddens, by_hand.running


@pytest.mark.parametrize(("kind", "layers", "depth"), [("nonlinear", 3, 3), ("nonlinear", 2, 2), ("linear", 2, 1)])
def test_head_equals_numpy(kind, layers, depth):
    h = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)
    head = projection_head(kind=kind, layers=layers, dim=4)
    variables = random_variables(head, h)
    hiddens, updates = jax.jit(functools.partial(head.apply, train=True, mutable=["batch_stats"]))(variables, h)
    want, running = numpy_head(variables, h, depth, train=True)
    check = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    jax.tree.map(check, (hiddens, updates["batch_stats"]), (want, running))
    assert [x.shape for x in hiddens] == [(6, 5)] * depth + [(6, 4)]
    jax.tree.map(check, head.apply(variables, h, train=False), numpy_head(variables, h, depth, train=False)[0])


def test_head_parameters():
    h = jnp.ones((2, 64))
    found = jax.jit(functools.partial(projection_head(layers=3).init, train=False))(jax.random.key(0), h)["params"]
    params = {f"{layer}/{name}": leaf for layer, leaves in found.items() for name, leaf in leaves.items()}
    shapes = {path: leaf.shape for path, leaf in params.items()}
    kernels = {"dense1/kernel": (64, 64), "dense2/kernel": (64, 64), "dense3/kernel": (64, 128)}
    scales = {"norm1/scale": (64,), "norm2/scale": (64,), "norm3/scale": (128,)}
    assert shapes == kernels | scales | {"norm1/bias": (64,), "norm2/bias": (64,)}
    for i in (1, 2, 3):
        np.testing.assert_allclose(np.std(params[f"dense{i}/kernel"]), 0.01, rtol=0.05)
        np.testing.assert_array_equal(params[f"norm{i}/scale"], 1.0)


@pytest.mark.parametrize("norm", (True, False))
def test_a_head_of_another_width_with_and_without_norms_is_its_formula(norm):
    h = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)
    head = projection_head(layers=3, dim=4, hidden_dim=7, norm=norm)
    variables = random_variables(head, h)
    params, stats = variables["params"], variables.get("batch_stats", {})
    assert bool(stats) == norm and all(("bias" in params[f"dense{i}"]) != norm for i in (1, 2, 3))
    want, x = [h], h.astype(np.float64)
    for i, width in ((1, 7), (2, 7), (3, 4)):
        x = x @ params[f"dense{i}"]["kernel"]
        assert x.shape == (6, width)
        if norm:
            mean, var = stats[f"norm{i}"]["mean"], stats[f"norm{i}"]["var"]
            x = (x - mean) / np.sqrt(var + 1e-5) * params[f"norm{i}"]["scale"] + params[f"norm{i}"].get("bias", 0)
        else:
            x = x + params[f"dense{i}"]["bias"]
        x = np.maximum(x, 0) if i < 3 else x
        want.append(x)
    got = head.apply(variables, h, train=False)
    assert [layer.dtype for layer in got] == [jnp.float32] * 4
    for layer, wanted in zip(got, want, strict=True):
        np.testing.assert_allclose(layer, wanted, rtol=1e-4, atol=1e-5)
    low = ProjectionHead(Network(dtype="bfloat16", head=head.network.head))
    assert [layer.dtype for layer in low.apply(variables, h, train=False)] == [jnp.float32] * 4


def test_a_linear_head_is_a_nonlinear_one_of_one_layer():
    h = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)
    linear, nonlinear = projection_head(kind="linear", layers=2), projection_head(kind="nonlinear", layers=1)
    assert variable_shapes(linear, h) == variable_shapes(nonlinear, h)
    variables = random_variables(linear, h)
    z, other = (head.apply(variables, h, train=False)[-1] for head in (linear, nonlinear))
    np.testing.assert_array_equal(z, other)


def test_no_head_hands_h_on_and_has_no_parameters():
    h = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)
    hiddens, variables = projection_head(kind="none").init_with_output(jax.random.key(0), h, train=True)
    assert len(hiddens) == 1 and hiddens[0] is h and not variables


def test_a_bfloat16_head_multiplies_in_bfloat16_and_returns_float32():
    h = np.random.default_rng(0).normal(size=(6, 64)).astype(np.float32)
    head = ProjectionHead(Network(dtype="bfloat16"))
    variables = random_variables(head, h)
    hiddens = head.apply(variables, h, train=False)
    assert {x.dtype for x in jax.tree.leaves((variables, hiddens))} == {jnp.dtype("float32")}
    exact = projection_head(layers=2).apply(variables, h, train=False)
    np.testing.assert_allclose(hiddens[-1], exact[-1], rtol=0.05, atol=0.5)
    assert not np.array_equal(hiddens[-1], exact[-1])
    assert np.any(hiddens[-1] != hiddens[-1].astype(jnp.bfloat16).astype(jnp.float32))
