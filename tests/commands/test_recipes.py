"""Recipes of others: their keys against values copied by hand from the sources, and that a run can be made of each."""

import ast

import pytest

import simclr_jax
from simclr_jax.commands import config_files
from simclr_jax.runtime.config import flatten
from simclr_jax.training.trainer import Trainer
from support.tiny_config import write_archive

# PyTorch programs of one GPU: both views apart, SGD without Nesterov, decay on all parameters, cosine without warm-up.
TORCH = {
    "model.encoder": "resnet18",
    "model.view_batch_norm": True,
    "optimizer.name": "sgd",
    "optimizer.scaling": "linear",
    "optimizer.momentum": 0.9,
    "optimizer.nesterov": "no",
    "optimizer.weight_decay": 5e-4,
    "optimizer.exclude": "none",
    "optimizer.warmup_epochs": 0.0,
    "loss.temperature": 0.5,
    "head.kind": "nonlinear",
    "head.layers": 2,
    "head.dim": 128,
    "data.holdout_fraction": 0.0,
}
VIEWS = {
    "augment.image_size": 32,
    "augment.min_area": 0.08,
    "augment.max_area": 1.0,
    "augment.flip_probability": 0.5,
    "augment.jitter_probability": 0.8,
    "augment.grayscale_probability": 0.2,
    "augment.blur_probability": 0.0,
}
OF_CIFAR = {"data.source": "tfds:cifar10", "model.cifar_stem": True}
JITTER = ("brightness", "contrast", "saturation", "hue")
# {recipe: (its keys, strengths of the jitter, its peak learning rate)}
SOURCES = {
    "cifar10_plain_sgd": (
        TORCH
        | VIEWS
        | OF_CIFAR
        | {
            "augment.min_area": 0.2,
            "augment.grayscale_probability": 0.1,
            "model.normalize": "none",
            "head.hidden_dim": 1024,
            "head.norm": False,
            "train.batch_size": 512,
            "train.epochs": 1000,
        },
        (0.4, 0.4, 0.4, 0.1),
        0.06,
    ),
    "cifar10_lightly": (
        TORCH
        | VIEWS
        | OF_CIFAR
        | {
            "model.normalize": "imagenet",
            "head.hidden_dim": 0,  # 512, as h
            "head.norm": True,
            "train.batch_size": 512,
            "train.epochs": 200,
        },
        (0.4, 0.4, 0.4, 0.1),
        6e-2 * 512 / 128,
    ),
    "imagenette_lightly": (
        TORCH
        | VIEWS
        | {
            "data.source": "tfds:imagenette/160px-v2",
            "augment.image_size": 128,
            "augment.blur_probability": 0.5,
            "augment.min_sigma": 0.1,
            "augment.max_sigma": 2.0,
            "model.cifar_stem": False,
            "model.pool": "symmetric",
            "model.normalize": "imagenet",
            "head.hidden_dim": 0,
            "head.norm": True,
            "train.batch_size": 256,
            "train.epochs": 800,
        },
        (0.4, 0.4, 0.4, 0.1),
        6e-2,
    ),
    "cifar10_solo_learn": (
        TORCH
        | VIEWS
        | OF_CIFAR
        | {
            "model.normalize": "cifar10",
            "head.hidden_dim": 2048,
            "head.dim": 256,
            "head.norm": False,
            "loss.temperature": 0.2,
            "optimizer.weight_decay": 1e-5,
            "optimizer.exclude": "all_but_kernels",
            "optimizer.warmup_epochs": 10.0,
            "train.batch_size": 256,
            "train.epochs": 1000,
        },
        (0.8, 0.8, 0.8, 0.2),
        0.4,
    ),
    "cifar10_google": (
        VIEWS
        | OF_CIFAR
        | {
            "data.holdout_fraction": 0.0,
            "model.encoder": "resnet18",
            "model.normalize": "none",
            "model.view_batch_norm": False,
            "model.global_batch_norm": True,
            "head.kind": "nonlinear",
            "head.layers": 3,
            "head.dim": 128,
            "head.hidden_dim": 0,
            "head.norm": True,
            "loss.temperature": 0.5,
            "optimizer.name": "lars",
            "optimizer.momentum": 0.9,
            "optimizer.nesterov": "",
            "optimizer.weight_decay": 1e-4,
            "optimizer.exclude": "all_but_kernels",
            "optimizer.warmup_epochs": 10.0,
            "train.batch_size": 512,
            "train.epochs": 1000,
        },
        (0.4, 0.4, 0.4, 0.1),
        1.0 * 512 / 256,
    ),
}


def test_there_are_these():
    assert [name for name in config_files.names() if "/" in name] == sorted(f"recipes/{name}" for name in SOURCES)


@pytest.mark.parametrize("name", SOURCES)
def test_its_keys_are_those_of_its_source(name):
    wanted, jitter, peak = SOURCES[name]
    config = simclr_jax.load_config(f"recipes/{name}")
    found = flatten(config)
    assert {key: found[key] for key in wanted} == wanted
    strengths = [found["augment.jitter_strength"] * found[f"augment.{of}"] for of in JITTER]
    assert strengths == pytest.approx(jitter)
    rate = found["optimizer.learning_rate"] * found["train.batch_size"] / 256
    assert found["optimizer.scaling"] == "linear" and rate == pytest.approx(peak)
    # What differs from the paper's recipe is in the table, or is no matter of the result.
    default = flatten(simclr_jax.load_config("default"))
    no_matter = {"data.cache", "data.test_split", "augment.placement", "checkpoint.every_epochs"}
    of_jitter = {f"augment.{of}" for of in (*JITTER, "jitter_strength")}
    changed = {key for key, value in found.items() if value != default[key]}
    assert changed <= {*wanted, *no_matter, *of_jitter, "optimizer.learning_rate"}


@pytest.fixture(scope="module", name="archive")
def make_archive(tmp_path_factory):
    return write_archive(tmp_path_factory.mktemp("data") / "images.npz")


def test_what_is_excluded_from_decay_must_be_there(archive):
    small = {"data.source": f"npz:{archive}", "train.batch_size": 16, "model.encoder": "resnet_tiny"}
    parts = {"optimizer.exclude": "bias,norm"}
    Trainer.from_config(simclr_jax.load_config("recipes/cifar10_plain_sgd", small | parts))
    parts["optimizer.exclude"] += ",batchnorm"
    with pytest.raises(ValueError, match="no parameter has 'batchnorm' in its path"):
        Trainer.from_config(simclr_jax.load_config("recipes/cifar10_plain_sgd", small | parts))


@pytest.mark.parametrize("name", SOURCES)
def test_a_run_can_be_made_of_it_and_its_docstring_says_where_it_is_from(name, archive):
    values = {
        "data.source": f"npz:{archive}",
        "data.test_split": "",
        "train.batch_size": 16,
        "augment.placement": "device",
    }
    trainer = Trainer.from_config(simclr_jax.load_config(f"recipes/{name}", values))
    assert trainer.schedule.steps_per_epoch == 2 and not len(trainer.validation)
    head = trainer.model.head.network.head
    assert head.hidden_dim == SOURCES[name][0]["head.hidden_dim"]
    text = ast.get_docstring(ast.parse((config_files.FOLDER / f"recipes/{name}.py").read_text()))
    assert f"--config=recipes/{name} --workdir=" in text and "\nSource: " in text and "what the keys cannot say" in text
