"""A user's own function on views: what it is given, what it must return, and where a run uses it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import simclr_jax
from simclr_jax.augment import own
from simclr_jax.augment.recipe import Recipe
from simclr_jax.commands import diagnose, pretrain
from simclr_jax.configs import diagnose as of_diagnose
from simclr_jax.runtime.differences import config_differences
from simclr_jax.training.trainer import Trainer
from support.tiny_config import small, write_archive

SIZE = 8


@pytest.fixture(autouse=True)
def nothing_registered(monkeypatch):
    monkeypatch.setattr(own.OWN, "own", {})


def blend(key, view):
    """Half of the view and half a colour of chance, too bright by 0.2."""
    return 0.2 + 0.5 * view + 0.5 * jax.random.uniform(key, view.shape[-1:])


def key_by_hand(seed, epoch, low, high, view):
    """The documented parts of a key, one after the other."""
    key = jax.random.fold_in(jax.random.key(seed), 0x6F776E)
    for part in (epoch, low, high, view):
        key = jax.random.fold_in(key, np.uint32(part % 2**32))
    return key


def test_each_view_gets_its_own_key_and_the_result_is_clipped():
    simclr_jax.register_view_function("blend", blend)
    views = np.random.default_rng(0).random((3, 2, SIZE, SIZE, 5), np.float32)
    ids = [7, 2**31 + 5, 2**62 + 9]
    halves = np.array(ids)[:, None].view(np.int32)
    made = np.asarray(
        jax.jit(lambda x, ids: own.changed("blend", x, seed=4, epoch=np.array([0, 1, -1]), ids=ids))(views, halves)
    )
    for row, (epoch, identity) in enumerate(zip((0, 1, -1), ids, strict=True)):
        for view in range(2):
            key = key_by_hand(4, epoch, identity % 2**32, identity >> 32, view)
            expected = np.clip(blend(key, views[row, view]), 0, 1)
            np.testing.assert_allclose(made[row, view], expected, atol=1e-6)
    assert made.max() == 1
    one = own.changed("blend", views[:1], seed=4, epoch=np.array([0]), ids=np.array([7]))  # an id of 32 bits alone
    np.testing.assert_allclose(one, made[:1], atol=1e-6)


def test_views_for_a_loop_of_ones_own_have_it():
    simclr_jax.register_view_function("blend", blend)
    images = np.random.default_rng(0).integers(0, 256, (2, 9, 9, 3), np.uint8)
    plain, made = (
        jax.jit(lambda images, own=own: simclr_jax.views(Recipe(SIZE, own=own), images, seed=4, epoch=3))(images)
        for own in ("", "blend")
    )
    np.testing.assert_allclose(made[1, 0], np.clip(blend(key_by_hand(4, 3, 1, 0, 0), plain[1, 0]), 0, 1), atol=1e-6)
    with pytest.raises(ValueError, match="augment.own 'other' is not registered"):
        simclr_jax.views(Recipe(SIZE, own="other"), images)


def fails(key, view):
    raise KeyError("no such thing\nand more")


BROKEN = {
    "returns float32[4, 8, 3]": lambda key, view: view[:4],
    "it must return float[8, 8, 3], the shape it is given, but returns int32[8, 8, 3]": lambda key, view: jnp.int32(
        view
    ),
    "it must return an array, float[8, 8, 3], but returns NoneType": lambda key, view: None,
    "returns tuple": lambda key, view: (view, view),
    "KeyError: 'no such thing": fails,
    "TracerBoolConversionError: ": lambda key, view: view if view.mean() > 0 else 1 - view,
    "TypeError: ": lambda view: view,
}


@pytest.mark.parametrize("words", BROKEN)
def test_a_function_that_does_not_work_is_one_line_before_any_image_is_read(words):
    simclr_jax.register_view_function("mine", BROKEN[words])
    with pytest.raises(ValueError) as error:
        Trainer.from_config(small("npz:/no/such.npz", **{"augment.own": "mine"}))
    start = "the registered view function augment.own='mine' cannot be used with a view float32[8, 8, 3]: "
    assert str(error.value).startswith(start) and words in str(error.value) and "\n" not in str(error.value)


def test_a_name_that_is_not_registered_is_told_how():
    with pytest.raises(ValueError) as error:
        Trainer.from_config(small("npz:/no/such.npz", **{"augment.own": "mine"}))
    assert str(error.value) == (
        "augment.own 'mine' is not registered; register your own first: "
        "simclr_jax.register_view_function('mine', function), or on the command line --import=FILE.py"
    )


@pytest.mark.parametrize("placement", ["host", "device"])
def test_the_compiled_step_has_it_so_that_a_plan_counts_it(tmp_path, placement):
    simclr_jax.register_view_function("root", lambda key, view: jnp.cbrt(view))  # which no network has
    source = f"npz:{write_archive(tmp_path / 'images.npz')}"
    trainer = Trainer.from_config(small(source, **{"augment.placement": placement, "augment.own": "root"}))
    assert "cbrt" in trainer.lower_train_step().as_text()


def test_a_resumed_run_needs_the_same_name_and_a_run_of_before_had_none():
    new = small("textures", **{"augment.own": "mine"}).to_dict()
    old = small("textures").to_dict()
    del old["augment"]["own"], old["augment"]["noise_deviation"], old["augment"]["solarize_probability"]
    assert config_differences(old, new) == ["augment.own: '' → 'mine'"]
    assert config_differences(old, small("textures").to_dict()) == []


def test_a_run_is_resumed_with_it_alone_and_read_without(tmp_path):
    simclr_jax.register_view_function("blend", blend)
    source = f"npz:{write_archive(tmp_path / 'images.npz')}"
    once = {"train.epochs": 1, "optimizer.warmup_epochs": 0.0}
    config = small(source, **once, **{"augment.own": "blend"})
    run = str(tmp_path / "run")
    pretrain.run(config, run)
    with pytest.raises(ValueError, match="augment.own: 'blend' → ''"):
        pretrain.run(small(source, **once), run)
    own.OWN.own.clear()
    with pytest.raises(ValueError, match="augment.own 'blend' is not registered"):
        pretrain.run(config, run)
    assert simclr_jax.load_encoder(run)(np.zeros((1, SIZE, SIZE, 3), np.uint8)).shape[0] == 1
    assert simclr_jax.open_run(run).knn().top1 >= 0
    with pytest.raises(ValueError, match="augment.own 'blend' is not registered"):
        diagnose.run(of_diagnose.get_config(), run)
