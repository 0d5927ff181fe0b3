"""A projection of patches that stays random: no step changes a bit of it, whatever the optimiser and its decay."""

import jax
import numpy as np
import pytest

from simclr_jax.runtime.config import network_of
from simclr_jax.runtime.differences import encoder_differences
from simclr_jax.training.trainer import Trainer
from support.smallest import VIT
from support.tiny_config import small, write_archive


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "lars"])
def test_a_frozen_projection_keeps_its_bits_and_all_else_decays(optimizer, tmp_path):
    changes = {
        "model.encoder": VIT,
        "model.cifar_stem": False,
        "model.freeze_patch_projection": True,
        "optimizer.name": optimizer,
        "optimizer.weight_decay": 0.5,
        "optimizer.warmup_epochs": 0.0,
        "optimizer.exclude": "none",
    }
    config = small(f"npz:{write_archive(tmp_path / 'images.npz')}", **changes)
    frozen = Trainer.from_config(config)
    params = jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), frozen.state_shapes().params)
    assert set(moved(frozen, params)) == {True, "encoder/stem_conv"}
    before = network_of(config)
    config.model.freeze_patch_projection = False
    assert not encoder_differences(before, network_of(config))  # a run may start from the weights of such a one
    assert set(moved(Trainer.from_config(config), params)) == {True}


def moved(trainer, params):
    """True for each parameter that an update without a gradient changes, by decay; else what it belongs to."""
    zeros = jax.tree.map(np.zeros_like, params)
    updates, _ = trainer.optimizer.update(zeros, trainer.optimizer.init(params), params)
    leaves = jax.tree_util.tree_leaves_with_path(updates)
    return [bool(np.all(leaf)) or "/".join(key.key for key in path[:2]) for path, leaf in leaves]
