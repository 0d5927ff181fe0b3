"""The order of an encoder's parts, what belongs to them, and what freezing the first of them does to a network."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax.models import ENCODERS, Head, Network, create_classifier, create_model, parts
from simclr_jax.models.architectures import ConvNeXtArchitecture, ResNetArchitecture, ViTArchitecture
from support.variables import random_variables

SMALL = {
    "vit": ViTArchitecture(16, 2, 2, patch_size=4),
    "convnext": ConvNeXtArchitecture((1, 1), (8, 8), patch_size=4),
    "resnet": ResNetArchitecture(False, (1, 1), base_width=16),
}
ORDERS = {
    "vit": ("stem", "block1", "block2", "norm"),
    "convnext": ("stem", "stage1", "stage2", "norm"),
    "resnet": ("stem", "stage1", "stage2"),
}
QUICKLY = {"xla_backend_optimization_level": 0}
IMAGES = np.random.default_rng(0).uniform(size=(3, 12, 12, 3)).astype(np.float32)


@pytest.fixture(autouse=True)
def small_encoders(monkeypatch):
    for name, architecture in SMALL.items():
        monkeypatch.setitem(ENCODERS, name, architecture)


@pytest.mark.parametrize("name", SMALL)
def test_parts_are_counted_from_the_images_on(name):
    model = create_model(Network(encoder=name))
    assert parts.order(model.encoder) == ORDERS[name]
    assert create_model(Network(encoder=name, freeze=1)).encoder.frozen == ("stem",)
    paths = jax.tree_util.tree_leaves_with_path(random_variables(model, IMAGES)["params"])
    names = ["/".join(key.key for key in path) for path, _ in paths]
    owners = [[part for part in (*ORDERS[name], "head") if parts.belongs(path, (part,))] for path in names]
    assert all(len(found) == 1 for found in owners)  # each parameter is of one part
    assert {found[0] for found in owners} == {*ORDERS[name], "head"}


def test_a_block_is_not_another_whose_number_begins_alike():
    assert parts.belongs("encoder/block1/fc1/kernel", ("block1",))
    assert not parts.belongs("encoder/block10/fc1/kernel", ("block1",))
    assert not parts.belongs("head/norm1/scale", ("norm",))


@pytest.mark.parametrize(("name", "remat"), [("vit", False), ("vit", True), ("convnext", False), ("resnet", False)])
def test_frozen_parts_have_no_gradient_and_the_others_what_they_had(name, remat):
    """With norms of each image by itself freezing changes no value, so that the network that is not frozen tells."""
    norm = "group" if name == "resnet" else "batch"
    network = functools.partial(Network, encoder=name, norm=norm, remat=remat, head=Head(norm=norm == "group"))
    variables = random_variables(create_model(network()), IMAGES)

    def gradients(model):
        def loss(params):
            return jnp.sum(jnp.cos(model.apply({"params": params}, IMAGES, train=True)[-1]))

        return jax.jit(jax.grad(loss), compiler_options=QUICKLY)(variables["params"])

    whole = gradients(create_model(network()))
    for count in {"vit": (1, 4), "convnext": (3,), "resnet": (2,)}[name]:
        found = gradients(create_model(network(freeze=count)))

        def check(path, gradient, wanted, frozen=ORDERS[name][:count]):
            path = "/".join(key.key for key in path)
            if parts.belongs(path, frozen):
                assert not np.any(gradient), path
            else:
                np.testing.assert_allclose(gradient, wanted, rtol=1e-4, atol=1e-5, err_msg=path)
                assert np.any(gradient), path

        jax.tree_util.tree_map_with_path(check, found, whole)


def test_frozen_batch_norm_uses_its_running_statistics_and_keeps_them():
    model = create_model(Network(encoder="resnet", freeze=2))
    variables = random_variables(model, IMAGES)

    def blocks(train):
        kept = {"capture_intermediates": True, "mutable": ["intermediates", "batch_stats"]}
        apply = functools.partial(model.apply, train=train, **kept)
        _, found = jax.jit(apply, compiler_options=QUICKLY)(variables, IMAGES)
        made = found["intermediates"]["encoder"]
        return {name: made[name]["__call__"][0] for name in model.encoder.parts if name != "stem"}, found["batch_stats"]

    (trained, stats), (evaluated, _) = blocks(True), blocks(False)
    np.testing.assert_array_equal(trained["stage1_block1"], evaluated["stage1_block1"])
    assert np.abs(trained["stage2_block1"] - evaluated["stage2_block1"]).max() > 0.01
    before, after = variables["batch_stats"]["encoder"], stats["encoder"]
    for name in before:
        same = [np.array_equal(*pair) for pair in zip(*map(jax.tree.leaves, (before[name], after[name])), strict=True)]
        assert all(same) if not name.startswith("stage2") else not any(same), name


def test_the_backward_pass_of_frozen_parts_is_not_computed():
    def flops(freeze):
        model = create_model(Network(encoder="vit", freeze=freeze))
        variables = random_variables(model, IMAGES)

        def loss(params):
            variables_of = {**variables, "params": params}
            return jnp.sum(jnp.cos(model.apply(variables_of, IMAGES, train=True, mutable=["batch_stats"])[0][-1]))

        return jax.jit(jax.grad(loss)).lower(variables["params"]).compile(QUICKLY).cost_analysis()["flops"]

    everything, half = flops(0), flops(2)  # a backward pass is twice a forward pass
    assert half < 0.8 * everything


def test_fine_tuning_trains_parts_that_pretraining_froze():
    classifier = create_classifier(
        create_model(Network(encoder="resnet", freeze=3)), layer=0, classes=2, trainable="stage1"
    )
    assert classifier.frozen == classifier.encoder.frozen == ("stem",) and not classifier.encoder.network.freeze


@pytest.mark.parametrize(
    ("network", "words"),
    [
        ({"freeze": 4}, "model.freeze=4 is more than the 3 parts of resnet: stem, stage1, stage2; use 0 to 3"),
        ({"freeze": -1}, "freeze -1 must be 0 "),
        (
            {"freeze": 3, "head": Head("none")},
            "model.freeze=3 freezes the whole encoder, and head.kind=none leaves nothing else to train; freeze fewer",
        ),
        (
            {"encoder": "vit", "freeze": 1, "freeze_patch_projection": True},
            "model.freeze_patch_projection=True has no effect with model.freeze=1, which freezes that layer too; use ",
        ),
    ],
)
def test_what_cannot_be_frozen_is_one_line(network, words):
    with pytest.raises(ValueError) as told:
        create_model(Network(**({"encoder": "resnet"} | network)))
    assert str(told.value).startswith(words) and "\n" not in str(told.value)


@pytest.mark.parametrize("named", [{}, {"parts": ()}, {"parts": ("module",)}])
def test_an_encoder_without_an_order_of_parts_is_refused(named):
    encoder = types.SimpleNamespace(network=types.SimpleNamespace(encoder="mine"), **named)
    with pytest.raises(ValueError, match="^model.freeze=1 needs an encoder that names its parts, and mine does not; "):
        parts.first(encoder, 1)
