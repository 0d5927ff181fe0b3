"""Optimizers of the user's own: called as documented, named by the config, refused in one line."""

import types

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
    monkeypatch.setattr(optimizers, "_REGISTERED", {})


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


def copy_of(function, **changed):
    new = types.FunctionType(function.__code__, function.__globals__, function.__name__)
    new.__kwdefaults__, new.__qualname__ = function.__kwdefaults__, function.__qualname__
    for name, value in changed.items():
        setattr(new, name, value)
    return new


def test_a_cell_that_is_run_again_replaces_its_function_and_nothing_else_does():
    simclr_jax.register_optimizer("signs", signs)
    simclr_jax.register_optimizer("signs", signs)
    again = copy_of(signs)
    simclr_jax.register_optimizer("signs", again)
    assert optimizers._REGISTERED["signs"] is again
    for other in (copy_of(signs, __qualname__="other"), copy_of(signs, __module__="other"), optax.sgd):
        with pytest.raises(
            ValueError, match="'signs' is already registered, as <function signs .*; give this one another"
        ):
            simclr_jax.register_optimizer("signs", other)
    assert optimizers._REGISTERED["signs"] is again


@pytest.mark.parametrize(
    ("name", "factory", "message"),
    [
        ("lars", signs, "'lars' is an optimizer of this library; give yours another name, such as 'my_lars'"),
        ("two words", signs, "an optimizer cannot be named 'two words': use letters, digits, _ and -"),
        (3, signs, "an optimizer cannot be named 3: use letters"),
        (
            "lion",
            optax.sgd(0.1),
            "must be a function \\(learning_rate, \\*, weight_decay, mask\\) that returns an optax",
        ),
    ],
)
def test_what_cannot_be_registered_is_one_line(name, factory, message):
    with pytest.raises(ValueError, match=message) as error:
        simclr_jax.register_optimizer(name, factory)
    assert "\n" not in str(error.value) and not optimizers._REGISTERED


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
    assert str(error.value).endswith("; or register yours: simclr_jax.register_optimizer('lion', factory)")
