"""Learning rates that fall towards the images, and parts that do not learn at all."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from simclr_jax.models import ENCODERS, Network, create_encoder, create_model
from simclr_jax.models.architectures import ConvNeXtArchitecture, ResNetArchitecture, ViTArchitecture
from simclr_jax.runtime import devices
from simclr_jax.training import optimizers, state, step
from simclr_jax.training.trainer import Trainer
from support.smallest import NAME, VIT
from support.tiny_config import small, write_archive
from support.variables import random_variables

RATES = {  # by hand, of decay 1/2: the head, the last part, has 1
    "vit": {"stem": 1 / 8, "block1": 1 / 4, "block2": 1 / 2},
    "convnext": {"stem": 1 / 8, "stage1": 1 / 4, "stage2": 1 / 2},
    "resnet_tiny": {"stem": 1 / 16, "stage1": 1 / 8, "stage2": 1 / 4, "stage3": 1 / 2},
}
PATHS = {  # of a ViT of two blocks: how often its rate is halved
    "encoder/stem_conv/kernel": 3,
    "encoder/stem_class_token": 3,
    "encoder/stem_positions": 3,
    "encoder/block1/fc1/kernel": 2,
    "encoder/block2/norm1/scale": 1,
    "encoder/norm/scale": 0,
    "head/dense1/kernel": 0,
}


@pytest.fixture(name="encoders", autouse=True)
def small_encoders(monkeypatch):
    monkeypatch.setitem(ENCODERS, "vit", ViTArchitecture(16, 2, 2, patch_size=4))
    monkeypatch.setitem(ENCODERS, "resnet", ResNetArchitecture(False, (1, 1), base_width=16))
    monkeypatch.setitem(ENCODERS, "convnext", ConvNeXtArchitecture((2, 1), (8, 16), patch_size=2))


@pytest.mark.parametrize("name", RATES)
def test_rates_are_powers_of_the_decay(name):
    assert optimizers.layer_rates(create_encoder(name), 0.5) == RATES[name]


def made(name, rate, **more):
    """An optimizer, or one of a user's own."""
    if name == "own":
        return optax.chain(optax.add_decayed_weights(0.1), optax.scale_by_rms(), optax.scale_by_learning_rate(rate))
    return optimizers.create_optimizer(name, lambda step: rate * (1.0 + step), weight_decay=0.1, exclude="none")


@pytest.mark.parametrize("name", ["lars", "sgd", "adamw", "own"])
def test_each_part_moves_as_with_its_own_learning_rate(name):
    """Over three steps, momentum and decay included: as the same optimizer of another learning rate moves it."""
    rng = np.random.default_rng(0)
    names = [path.split("/") for path in PATHS]
    params = {"encoder": {}, "head": {}}
    for first, *rest in names:
        inner = rng.normal(size=(3, 2)).astype(np.float32)
        for key in reversed(rest):
            inner = {key: inner}
        params[first] |= inner
    rates = optimizers.layer_rates(create_encoder("vit"), 0.5)

    def moves(optimizer):
        current, of, found = params, optimizer.init(params), []
        for _ in range(3):
            updates, of = optimizer.update(jax.tree.map(jnp.sin, params), of, current)
            found.append(updates)
        return jax.tree.map(lambda *x: np.stack(x), *found)

    whole = moves(optimizers.layer_wise(made(name, 0.3), rates))
    slower = {halved: moves(made(name, 0.3 / 2**halved)) for halved in set(PATHS.values())}
    for path, halved in PATHS.items():
        found, wanted = whole, slower[halved]
        for key in path.split("/"):
            found, wanted = found[key], wanted[key]
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-8, err_msg=path)


@pytest.fixture(scope="module", name="source")
def make_source(tmp_path_factory):
    return f"npz:{write_archive(tmp_path_factory.mktemp('data') / 'images.npz')}"


def test_a_config_says_the_decay_and_without_it_nothing_changes(source):
    changes = {"model.encoder": VIT, "model.cifar_stem": False, "optimizer.name": "sgd", "optimizer.warmup_epochs": 0.0}
    decayed, plain = (
        Trainer.from_config(small(source, **changes, **{"optimizer.layer_decay": decay})) for decay in (0.5, 1.0)
    )
    params = jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), plain.state_shapes().params)

    def update(trainer):
        return trainer.optimizer.update(params, trainer.optimizer.init(params), params)[0]

    ratios = jax.tree.map(lambda a, b: float(np.ravel(a / b)[0]), update(decayed), update(plain))
    assert ratios["encoder"]["stem_positions"] == 0.25 and ratios["encoder"]["block1"]["fc1"]["bias"] == 0.5
    assert ratios["encoder"]["norm"]["scale"] == 1 and set(jax.tree.leaves(ratios["head"])) == {1.0}
    usual = optimizers.create_optimizer("sgd", lambda step: 0.1, weight_decay=0.1)
    assert jax.tree.structure(plain.optimizer.init(params)) == jax.tree.structure(usual.init(params))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"optimizer.layer_decay": 0.0}, "config.optimizer.layer_decay=0.0 must be above 0 and at most 1 (off)"),
        ({"optimizer.layer_decay": 1.5}, "config.optimizer.layer_decay=1.5 must be above 0 and at most 1 (off)"),
        ({"model.freeze": -1}, "config.model.freeze=-1 must be 0 (train all) or how many"),
        ({"model.freeze": 3}, f"model.freeze=3 is more than the 2 parts of {NAME}: stem, stage1; use 0 to 2"),
        (
            {"model.freeze": 2, "optimizer.layer_decay": 0.5},
            "optimizer.layer_decay=0.5 has no effect with model.freeze=2: all parts that are trained have the same",
        ),
    ],
)
def test_what_cannot_be_is_one_line(source, changes, words):
    with pytest.raises(ValueError) as told:
        Trainer.from_config(small(source, **changes))
    assert str(told.value).startswith(words) and "\n" not in str(told.value)


@pytest.mark.parametrize("named", [(), ("module",)])
def test_an_encoder_without_an_order_of_parts_has_no_rates(named):
    encoder = types.SimpleNamespace(parts=named, network=types.SimpleNamespace(encoder="mine", freeze=0))
    with pytest.raises(ValueError, match="^optimizer.layer_decay=0.5 needs an encoder that names its parts in the"):
        optimizers.layer_rates(encoder, 0.5)


def loss(z1, z2, labels, axis_name):
    return jnp.mean(jnp.cos(z1 - 2 * z2)), {}


@pytest.mark.parametrize("more", [{}, {"view_batch_norm": True}], ids=str)
def test_frozen_parts_keep_their_bits_through_steps_on_devices_in_micro_batches(more):
    """Three devices and three micro-batches, over which a mean of equal numbers may be another number."""
    count = 3
    model = create_model(Network(encoder="resnet", freeze=2, cifar_stem=True, **more), axis_name=devices.AXIS)
    images = np.random.default_rng(0).uniform(size=(count * 3, 2, 8, 8, 3)).astype(np.float32)
    variables = jax.tree.map(lambda x: x / 3, random_variables(model, images[:, 0]))  # of bits that thirds do not keep
    optimizer = optimizers.create_optimizer("adamw", lambda step: 0.1, weight_decay=0.5, exclude="none")
    optimizer = optimizers.without(optimizer, model.encoder.frozen)
    start = state.TrainState(
        step=jnp.int32(0),
        skipped=jnp.int32(0),
        probe_params={},
        probe_opt_state=(),
        **variables,
        opt_state=optimizer.init(variables["params"]),
    )

    def one(of, batch):
        return step.pretrain_step(
            of,
            batch,
            model=model,
            loss=loss,
            optimizer=optimizer,
            probe=None,
            probe_optimizer=optax.identity(),
            microbatches=3,
            axis_name=devices.AXIS,
        )

    local = jax.local_devices()[:count]
    mapped = jax.pmap(one, devices.AXIS, in_axes=(None, 0), out_axes=(None, 0), devices=local)
    batch, end = devices.shard({"views": images, "labels": np.zeros(count * 3, np.int32)}, local), start
    for _ in range(2):
        end, metrics = mapped(end, batch)
    assert np.all(metrics["finite"])
    for kind in ("params", "batch_stats"):
        before, after = variables[kind]["encoder"], getattr(end, kind)["encoder"]
        for name in before:
            pairs = zip(*(jax.tree.leaves(tree[name]) for tree in (before, after)), strict=True)
            same = [np.array_equal(*pair) for pair in pairs]
            assert all(same) if name.startswith(("stem", "stage1")) else not any(same), (kind, name)
        moved = jax.tree.map(lambda a, b: not np.array_equal(a, b), variables[kind]["head"], getattr(end, kind)["head"])
        assert all(jax.tree.leaves(moved))
