"""Encoders and heads against a NumPy forward pass, published sizes, and what dtype and mode must not change."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax.models import Head, Network, ProjectionHead, SimCLR, create_encoder
from simclr_jax.models.architectures import ResNetArchitecture
from simclr_jax.models.resnet import ResNet, relu_of_sum
from support.numpy_resnet import NumpyResNet
from support.variables import random_variables, variable_shapes

BLOCKS = {"basic": False, "bottleneck": True}


def resnet(block, stage_sizes, **settings):
    return ResNet(ResNetArchitecture(BLOCKS[block], stage_sizes, base_width=4), Network(**settings))


def projection_head(**settings):
    return ProjectionHead(Network(head=Head(**settings)))


def images(count=3, side=16, seed=0):
    """Faint images, so that BatchNorm's epsilon counts beside the variance of the stem."""
    return 0.02 * np.random.default_rng(seed).uniform(size=(count, side, side, 3)).astype(np.float32)


def initial_leaves(module, x, wanted):
    """What `init` gives for the wanted paths alone; XLA drops the rest, most of whose time is compilation."""

    def leaves(key):
        flat = jax.tree_util.tree_leaves_with_path(module.init(key, x, train=False)["params"])
        paths = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in flat}
        return {path: leaf for path, leaf in paths.items() if wanted(path)}

    return jax.jit(leaves)(jax.random.key(0))


@functools.cache
def tiny(dtype="float32"):
    """An encoder, random variables for it, and its compiled forward pass in evaluation mode."""
    module = create_encoder("resnet_tiny", cifar_stem=True, dtype=dtype)
    return module, random_variables(module, images()), jax.jit(functools.partial(module.apply, train=False))


@pytest.mark.parametrize("cifar_stem", (True, False))
@pytest.mark.parametrize("block", BLOCKS)
def test_forward_pass_and_running_statistics_equal_numpy(block, cifar_stem):
    stage_sizes = (1, 2)
    module = resnet(block, stage_sizes, cifar_stem=cifar_stem)
    variables = random_variables(module, images())
    h, updates = jax.jit(functools.partial(module.apply, train=True, mutable=["batch_stats"]))(variables, images())
    by_hand = NumpyResNet(variables, train=True)
    want = by_hand(images(), stage_sizes, cifar_stem, block == "bottleneck")
    np.testing.assert_allclose(h, want, rtol=1e-3, atol=1e-4)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), updates["batch_stats"], by_hand.running
    )


@pytest.mark.parametrize(
    ("block", "cifar_stem", "side", "ratios"),
    [
        ("bottleneck", False, 12, {"sk_ratio": 0.0625}),  # sides 6, 3 and 2 in turn: the pool meets an odd one
        ("bottleneck", True, 5, {"sk_ratio": 1.0, "se_ratio": 0.5}),
        ("basic", False, 12, {"sk_ratio": 0.0625, "se_ratio": 0.5}),
        ("basic", True, 5, {"se_ratio": 0.01}),
    ],
)
def test_selective_kernels_and_excitation_equal_numpy(block, cifar_stem, side, ratios):
    stage_sizes = (1, 2)
    module = resnet(block, stage_sizes, cifar_stem=cifar_stem, **ratios)
    x = images(side=side)
    variables = random_variables(module, x)
    h, updates = jax.jit(functools.partial(module.apply, train=True, mutable=["batch_stats"]))(variables, x)
    by_hand = NumpyResNet(variables, train=True)
    want = by_hand(x, stage_sizes, cifar_stem, block == "bottleneck", sk="sk_ratio" in ratios)
    np.testing.assert_allclose(h, want, rtol=1e-3, atol=1e-4)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), updates["batch_stats"], by_hand.running
    )


@pytest.mark.parametrize("side", (12, 10))  # 6 and 5 pixels to pool
def test_pool_and_normalization_of_pytorch_equal_numpy(side):
    class Symmetric(NumpyResNet):
        def max_pool(self, x):
            padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
            rows = [slice(2 * i, 2 * i + 3) for i in range((x.shape[1] + 1) // 2)]
            return np.stack([np.stack([padded[:, i, j].max(axis=(1, 2)) for j in rows], 1) for i in rows], 1)

    module = resnet("basic", (1,), pool="symmetric", normalize="imagenet")
    x = images(side=side)
    variables = random_variables(module, x)
    want = Symmetric(variables, train=False)((x - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225], (1,), False, False)
    np.testing.assert_allclose(module.apply(variables, x, train=False), want, rtol=1e-4, atol=1e-4)


def test_evaluation_reads_the_running_statistics():
    _, variables, forward = tiny()
    want = NumpyResNet(variables, train=False)(images(), (1, 1, 1), cifar_stem=True, bottleneck=False)
    np.testing.assert_allclose(forward(variables, images()), want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("block", BLOCKS)
def test_a_fresh_residual_branch_adds_nothing(block):
    module = resnet(block, (2,), cifar_stem=True)
    forward = jax.jit(functools.partial(module.apply, train=False))
    fresh = initial_leaves(module, images(), lambda path: not path.endswith("kernel"))

    def h(other_kernels=()):
        def leaf(path, plain, other):
            name = jax.tree_util.keystr(path[1:], simple=True, separator="/")
            return fresh.get(name, other if path[-2].key in other_kernels else plain)

        variables = [random_variables(module, images(), seed) for seed in (0, 1)]
        return forward(jax.tree_util.tree_map_with_path(leaf, *variables), images())

    np.testing.assert_array_equal(h(("conv1", "conv2", "conv3")), h())
    assert not np.allclose(h(("shortcut_conv",)), h())
    assert not np.allclose(h(("stem_conv",)), h())


def test_initial_kernels_have_their_variance():
    path = "stage3_block1/conv1/kernel"
    kernel = initial_leaves(create_encoder("resnet_tiny", cifar_stem=True), images(), lambda p: p == path)[path]
    deviation = 1 / np.sqrt(3 * 3 * 32)
    np.testing.assert_allclose(np.std(kernel), deviation, rtol=0.02)
    # Cut at two deviations of a normal that is widened to make up for the cut.
    assert np.abs(kernel).max() < 2 * deviation / 0.8796


def test_evaluation_reads_each_image_alone_and_training_does_not():
    module, variables, forward = tiny()
    batch = images()
    np.testing.assert_allclose(forward(variables, batch)[:1], forward(variables, batch[:1]), rtol=1e-5, atol=1e-6)
    train = jax.jit(functools.partial(module.apply, train=True, mutable=["batch_stats"]))
    assert not np.allclose(train(variables, batch)[0][:1], train(variables, batch[:1])[0], rtol=1e-2)


def test_bfloat16_computes_in_bfloat16_and_keeps_the_rest_in_float32():
    module, variables, forward = tiny("bfloat16")
    h = forward(variables, images())
    _, updates = jax.eval_shape(
        functools.partial(module.apply, train=True, mutable=["batch_stats"]), variables, images()
    )
    assert {x.dtype for x in jax.tree.leaves((variable_shapes(module, images()), updates, h))} == {jnp.dtype("float32")}
    np.testing.assert_allclose(h, tiny()[2](variables, images()), rtol=0.05, atol=0.01)

    def intermediate_dtypes(dtype):
        shapes = functools.partial(tiny(dtype)[0].apply, train=False, capture_intermediates=True)
        captured = jax.eval_shape(shapes, variables, images())[1]["intermediates"]
        return {x.dtype for path, x in jax.tree_util.tree_leaves_with_path(captured) if len(path) > 2}

    assert intermediate_dtypes("bfloat16") == {jnp.dtype("bfloat16")}
    assert intermediate_dtypes("float32") == {jnp.dtype("float32")}


def test_the_pool_of_a_bfloat16_encoder_averages_in_float32():
    _, variables, forward = tiny("bfloat16")
    h = forward(variables, images())
    assert np.any(h != h.astype(jnp.bfloat16).astype(jnp.float32))


def test_simclr_chains_encoder_and_head_which_also_work_alone():
    encoder, _, encode = tiny()
    head = projection_head(layers=2, dim=8)
    model = SimCLR(encoder, head)
    variables = random_variables(model, images())
    hiddens = jax.jit(functools.partial(model.apply, train=False))(variables, images())
    for collection in ("params", "batch_stats"):
        assert sorted(variables[collection]) == ["encoder", "head"]
    parts = {part: {name: tree[part] for name, tree in variables.items()} for part in ("encoder", "head")}
    h = encode(parts["encoder"], images())
    want = head.apply(parts["head"], h, train=False)
    assert [x.shape for x in hiddens] == [(3, 64), (3, 64), (3, 8)]
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), hiddens, want)


def test_training_moves_the_statistics_of_encoder_and_head():
    encoder = resnet("basic", (1,), cifar_stem=True)
    model = SimCLR(encoder, projection_head(layers=2, dim=8))
    variables = random_variables(model, images())
    train = jax.jit(functools.partial(model.apply, train=True, mutable=["batch_stats"]))
    _, updates = train(variables, images())
    still = jax.tree.map(np.array_equal, updates["batch_stats"], variables["batch_stats"])
    assert not any(jax.tree.leaves(still))


def test_a_group_norm_normalises_16_channels_of_an_image():
    head = ProjectionHead(Network(norm="group", head=Head(layers=2, dim=32)))
    h = np.random.default_rng(0).normal(size=(5, 48)).astype(np.float32)
    variables = random_variables(head, h)
    assert sorted(variables) == ["params"]
    params = variables["params"]

    def normalised(x, scale, bias):
        groups = x.reshape(len(x), -1, 16).astype(np.float64)
        groups = (groups - groups.mean(2, keepdims=True)) / np.sqrt(groups.var(2, keepdims=True) + 1e-5)
        return groups.reshape(x.shape) * scale + bias

    layer1 = np.maximum(normalised(h @ params["dense1"]["kernel"], **params["norm1"]), 0)
    z = normalised(layer1 @ params["dense2"]["kernel"], **params["norm2"], bias=0)
    for train in (True, False):
        hiddens = head.apply(variables, h, train=train)
        np.testing.assert_allclose(hiddens[1], layer1, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(hiddens[2], z, rtol=1e-4, atol=1e-5)


def test_with_group_norm_an_image_is_alone_in_training_too():
    module = create_encoder("resnet_tiny", cifar_stem=True, norm="group")
    variables = random_variables(module, images())
    forward = jax.jit(functools.partial(module.apply, train=True))
    np.testing.assert_allclose(forward(variables, images())[:1], forward(variables, images()[:1]), rtol=1e-4, atol=1e-5)


def test_norm_and_remat_leave_the_names_of_parameters_alone():
    plain = variable_shapes(create_encoder("resnet_tiny", cifar_stem=True), images())
    for changes in ({"norm": "group"}, {"remat": True}):
        other = variable_shapes(create_encoder("resnet_tiny", cifar_stem=True, **changes), images())
        assert jax.tree.structure(other["params"]) == jax.tree.structure(plain["params"])
    assert jax.tree.structure(other) == jax.tree.structure(plain)


def test_recomputed_blocks_give_the_same_gradient_and_statistics_from_less_memory():
    def objective(remat):
        module = create_encoder("resnet_tiny", cifar_stem=True, remat=remat)

        def loss(params, stats):
            h, updates = module.apply({"params": params, **stats}, images(16), train=True, mutable=["batch_stats"])
            return jnp.sum(h * jnp.sin(jnp.arange(h.size).reshape(h.shape))), updates

        return loss

    variables = random_variables(create_encoder("resnet_tiny", cifar_stem=True), images())
    params, stats = variables["params"], {"batch_stats": variables["batch_stats"]}

    def kept(loss):
        """Bytes that jax keeps from the forward for the backward pass, whatever the compiler then does with them."""
        pull_back = jax.eval_shape(lambda params: jax.vjp(lambda p: loss(p, stats)[0], params)[1], params)
        return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(pull_back))

    plain, again = objective(False), objective(True)
    assert kept(again) < 0.55 * kept(plain)
    want, got = (jax.jit(jax.value_and_grad(loss, has_aux=True))(params, stats) for loss in (plain, again))

    def close(a, b):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * np.abs(b).max())

    jax.tree.map(close, got, want)


@pytest.mark.parametrize(
    "batch", (np.ones((2, 8, 8, 3), np.uint8), np.ones((8, 8, 3), np.float32), np.ones((2, 8, 8, 1), np.float32))
)
def test_refuses_what_is_no_batch_of_float_images(batch):
    module, variables, _ = tiny()
    with pytest.raises(ValueError, match=r"images .* must be float \[batch, height, width, 3\]"):
        module.apply(variables, batch, train=False)


def test_the_relu_of_a_sum_has_the_gradient_of_relu():
    x = jnp.array([-2.0, -0.0, 0.0, 1e-38, 3.0, jnp.inf, -jnp.inf, jnp.nan])
    (got, pull), (want, pull_want) = (jax.vjp(of, x) for of in (relu_of_sum, nn.relu))
    np.testing.assert_array_equal(got, want)
    np.testing.assert_array_equal(pull(x)[0], pull_want(x)[0])
