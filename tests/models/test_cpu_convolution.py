"""The convolutions for CPUs, and their gradients, are lax's, for every kernel that an encoder uses."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from simclr_jax.models import cpu_convolution as convolution
from simclr_jax.models import create_encoder
from simclr_jax.models.cpu_convolution import convolve

OPERATIONS = ("stablehlo.convolution", "stablehlo.dot_general", "stablehlo.while")


def plain(x, kernel, stride, pad):
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), [(pad, pad)] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


@pytest.mark.parametrize(("images", "side"), [(3, 8), (3, 9), (24, 8)])  # one group of images, and three of 8
@pytest.mark.parametrize(("kernel_side", "stride"), [(1, 1), (1, 2), (3, 1), (3, 2), (7, 2)])
def test_value_and_gradient_are_those_of_lax(kernel_side, stride, images, side, monkeypatch):
    monkeypatch.setattr(convolution, "_CACHE", 0)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(images, side, side, 5)).astype(np.float32)
    kernel = rng.normal(size=(kernel_side, kernel_side, 5, 4)).astype(np.float32)

    def objective(convolve, x, kernel):
        return jnp.sum(jnp.sin(convolve(x, kernel, stride, (kernel_side - 1) // 2)))

    got, want = (
        jax.value_and_grad(functools.partial(objective, function), argnums=(0, 1))(x, kernel)
        for function in (convolve, plain)
    )
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4), got, want)


def by_loops(x, kernel, stride, pad):
    """Value and gradients of sum(value · seed) by the definition, one product at a time, in float64."""
    (n, height, width, _), (k, _, _, outputs) = x.shape, kernel.shape
    rows, columns = ((side + 2 * pad - k) // stride + 1 for side in (height, width))
    value, seed = np.zeros((n, rows, columns, outputs)), np.cos(np.arange(n * rows * columns * outputs))
    seed = seed.reshape(value.shape)
    of_x, of_kernel = np.zeros(x.shape), np.zeros(kernel.shape)
    for i, j, a, b in np.ndindex(rows, columns, k, k):
        row, column = i * stride + a - pad, j * stride + b - pad
        if 0 <= row < height and 0 <= column < width:
            value[:, i, j] += x[:, row, column] @ kernel[a, b]
            of_x[:, row, column] += seed[:, i, j] @ kernel[a, b].T
            of_kernel[a, b] += x[:, row, column].T @ seed[:, i, j]
    return seed, [value, of_x, of_kernel]


@pytest.mark.parametrize("sides", [*((side, side) for side in range(1, 8)), (1, 2), (2, 1), (2, 4), (3, 2), (1, 7)])
@pytest.mark.parametrize(("kernel_side", "stride"), [(3, 1), (3, 2), (7, 2)])
def test_images_of_few_pixels(kernel_side, stride, sides):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(5, *sides, 6)).astype(np.float32)
    kernel = rng.normal(size=(kernel_side, kernel_side, 6, 7)).astype(np.float32)
    pad = (kernel_side - 1) // 2
    seed, want = by_loops(x, kernel, stride, pad)

    @jax.jit
    def step(x, kernel, seed):
        value, pull = jax.vjp(lambda x, kernel: convolve(x, kernel, stride, pad), x, kernel)
        return [convolve(x, kernel, stride, pad), value, *pull(seed)]  # the first where nothing is differentiated

    for got, expected in zip(step(x, kernel, seed.astype(np.float32)), [want[0], *want], strict=True):
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("sides", [(1, 1), (2, 2), (2, 4)])
def test_images_of_fewer_pixels_than_a_kernel_has_taps_take_products_of_matrices(sides):
    """XLA would let image and kernel change places, into a form that it has no fast one for."""
    x, kernel = jnp.zeros((4, *sides, 64)), jnp.zeros((3, 3, 64, 64))

    def step(x, kernel):
        value, pull = jax.vjp(lambda x, kernel: convolve(x, kernel, 1, 1), x, kernel)
        return value, *pull(jnp.sin(value))

    for program in (step, lambda x, kernel: convolve(x, kernel, 1, 1)):
        text = jax.jit(program).lower(x, kernel).compile().as_text()
        assert " convolution(" not in text and " dot(" in text
    assert " convolution(" in jax.jit(lambda x, kernel: plain(x, kernel, 1, 1)).lower(x, kernel).compile().as_text()


@pytest.mark.parametrize(
    ("inputs", "outputs", "sides", "images"),
    [
        (64, 128, (10, 6), 6),  # two groups of 3
        (128, 64, (4, 4), 1),
        (640, 64, (4, 4), 6),  # too many
        (32, 64, (4, 4), 6),  # too few
        (64, 64, (8, 7), 6),  # Winograd's tiles would reach beyond
    ],
)
def test_many_channels(inputs, outputs, sides, images, monkeypatch):
    monkeypatch.setattr(convolution, "_CACHE", 0)
    monkeypatch.setattr(convolution, "_LEAST", 3)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(images, *sides, inputs)).astype(np.float32)
    kernel = rng.normal(size=(3, 3, inputs, outputs)).astype(np.float32) / np.sqrt(9 * inputs).astype(np.float32)
    gradient = rng.normal(size=(images, *sides, outputs)).astype(np.float32)
    got, want = (
        [value, *pull(gradient)]
        for value, pull in (jax.vjp(lambda x, k, f=f: f(x, k, 1, 1), x, kernel) for f in (convolve, plain))
    )
    for a, b in zip(got, want, strict=True):  # a few roundings of sums of some hundred terms of size 1
        np.testing.assert_allclose(a, b, rtol=0, atol=2e-5 * np.abs(b).max())


@pytest.mark.parametrize("side", [8, 2, 1])
@pytest.mark.parametrize(("kernel_side", "stride"), [(1, 1), (3, 1), (3, 2)])
def test_bfloat16_is_rounded_once(kernel_side, stride, side, monkeypatch):
    monkeypatch.setattr(convolution, "_CACHE", 0)
    rng = np.random.default_rng(0)
    x, kernel = (
        jnp.asarray(rng.normal(size=shape), jnp.bfloat16)
        for shape in ((24, side, side, 64), (kernel_side, kernel_side, 64, 64))
    )
    pad = (kernel_side - 1) // 2

    def both(function, x, kernel):
        value, pull = jax.vjp(lambda x, kernel: function(x, kernel, stride, pad), x, kernel)
        return [value, *pull(jnp.ones_like(value))]

    got = both(convolve, x, kernel)
    want = both(plain, x.astype(jnp.float32), kernel.astype(jnp.float32))
    for a, b in zip(got, want, strict=True):
        assert a.dtype == jnp.bfloat16
        np.testing.assert_allclose(a.astype(np.float32), b, rtol=2**-8, atol=1e-4 * np.abs(b).max())


def products(inputs, outputs, side, function=convolve):
    """Multiplications of the matrix products in a convolution's value and gradients, a pixel and a pair of channels."""
    x, kernel = jnp.zeros((2, side, side, inputs)), jnp.zeros((3, 3, inputs, outputs))
    step = jax.value_and_grad(lambda x, kernel: function(x, kernel, 1, 1).sum(), argnums=(0, 1))
    flops = jax.jit(step).lower(x, kernel).compile().cost_analysis()["flops"]
    return flops / (2 * 2 * side**2 * inputs * outputs)


def test_many_channels_take_fewer_products(monkeypatch):
    monkeypatch.setattr(convolution, "_CACHE", 0)
    assert products(256, 256, 8) < 3 * 16 / 4 * 1.35 < products(256, 256, 8, plain)


def lowered(platform, step, *arguments):
    return jax.jit(step).trace(*arguments).lower(lowering_platforms=(platform,)).as_text()


@pytest.mark.parametrize("side", [8, 2, 1])
@pytest.mark.parametrize(("kernel_side", "stride"), [(1, 2), (3, 1), (3, 2), (7, 2)])
def test_a_program_has_the_form_of_the_platform_that_it_is_lowered_for(kernel_side, stride, side, monkeypatch):
    """Not of the machine that lowers it: XLA's GPU compiler aborts on a CPU's forms."""
    monkeypatch.setattr(convolution, "_CACHE", 0)
    x, kernel = jnp.zeros((4, side, side, 64)), jnp.zeros((kernel_side, kernel_side, 64, 64))

    def step(function, x, kernel):
        value, pull = jax.vjp(lambda x, kernel: function(x, kernel, stride, (kernel_side - 1) // 2), x, kernel)
        return value, *pull(jnp.sin(value))

    of_lax = {name: lowered("cuda", functools.partial(step, plain), x, kernel).count(name) for name in OPERATIONS}
    for platform in ("cuda", "rocm", "tpu"):
        text = lowered(platform, functools.partial(step, convolve), x, kernel)
        assert {name: text.count(name) for name in OPERATIONS} == of_lax
    on_cpu = lowered("cpu", functools.partial(step, convolve), x, kernel)
    assert on_cpu.count("stablehlo.dot_general") + on_cpu.count("stablehlo.while") > 0


def test_all_convolutions_of_a_step_have_batch_first_and_channels_last():
    """What XLA's CPU compiler has to find inside a loop."""
    encoder = create_encoder("resnet_tiny", cifar_stem=True)
    images = jnp.zeros((2, 16, 16, 3))
    variables = jax.eval_shape(functools.partial(encoder.init, train=False), jax.random.key(0), images)

    def loss(params):
        return encoder.apply({**variables, "params": params}, images, train=False).sum()

    variables = jax.tree.map(lambda x: jnp.ones(x.shape), variables)
    program = lowered("cpu", jax.grad(loss), variables["params"])
    orders = program.count("stablehlo.convolution")
    # Three for each that is not 1×1, less the input's gradient of two at strides, and of the first, which nobody needs.
    assert orders == 3 * 7 - 3
    assert program.count("dim_numbers = [b, 0, 1, f]x[0, 1, i, o]->[b, 0, 1, f]") == orders
