"""Mean and deviation of each channel: found once, kept with the run, and the same for all that reads it."""

import json

import flax.linen as nn
import jax
import numpy as np
import pytest

import simclr_jax
from simclr_jax.commands import pretrain, trials
from simclr_jax.commands.comparison import Sweep, Variant
from simclr_jax.models import Network, create_encoder
from simclr_jax.models.architectures import REGISTERED
from simclr_jax.models.images import normalized
from simclr_jax.training import normalization
from simclr_jax.training.trainer import Trainer
from support.samples import assert_one_line
from support.tiny_config import SIZE, small

COLOURLESS = {"augment.saturation": 0.0, "augment.hue": 0.0, "augment.grayscale_probability": 0.0}
MEAN, DEVIATION = np.array([0.1, 0.3, 0.5, 0.7, 0.2]), np.array([0.05, 0.02, 0.1, 0.1, 0.01])
OF_FIVE = {"data.channels": 5, **COLOURLESS, "augment.placement": "device", "model.normalize": "data"}


def images(seed=0, count=48):
    values = np.random.default_rng(seed).normal(size=(count, SIZE, SIZE, 5)) * DEVIATION + MEAN
    return np.rint(np.clip(values, 0, 1) * 4095).astype(np.uint16)


@pytest.fixture(scope="module", name="archive")
def make_archive(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "five.npz"
    np.savez(path, x_train=images(), y_train=np.arange(48) % 2, x_test=images(1, 8), y_test=np.arange(8) % 2)
    return path


def config(archive, **changes):
    return small(f"npz:{archive}", **OF_FIVE, **changes)


def test_the_numbers_are_those_of_the_training_images(archive):
    trainer = Trainer.from_config(config(archive))
    pixels = trainer.train.images / 4095.0
    np.testing.assert_allclose(trainer.config.model.mean, pixels.mean((0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(trainer.config.model.deviation, pixels.std((0, 1, 2)), rtol=1e-4)
    assert trainer.model.encoder.network.mean == trainer.config.model.mean
    seen = normalized(np.float32(pixels), trainer.model.encoder.network)
    np.testing.assert_allclose(seen.mean((0, 1, 2)), 0, atol=1e-3)
    np.testing.assert_allclose(seen.std((0, 1, 2)), 1, atol=1e-3)


def test_they_are_found_in_a_bounded_sample_that_the_seed_chooses(archive, monkeypatch):
    monkeypatch.setattr(normalization, "SAMPLED", 7)
    trainer = Trainer.from_config(config(archive))
    sample = trainer.train.sample(7, seed=trainer.config.seed).images / 4095.0
    np.testing.assert_allclose(trainer.config.model.mean, sample.mean((0, 1, 2)), rtol=1e-5)


def test_numbers_that_are_given_are_used(archive):
    given = {"model.mean": (0.1,) * 5, "model.deviation": (0.5,) * 5}
    assert Trainer.from_config(config(archive, **given)).model.encoder.network.mean == (0.1,) * 5


def test_a_run_keeps_them_resumes_with_them_and_gives_them_to_whoever_reads_it(archive, tmp_path, monkeypatch):
    pretrain.run(config(archive, **{"train.epochs": 1, "optimizer.warmup_epochs": 0.0}), str(tmp_path / "run"))
    stored = json.loads((tmp_path / "run/config.json").read_text())["model"]
    assert len(stored["mean"]) == len(stored["deviation"]) == 5
    # Were they found anew, they would be others, and the run another one.
    monkeypatch.setattr(normalization, "SAMPLED", 5)
    again = pretrain.run(config(archive, **{"train.epochs": 2, "optimizer.warmup_epochs": 0.0}), str(tmp_path / "run"))
    assert list(again.config.model.mean) == stored["mean"]
    start = config(archive, **{"model.init_from": str(tmp_path / "run")})
    assert list(pretrain.with_kept_normalization(start, str(tmp_path / "other")).model.mean) == stored["mean"]
    sweep = Sweep([Variant("one", {"loss.temperature": 0.1})], ("top1",))
    trials._check(
        start, str(tmp_path / "sweep"), sweep, 0
    )  # its runs start from these weights, and so with these numbers

    # What the encoder computes is that of a network without normalisation on images that were normalised before.
    encoder = simclr_jax.load_encoder(str(tmp_path / "run"))
    assert encoder.channels == 5 and encoder.bits == 12
    pixels = images(3, 4)
    h = encoder(pixels)
    np.testing.assert_allclose(encoder(np.float32(pixels / 4095)), h, atol=1e-5)
    np.testing.assert_allclose(encoder(encoder.preprocess(pixels)), h, atol=1e-5)
    found = simclr_jax.evaluate.trained_network.open_run(str(tmp_path / "run"))
    plain = found.model.encoder.clone(
        network=Network(encoder=found.model.encoder.network.encoder, cifar_stem=True, channels=5)
    )
    variables = {kind: tree["encoder"] for kind, tree in found.variables.items() if "encoder" in tree}
    x = (pixels / 4095 - stored["mean"]) / stored["deviation"]
    np.testing.assert_allclose(plain.apply(variables, np.float32(x), train=False), h, atol=1e-4)


class OnlyFive(nn.Module):
    @nn.compact
    def __call__(self, images, train):
        assert images.shape[-1] == 5
        return nn.Dense(4)(images.mean((1, 2)))


def test_an_encoder_of_ones_own_has_them_too(archive, monkeypatch):
    monkeypatch.setattr(REGISTERED, "own", {})
    simclr_jax.register_encoder("only_five", lambda dtype, axis_name: OnlyFive())
    trainer = Trainer.from_config(config(archive, **{"model.encoder": "only_five", "model.cifar_stem": False}))
    kernel = trainer.state_shapes().params["encoder"]["module"]["Dense_0"]["kernel"]
    assert kernel.shape == (5, 4) and len(trainer.model.encoder.network.mean) == 5


def test_a_constant_channel_is_told(tmp_path):
    constant = images()
    constant[..., 2] = 1000
    np.savez(tmp_path / "set.npz", x_train=constant)
    with pytest.raises(
        ValueError, match=r"channel 2 \(counted from 0\) is 0.2442 everywhere in \d+ training images"
    ) as error:
        Trainer.from_config(config(tmp_path / "set.npz"))
    assert_one_line(error)


BAD = {
    "imagenet": (
        {"normalize": "imagenet", "channels": 5},
        "is of red, green and blue, and data.channels is 5; use .*=data",
    ),
    "without effect": ({"mean": (0.1,) * 3}, "model.mean has no effect with normalize 'none'; use normalize 'data'"),
    "too few": (
        {"normalize": "data", "mean": (0.1,), "deviation": (1.0,), "channels": 5},
        "have 1 and 1 numbers; give one for each of the 5 channels",
    ),
    "one alone": ({"normalize": "data", "mean": (0.1,) * 3}, "have 3 and 0 numbers"),
    "no deviation": ({"normalize": "data", "mean": (0.1,) * 3, "deviation": (1, 0, 1)}, "each must be above 0"),
    "infinite": ({"normalize": "data", "mean": (0, 0, np.inf), "deviation": (1,) * 3}, "must be finite numbers"),
    "33 channels": ({"channels": 33}, "channels 33 must be from 1 to 32"),
}


@pytest.mark.parametrize("name", BAD)
def test_numbers_that_do_not_fit_are_refused(name):
    keys, mentions = BAD[name]
    with pytest.raises(ValueError, match=mentions) as error:
        Network(**keys)
    assert_one_line(error)


@pytest.mark.parametrize("name", ["resnet_smallest", "vit_smallest", "convnext_atto"])
def test_encoders_read_as_many_channels(name):
    encoder = create_encoder(name, channels=2)
    x = np.random.default_rng(0).uniform(size=(2, 32, 32, 2)).astype(np.float32)
    variables = jax.eval_shape(lambda: encoder.init(jax.random.key(0), x, train=False))
    assert variables["params"]["stem_conv"]["kernel"].shape[2] == 2
    with pytest.raises(ValueError, match=r"images float32 \[2, 32, 32, 3\] must be float \[batch, height, width, 2\]"):
        encoder.init(jax.random.key(0), x[..., [0, 1, 1]], train=False)
    unknown = create_encoder(name, channels=2, normalize="data")
    with pytest.raises(ValueError, match="normalize 'data' needs mean and deviation, one number for each channel"):
        unknown.init(jax.random.key(0), x, train=False)
