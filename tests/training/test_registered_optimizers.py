"""Optimizers of the user's own: called as documented, named by the config, refused in one line."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import simclr_jax
from simclr_jax.training import optimizers, schedule
from simclr_jax.training.trainer import Trainer
from support.tiny_config import small, write_archive


@pytest.fixture(autouse=True)
def nothing_registered(monkeypatch):
    monkeypatch.setattr(optimizers.OWN, "own", {})


def signs(learning_rate, *, weight_decay, mask):
    """Moves by the rate against the gradient's sign; what decays shrinks by the rate times the decay."""

    def update(gradients, step, params):
        rate = learning_rate(step)
        moved = jax.tree.map(
            lambda g, p, decays: -rate * (jnp.sign(g) + weight_decay * p * decays), gradients, params, mask(params)
        )
        return moved, step + 1

    return optax.GradientTransformation(lambda params: jnp.zeros((), jnp.int32), update)


def test_a_registered_optimizer_gets_rate_decay_and_mask():
    simclr_jax.register_optimizer("signs", signs)
    optimizer = optimizers.create_optimizer("signs", lambda step: 0.1 * (step + 1), weight_decay=0.5, exclude="bias")
    params = {"kernel": np.array([1.0, -2.0]), "scale": np.array([4.0]), "bias": np.array([2.0])}
    state = optimizer.init(params)
    for _ in range(2):
        updates, state = optimizer.update(jax.tree.map(np.ones_like, params), state, params)
    # The second step: rate 0.2; all but the bias decay.
    np.testing.assert_allclose(updates["kernel"], [-0.2 * 1.5, -0.2 * 0.0], atol=1e-6)
    np.testing.assert_allclose(updates["scale"], [-0.2 * 3.0], rtol=1e-6)
    np.testing.assert_allclose(updates["bias"], [-0.2], rtol=1e-6)


def test_a_config_names_it_and_its_rate_is_the_schedule_of_the_run(tmp_path):
    given = {}

    def kept(learning_rate, *, weight_decay, mask):
        given.update(rate=learning_rate, decay=weight_decay)
        return optax.sgd(learning_rate)

    simclr_jax.register_optimizer("kept", kept)
    changes = {"optimizer.name": "kept", "optimizer.weight_decay": 0.25, "augment.placement": "device"}
    config = small(f"npz:{write_archive(tmp_path / 'images.npz')}", **changes)
    trainer = Trainer.from_config(config)
    assert given["decay"] == 0.25
    steps = trainer.schedule.warmup_steps, trainer.schedule.total_steps
    assert [float(given["rate"](step)) for step in (0, *steps)] == pytest.approx([0, 3e-3, 0], abs=1e-9)


@pytest.mark.parametrize(
    ("name", "factory", "message"),
    [
        ("lars", signs, "optimizer 'lars' is one of this library"),
        (
            "lion",
            optax.sgd(0.1),
            "must be a function \\(learning_rate, \\*, weight_decay, mask\\) that returns an optax",
        ),
    ],
)
def test_what_cannot_be_registered(name, factory, message):
    with pytest.raises(ValueError, match=message):
        simclr_jax.register_optimizer(name, factory)


def failing(learning_rate, *, weight_decay, mask):
    raise RuntimeError("no such thing")


@pytest.mark.parametrize(
    ("factory", "keys", "message"),
    [
        (lambda rate, **_: 3, {}, "the registered optimizer 'mine' returns 3, not an optax.GradientTransformation"),
        (lambda rate: optax.sgd(rate), {}, "the registered optimizer 'mine' cannot be made: TypeError: .*weight_decay"),
        (
            failing,
            {},
            "cannot be made: RuntimeError: no such thing; it is called as factory\\(learning_rate, weight_decay=…",
        ),
        (signs, {"momentum": 0.5}, "momentum=0.5 only applies to lars and sgd, but config.optimizer.name is mine"),
        (signs, {"betas": (0.8, 0.9)}, "betas=\\(0.8, 0.9\\) only applies to adamw, but config.optimizer.name is mine"),
    ],
)
def test_what_makes_no_optimizer_is_one_line_before_any_image_is_read(factory, keys, message):
    simclr_jax.register_optimizer("mine", factory)
    changes = {"optimizer.name": "mine", **{f"optimizer.{key}": value for key, value in keys.items()}}
    with pytest.raises(ValueError, match=message) as error:
        schedule.check(small("textures", **changes))
    assert "\n" not in str(error.value)


def test_an_optimizer_that_is_not_registered_is_told_how():
    with pytest.raises(ValueError) as error:
        schedule.check(small("textures", **{"optimizer.name": "lion"}))
    assert "register your own first: simclr_jax.register_optimizer('lion', factory), or" in str(error.value)
