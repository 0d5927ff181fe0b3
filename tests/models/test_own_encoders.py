"""Encoders of a user's own: any Flax module that keeps the contract works, one that does not is told which part."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

import simclr_jax
from simclr_jax import losses
from simclr_jax.interop import stablehlo
from simclr_jax.models import Head, Network, check_encoder, create_encoder, create_model, feature_dim
from simclr_jax.models.architectures import REGISTERED
from simclr_jax.runtime import devices
from simclr_jax.training import gradients

IMAGES, SIDE, DEVICES = 8, 4, 2


class Linear(nn.Module):
    """A linear map of all pixels, a BatchNorm, and a level that follows the features of training."""

    dtype: object
    axis_name: str | None

    @nn.compact
    def __call__(self, images, train):
        x = nn.Dense(6, dtype=self.dtype)(images.reshape(images.shape[0], -1))
        level = self.variable("levels", "level", jnp.zeros, 6)
        if train:
            mean = x.mean(0)
            level.value = level.value / 2 + (lax.pmean(mean, self.axis_name) if self.axis_name else mean) / 2
        return nn.BatchNorm(use_running_average=not train, axis_name=self.axis_name, dtype=self.dtype)(x)


class NnxLinear(nnx.Module):
    def __init__(self, dtype, axis_name, rngs):
        self.dense = nnx.Linear(3, 6, dtype=dtype, rngs=rngs)
        self.norm = nnx.BatchNorm(6, axis_name=axis_name, dtype=dtype, rngs=rngs)

    def __call__(self, images, train):
        return self.norm(self.dense(images.mean((1, 2))), use_running_average=not train)


def bridged(dtype, axis_name):
    return nnx.bridge.to_linen(NnxLinear, dtype, axis_name)


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setattr(REGISTERED, "own", {})
    simclr_jax.register_encoder("linear", Linear)
    simclr_jax.register_encoder("bridged", bridged)


def images(n=IMAGES, seed=0):
    return np.random.default_rng(seed).uniform(size=(n, SIDE, SIDE, 3)).astype(np.float32)


def normalized(x, mean, variance):
    return (x - mean) / np.sqrt(variance + 1e-5)


@pytest.mark.parametrize("name", ["linear", "bridged"])
def test_it_computes_what_its_module_does_and_keeps_what_it_keeps(name):
    encoder, x = create_encoder(name, normalize="cifar10"), images()
    variables = encoder.init(jax.random.key(0), x, train=False)
    names = {"linear": ("Dense_0", "BatchNorm_0"), "bridged": ("dense", "norm")}[name]
    kernel = np.asarray(variables["params"]["module"][names[0]]["kernel"])
    pixels = (x - [0.4914, 0.4822, 0.4465]) / [0.2470, 0.2435, 0.2616]
    features = (pixels.reshape(IMAGES, -1) if name == "linear" else pixels.mean((1, 2))) @ kernel
    np.testing.assert_allclose(
        encoder.apply(variables, x, train=False), normalized(features, 0, 1), rtol=1e-4, atol=1e-5
    )
    h, changed = encoder.apply(variables, x, train=True, mutable=["batch_stats"])
    mean, variance = features.mean(0), features.var(0)
    np.testing.assert_allclose(h, normalized(features, mean, variance), rtol=1e-4, atol=1e-4)
    kept = changed["batch_stats"]["module"]
    np.testing.assert_allclose(kept["batch_stats"][names[1]]["mean"], 0.01 * mean, rtol=1e-4, atol=1e-6)
    if name == "linear":
        np.testing.assert_allclose(kept["levels"]["level"], mean / 2, rtol=1e-4, atol=1e-6)
    frozen = encoder.clone(frozen=encoder.parts)
    h, changed = frozen.apply(variables, x, train=True, mutable=["batch_stats"])
    np.testing.assert_allclose(h, normalized(features, 0, 1), rtol=1e-4, atol=1e-5)
    jax.tree.map(
        np.testing.assert_array_equal,
        changed.get("batch_stats", variables["batch_stats"]),
        {**variables}["batch_stats"],
    )


def test_what_it_is_given_is_what_the_config_says():
    given = []

    def factory(dtype, axis_name):
        given.append((dtype, axis_name))
        return Linear(dtype, axis_name)

    simclr_jax.register_encoder("told", factory)
    encoder = create_model(Network(encoder="told", dtype="bfloat16"), axis_name="batch").encoder
    check_encoder(encoder, SIDE)
    assert set(given) == {(jnp.dtype("bfloat16"), "batch")}
    h = jax.eval_shape(lambda x: encoder.init_with_output(jax.random.key(0), x, train=False)[0], images())
    assert (h.shape, h.dtype) == ((IMAGES, 6), np.float32)


def test_a_representation_may_depend_on_the_images_size():
    simclr_jax.register_encoder("flat", lambda dtype, axis_name: Flat())
    assert [feature_dim(create_encoder("flat"), side) for side in (4, 6)] == [2 * 16, 2 * 36]


class Flat(nn.Module):
    @nn.compact
    def __call__(self, images, train):
        return nn.Conv(2, (1, 1))(images).reshape(images.shape[0], -1)


def test_devices_compute_what_one_does():
    batch = {"views": np.stack([images(), images(seed=1)], 1), "labels": np.zeros(IMAGES, np.int32)}
    network = Network(encoder="linear", head=Head(kind="none"))
    variables = create_model(network).init(jax.random.key(0), images(), train=False)

    def one(params, stats, batch, axis_name):
        loss = functools.partial(losses.create_loss("nt_xent", temperature=0.5), axis_name=axis_name)
        model = create_model(network, axis_name=axis_name)
        views_of = lambda part: part  # noqa: E731
        result, found = gradients.in_one_pass(params, stats, batch, views_of=views_of, model=model, loss=loss)
        return gradients.pmean((result.loss, found, result.batch_stats), axis_name)

    arguments = variables["params"], variables["batch_stats"]
    some = jax.local_devices()[:DEVICES]
    mapped = jax.pmap(
        functools.partial(one, axis_name=devices.AXIS), devices.AXIS, in_axes=(None, None, 0), devices=some
    )
    got = mapped(*arguments, devices.shard(batch, some))
    wanted = one(*arguments, batch, None)
    assert len(jax.tree.leaves(wanted)) == 8
    for ours, want in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        for of_device in ours:
            np.testing.assert_allclose(of_device, want, rtol=1e-3, atol=1e-5)


def module(call):
    """A factory of a module that does one thing."""

    class Made(nn.Module):
        __call__ = nn.compact(lambda self, images, train: call(self, images, train))

    return lambda dtype, axis_name: Made()


def counting(self, images, train):
    count = self.variable("counts", "images", lambda: jnp.zeros((), jnp.int32))
    count.value += images.shape[0]
    return nn.Dense(2)(images.mean((1, 2)))


def growing(self, images, train):
    kept = self.variable("seen", "last", lambda: jnp.zeros((1, 2)))
    h = nn.Dense(2)(images.mean((1, 2)))
    if train:
        kept.value = h
    return h


@pytest.mark.parametrize(
    ("factory", "words"),
    [
        (lambda dtype, axis_name: NnxLinear, r"its factory returns ABCMeta|its factory returns \w+, not a flax"),
        (lambda dtype: None, "TypeError: .*unexpected keyword argument 'axis_name'"),
        (module(lambda self, x, train: nn.Conv(5, (3, 3))(x)), r"it returns float32\[2, 4, 4, 5\], not h, a float"),
        (module(lambda self, x, train: nn.Dense(3)(x.mean((0, 1, 2)))), r"it returns float32\[3\], not h"),
        (module(lambda self, x, train: nn.Dense(3)(x.mean((1, 2))) > 0), r"it returns bool\[2, 3\], not h"),
        (module(lambda self, x, train: (nn.Dense(3)(x.mean((1, 2))),)), "it returns tuple, not h"),
        (module(lambda self, x, train: x.mean((1, 2))), "it has no parameters"),
        (module(counting), r"it keeps counts/images, int32\[\]: what it keeps is averaged"),
        (module(growing), r"keeps other arrays after a step of training than before it: .*seen/last float32\[2, 2\]"),
        (
            module(lambda self, x, train: nn.Dropout(0.5)(nn.Dense(3)(x.mean((1, 2))), deterministic=not train)),
            "it asks for random numbers, such as those of dropout",
        ),
        (module(lambda self, x, train: nn.Dense(3)(x) @ jnp.ones(7)), "TypeError: dot_general"),
        (
            module(lambda self, x, train: nn.Dense(3)(x.mean((1, 2))) + (1 / 0 if train else 0)),
            "ZeroDivisionError: division by zero",
        ),
    ],
)
def test_a_module_that_breaks_the_contract_is_told_which_part(factory, words):
    simclr_jax.register_encoder("broken", factory)
    with pytest.raises(ValueError, match=words) as error:
        check_encoder(create_encoder("broken"), SIDE)
    assert "\n" not in str(error.value) and str(error.value).startswith("the registered encoder 'broken'")


def test_an_export_of_a_module_that_counts_its_images_is_told_how_to_write_it(tmp_path):
    simclr_jax.register_encoder("counts", module(lambda self, x, train: nn.Dense(3)(x.reshape(len(x), -1))))
    encoder = create_encoder("counts")
    variables = encoder.init(jax.random.key(0), images(), train=False)
    with pytest.raises(ValueError, match=r"any number of images, .*: use x.shape\[0\] instead of len\(x\)"):
        stablehlo.save(str(tmp_path / "a"), encoder, variables, image_size=SIDE)


def test_names_are_told_apart():
    with pytest.raises(ValueError, match="encoder 'resnet18' is one of this library; give yours another name"):
        simclr_jax.register_encoder("resnet18", Linear)
    with pytest.raises(ValueError, match=r"model.encoder 'liner' is not one of resnet_.*; did you mean linear\?"):
        create_encoder("liner")
    words = r"register your own first: simclr_jax.register_encoder\('theirs', factory\), or .* --import=FILE.py"
    with pytest.raises(ValueError, match=words):
        Network(encoder="theirs")
    for key, value in {"width": 2, "cifar_stem": True, "patch_size": 8, "remat": True}.items():
        with pytest.raises(ValueError, match=rf"model.{key}={value} does not apply to linear") as error:
            Network(encoder="linear", **{key: value})
        assert "patch_size=4" not in str(error.value)
