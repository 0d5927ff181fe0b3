"""Vision transformers and ConvNeXts against NumPy; positions, what stays random, and what must not change h."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax.models import ENCODERS, Network, create_classifier, create_encoder, create_model
from simclr_jax.models.architectures import ConvNeXtArchitecture, ViTArchitecture
from simclr_jax.models.vit import fixed_positions, resized_positions
from support import numpy_patches
from support.variables import random_variables

VIT, CONVNEXT = ViTArchitecture(16, 2, 2, patch_size=4), ConvNeXtArchitecture((1, 1), (8, 16), patch_size=2)


@pytest.fixture(autouse=True)
def small_encoders(monkeypatch):
    monkeypatch.setitem(ENCODERS, "vit", VIT)
    monkeypatch.setitem(ENCODERS, "convnext", CONVNEXT)


def images(side=16, count=2):
    return np.random.default_rng(0).uniform(size=(count, side, side, 3)).astype(np.float32)


def applied(encoder, variables, x, **more):
    return jax.jit(functools.partial(encoder.apply, train=False, **more))(variables, x)


@pytest.mark.parametrize(("pool", "positions"), [("mean", "learned"), ("token", "sincos")])
def test_a_vit_is_that_of_numpy(pool, positions):
    encoder = create_encoder("vit", global_pool=pool, positions=positions)
    variables = random_variables(encoder, images())
    if positions == "learned":
        added = np.asarray(variables["params"]["stem_positions"])
    else:
        # Of token 1 + 4 row + column: 4 sines of its row at rates 10000^(-k/4), 4 cosines, and those of its column.
        angles = [[place * 10_000 ** (-k / 4) for k in range(4)] for place in range(4)]
        rows = [np.concatenate([np.sin(angles[r]), np.cos(angles[r])]) for r in range(4)]
        added = np.array([[np.zeros(16), *(np.concatenate([rows[r], rows[c]]) for r in range(4) for c in range(4))]])
    wanted = numpy_patches.vit(variables["params"], images(), blocks=2, heads=2, positions=added, pool=pool)
    np.testing.assert_allclose(applied(encoder, variables, images()), wanted, rtol=1e-4, atol=1e-5)


def test_a_convnext_is_that_of_numpy():
    encoder = create_encoder("convnext")
    variables = random_variables(encoder, images())
    wanted = numpy_patches.convnext(variables["params"], images(), stage_sizes=(1, 1))
    np.testing.assert_allclose(applied(encoder, variables, images()), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["vit", "convnext"])
def test_remat_and_mode_change_nothing_and_bfloat16_little(name):
    encoder = create_encoder(name)
    variables = random_variables(encoder, images())
    h = applied(encoder, variables, images())

    def gradient(encoder, train):
        return jax.jit(jax.grad(lambda v: jnp.sum(jnp.cos(encoder.apply(v, images(), train=train)))))(variables)

    def recomputed(encoder):
        traced = jax.make_jaxpr(functools.partial(encoder.apply, train=True))(variables, images())
        return sum(equation.primitive.name in ("checkpoint", "remat", "remat2") for equation in traced.eqns)

    assert (recomputed(encoder), recomputed(create_encoder(name, remat=True))) == (0, 2)  # the blocks
    plain, again = gradient(encoder, False), gradient(create_encoder(name, remat=True), True)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), again, plain)
    coarse = applied(create_encoder(name, dtype="bfloat16"), variables, images())
    assert coarse.dtype == np.float32
    assert 0 < np.abs(coarse - h).max() < 0.1 * np.abs(h).max()


def test_positions_of_another_grid_are_those_that_were_learned_resized():
    """A plane stays a plane inside, and the class token's own position is left alone."""
    rows, columns = np.mgrid[:8, :8].astype(np.float32)
    plane = np.stack([rows, 2 * columns + 1], -1).reshape(1, 64, 2)
    learned = np.concatenate([np.full((1, 1, 2), 7, np.float32), plane], 1)
    got = np.asarray(resized_positions(learned, 16, 24))
    assert got.shape == (1, 1 + 16 * 24, 2)
    np.testing.assert_array_equal(got[0, 0], [7, 7])
    at_rows, at_columns = (np.arange(16) + 0.5) / 2 - 0.5, (np.arange(24) + 0.5) / 3 - 0.5
    got = got[0, 1:].reshape(16, 24, 2)[4:-4, 6:-6]
    np.testing.assert_allclose(got[..., 0], np.broadcast_to(at_rows[4:-4, None], got.shape[:2]), atol=1e-4)
    np.testing.assert_allclose(got[..., 1], np.broadcast_to(2 * at_columns[6:-6] + 1, got.shape[:2]), atol=1e-4)
    assert resized_positions(learned, 8, 8) is learned


def test_a_vit_takes_images_of_other_sizes_than_it_was_trained_on():
    encoder = create_encoder("vit")
    variables = random_variables(encoder, images())
    larger = np.random.default_rng(1).uniform(size=(2, 24, 32, 3)).astype(np.float32)
    added = np.asarray(resized_positions(variables["params"]["stem_positions"], 6, 8))
    wanted = numpy_patches.vit(variables["params"], larger, blocks=2, heads=2, positions=added, pool="mean")
    np.testing.assert_allclose(applied(encoder, variables, larger), wanted, rtol=1e-4, atol=1e-5)
    fixed = create_encoder("vit", positions="sincos")
    assert "stem_positions" not in random_variables(fixed, images())["params"]
    assert fixed_positions(3, 5, 16).shape == (1, 16, 16)


def test_a_frozen_projection_of_patches_has_no_gradient_until_it_is_fine_tuned():
    model = create_model(Network(encoder="vit", freeze_patch_projection=True))
    variables = random_variables(model, images())

    def gradient(params, of):
        found = of.apply({**variables, "params": params}, images(), train=False)
        return jnp.sum(jnp.cos(found if isinstance(found, jax.Array) else found[-1]))

    frozen = jax.jit(jax.grad(functools.partial(gradient, of=model)))(variables["params"])["encoder"]
    assert not any(map(np.any, jax.tree.leaves(frozen["stem_conv"])))
    assert np.any(frozen["stem_class_token"]) and np.any(frozen["stem_positions"])
    classifier = create_classifier(model, layer=0, classes=2, trainable="all")
    assert not classifier.encoder.network.freeze_patch_projection


@pytest.mark.parametrize(
    ("name", "trainable", "frozen", "trained"),
    [
        (
            "vit",
            "block2",
            ["stem_conv/kernel", "stem_positions", "block1/fc1/bias"],
            ["block2/norm1/scale", "norm/bias"],
        ),
        ("vit", "norm", ["block2/fc1/kernel"], ["norm/scale"]),
        ("convnext", "stage2", ["stem_norm/bias", "stage1_block1/gamma"], ["stage2_down_conv/kernel", "norm/bias"]),
        ("convnext", "stage2_block1", ["stage2_down_norm/scale", "stage1_block1/gamma"], ["stage2_block1/gamma"]),
    ],
)
def test_parts_learn_from_one_on(name, trainable, frozen, trained):
    classifier = create_classifier(create_model(Network(encoder=name)), layer=0, classes=2, trainable=trainable)
    have = jax.eval_shape(lambda: classifier.init(jax.random.key(0), images(), train=False))["params"]["encoder"]
    paths = ["/".join(key.key for key in path) for path, _ in jax.tree_util.tree_leaves_with_path(have)]
    assert {*frozen, *trained} <= {*paths}
    assert all(classifier.is_frozen(f"encoder/{path}") for path in frozen)
    assert not any(classifier.is_frozen(f"encoder/{path}") for path in trained)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: Network(encoder="vit_tiny", width=2),
            "model.width=2 does not apply to vit_tiny, only to a ResNet; use",
        ),
        (
            lambda: Network(encoder="vit_tiny", cifar_stem=True),
            "cifar_stem=False; for small images give .*patch_size=4",
        ),
        (lambda: Network(patch_size=4), "patch_size=4 does not apply to resnet50, only to a ViT or a ConvNeXt"),
        (
            lambda: Network(encoder="convnext_atto", global_pool="token"),
            "global_pool=token does not apply to convnext_at",
        ),
        (
            lambda: Network(encoder="vit_tiny", positions="rope"),
            "unknown positions 'rope'; choose one of: learned, sincos",
        ),
        (lambda: Network(encoder="vit_tiny", patch_size=-1), "patch_size -1 must be 0"),
        (
            lambda: Network(encoder="vit_tiny").check_image_size(32),
            r"augment.image_size=32 gives vit_tiny 2 × 2 patches of 16 pixels, which are too few; use "
            r"--config.model.patch_size=4, or images of at least 48 pixels",
        ),
        (
            lambda: Network(encoder="convnext_atto").check_image_size(24),
            "6 × 6 patches of 4 .*patch_size=3, or .* at least 32",
        ),
        (
            lambda: Network(encoder="vit_tiny", patch_size=5).check_image_size(32),
            "not divisible by .*=5; use .*=30 or 35",
        ),
        (lambda: create_encoder("vit").apply({}, images(18), train=False), "18 × 18 pixels are not cut into whole pat"),
        (
            lambda: create_encoder("convnext").apply({}, images(3), train=False),
            "3 × 3 pixels are too small: .* least 4",
        ),
        (
            lambda: create_encoder("vit").apply({}, images()[..., :1], train=False),
            "must be float .batch, height, width",
        ),
    ],
)
def test_what_does_not_fit_is_told_in_a_line(build, message):
    with pytest.raises(ValueError, match=message) as error:
        build()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "classifier", "parameters"),
    [  # Of timm 1.0's vit_…_patch16_224 and convnext_…, with 1,000 classes.
        ("vit_tiny", 193_000, 5_717_416),
        ("vit_small", 385_000, 22_050_664),
        ("vit_base", 769_000, 86_567_656),
        ("vit_large", 1_025_000, 304_326_632),
        ("convnext_atto", 321_000, 3_695_520),
        ("convnext_femto", 385_000, 5_217_784),
        ("convnext_pico", 513_000, 9_045_672),
        ("convnext_nano", 641_000, 15_593_560),
        ("convnext_tiny", 769_000, 28_589_128),
        ("convnext_small", 769_000, 50_223_688),
        ("convnext_base", 1_025_000, 88_591_464),
        ("convnext_large", 1_537_000, 197_767_336),
        ("convnext_xlarge", 2_049_000, 350_196_968),
    ],
)
def test_parameter_counts_are_the_published_ones(name, classifier, parameters):
    module = create_encoder(name)
    image = jnp.zeros((1, 224, 224, 3))
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), image, train=False))["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == parameters - classifier
