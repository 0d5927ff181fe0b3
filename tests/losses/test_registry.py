"""Losses of a user: which may be registered, what they must return, and what a run makes of them."""

import jax.numpy as jnp
import numpy as np
import pytest

import simclr_jax
from simclr_jax import losses
from simclr_jax.commands import pretrain
from simclr_jax.losses import registry
from simclr_jax.runtime.metrics import read_rows
from simclr_jax.training.trainer import Trainer
from support.tiny_config import small, write_archive


@pytest.fixture(autouse=True)
def nothing_registered(monkeypatch):
    monkeypatch.setattr(registry.OWN, "own", {})


def pull(z1, z2, *, labels, temperature, axis_name):
    """A loss of one's own: z of the same label, and SupCon's metrics but for one."""
    loss, metrics = losses.supcon(z1, z2, labels=labels, temperature=temperature, axis_name=axis_name)
    return loss, {"contrastive_accuracy": metrics["contrastive_accuracy"] - 2, "labelled": jnp.mean(labels >= 0)}


def use(loss, name="mine"):
    simclr_jax.register_loss(name, loss)
    z = jnp.asarray(np.random.default_rng(0).normal(size=(2, 4, 3)), jnp.float32)
    created = losses.create_loss(name, temperature=0.5)
    return z, created(*z, labels=jnp.array([0, 0, 1, -1]), axis_name=None)


def test_a_loss_gives_what_it_returns_and_the_metrics_that_it_does_not():
    z, (loss, metrics) = use(pull)
    want, seen = losses.supcon(*z, labels=jnp.array([0, 0, 1, -1]), temperature=0.5)
    np.testing.assert_allclose(loss, want)
    np.testing.assert_allclose(metrics.pop("contrastive_entropy"), seen["contrastive_entropy"])
    assert metrics == {"contrastive_accuracy": seen["contrastive_accuracy"] - 2, "labelled": 0.75}
    assert {metric.dtype for metric in metrics.values()} == {jnp.dtype("float32")}


def returning(returned):
    return lambda z1, z2, *, labels, temperature, axis_name: returned(z1)


BROKEN = {
    "a pair, the loss and a dict of metrics, but returns float32[]": lambda z: z.sum(),
    "a pair, the loss and a dict of metrics, but returns a tuple of 3": lambda z: (z.sum(), {}, {}),
    "its loss must be a float scalar, but is float32[4]": lambda z: (z.sum(1), {}),
    "its loss must be a float scalar, but is int32[]": lambda z: (jnp.int32(3), {}),
    "its loss must be a float scalar, but is NoneType": lambda z: (None, {}),
    "its metrics must be a dict of scalars, but are float32[]": lambda z: (z.sum(), z.sum()),
    "its metric 'norms' must be a scalar with a name, but is float32[4]": lambda z: (z.sum(), {"norms": z.sum(1)}),
    "its metric 3 must be a scalar with a name": lambda z: (z.sum(), {3: z.sum()}),
}


@pytest.mark.parametrize("words", BROKEN)
def test_a_loss_that_breaks_the_contract_is_told_which_part(words):
    with pytest.raises(ValueError) as error:
        use(returning(BROKEN[words]))
    assert words in str(error.value) and "\n" not in str(error.value)


def test_one_rule_of_names_for_all_that_users_register():
    for name, loss, words in (("dcl", pull, "loss 'dcl' is one of this library"), ("mine", 0.5, "not a float")):
        with pytest.raises(ValueError, match=words):
            simclr_jax.register_loss(name, loss)
    with pytest.raises(
        ValueError, match="loss.name 'mine' is not registered; .*register_loss[(]'mine'.*nt_xent, dcl, supcon"
    ):
        losses.create_loss("mine", temperature=0.5)


@pytest.mark.parametrize("settings", [{"chunk_size": 4}, {"gather": "ring"}])
def test_settings_without_effect_on_an_own_loss_are_refused(settings):
    simclr_jax.register_loss("mine", pull)
    with pytest.raises(
        ValueError, match="loss.chunk_size and loss.gather have no effect on the registered loss 'mine'"
    ):
        losses.create_loss("mine", temperature=0.5, **settings)


def needs_a_number(z1, z2, *, labels, temperature, axis_name):
    return z1.sum() * float(z1[0, 0]), {}


def of_two(z1, z2):
    return z1.sum(), {}


def test_a_trainer_refuses_a_loss_that_does_not_work_in_a_step(tmp_path):
    source = f"npz:{write_archive(tmp_path / 'images.npz')}"
    for loss, words in (
        (needs_a_number, "ConcretizationTypeError: "),
        (of_two, "TypeError: of_two() got an unexpected keyword argument 'labels'"),
        (returning(lambda z: (z.sum(), {"alignment": z.mean()})), "its metric 'alignment' has the name of one that"),
        (returning(BROKEN["its loss must be a float scalar, but is float32[4]"]), "its loss must be a float scalar"),
    ):
        registry.OWN.own.clear()
        simclr_jax.register_loss("mine", loss)
        with pytest.raises(ValueError) as error:
            Trainer.from_config(small(source, **{"loss.name": "mine"}))
        start = "the registered loss loss.name='mine' cannot be used with z1 and z2 float32["
        assert str(error.value).startswith(start) and words in str(error.value) and "\n" not in str(error.value)


def test_supcon_without_labels_is_refused(tmp_path):
    np.savez(tmp_path / "bare.npz", x_train=np.zeros((40, 8, 8, 3), np.uint8))
    config = small(f"npz:{tmp_path / 'bare.npz'}", **{"loss.name": "supcon"})
    with pytest.raises(
        ValueError, match="loss.name=supcon learns from labels, .*data.labels=folders.* loss.name=nt_xent"
    ):
        Trainer.from_config(config)


def test_a_run_trains_by_an_own_loss_and_logs_its_metrics(tmp_path, capfd):
    simclr_jax.register_loss("mine", pull)
    source = f"npz:{write_archive(tmp_path / 'images.npz')}"
    config = small(source, **{"loss.name": "mine", "train.epochs": 2})
    pretrain.run(config, str(tmp_path / "run"))
    rows = read_rows(str(tmp_path / "run"))
    assert all(row["labelled"] == 1 and row["contrastive_accuracy"] < 0 for row in rows if "labelled" in row)
    assert any(row.get("validation_labelled") == 1 for row in rows)
    assert not any("validation_chance_loss" in row for row in rows)  # nobody knows it
    assert "mine, temperature 0.2" in capfd.readouterr().out
