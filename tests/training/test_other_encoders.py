"""Vision transformers and ConvNeXts: micro-batches on devices give what one pass on one device gives."""

import functools

import jax
import numpy as np
import pytest
from jax import lax

from simclr_jax import losses
from simclr_jax.models import ENCODERS, Head, Network, create_model
from simclr_jax.models.architectures import ConvNeXtArchitecture, ViTArchitecture
from simclr_jax.runtime import devices
from simclr_jax.training import gradients
from support.variables import random_variables

IMAGES, SIDE, DEVICES = 8, 8, 2
SMALL = {"vit": ViTArchitecture(16, 1, 2, patch_size=2), "convnext": ConvNeXtArchitecture((1,), (16,), patch_size=2)}


@pytest.fixture(autouse=True)
def small_encoders(monkeypatch):
    for name, architecture in SMALL.items():
        monkeypatch.setitem(ENCODERS, name, architecture)


@pytest.mark.parametrize("name", SMALL)
def test_micro_batches_on_devices_give_what_one_pass_on_one_gives(name):
    """With a head of group norm, which looks at one image alone, as the encoder's LayerNorm does."""
    model = create_model(Network(encoder=name, norm="group", head=Head(dim=16)))
    rng = np.random.default_rng(0)
    batch = {
        "views": rng.uniform(size=(IMAGES, 2, SIDE, SIDE, 3)).astype(np.float32),
        "labels": np.zeros(IMAGES, np.int32),
    }
    params = random_variables(model, batch["views"][:, 0])["params"]

    def how(axis_name):
        loss = functools.partial(losses.create_loss("nt_xent", temperature=0.5), axis_name=axis_name)
        return {"views_of": lambda part: part, "model": model, "loss": loss}

    def in_parts(params, batch):
        result, found = gradients.in_micro_batches(params, {}, batch, count=2, **how(devices.AXIS))
        return lax.pmean((result.loss, found), devices.AXIS)

    some = jax.local_devices()[:DEVICES]
    got = jax.pmap(in_parts, devices.AXIS, in_axes=(None, 0), devices=some)(params, devices.shard(batch, some))
    result, wanted = jax.jit(lambda params, batch: gradients.in_one_pass(params, {}, batch, **how(None)))(params, batch)
    for ours, want in zip(jax.tree.leaves(got), jax.tree.leaves((result.loss, wanted)), strict=True):
        for of_device in ours:
            np.testing.assert_allclose(of_device, want, rtol=2e-3, atol=3e-4 * np.abs(want).max() + 1e-7)
