"""Machines by name: what a name means, what is refused, and that what is planned for them is what runs."""

import math
from importlib import metadata

import jax
import numpy as np
import pytest

from simclr_jax.configs import cifar10
from simclr_jax.runtime import devices, targets
from simclr_jax.training import step as steps
from simclr_jax.training.trainer import Trainer
from support import tiny_config


@pytest.mark.parametrize(
    ("name", "hosts", "per_host"),
    [
        ("h100", 1, 1),
        ("h100x8", 1, 8),
        ("4xh100x8", 4, 8),
        ("2xl4", 2, 1),
        ("v4-8", 1, 4),  # cores: two a chip, and jax makes a chip one device
        ("v4-32", 4, 4),
        ("v5p-8", 1, 4),
        ("v5e-1", 1, 1),
        ("v5e-4", 1, 4),
        ("v5e-8", 1, 8),
        ("v5e-16", 4, 4),
        ("v5e-256", 64, 4),
        ("v6e-8", 1, 8),
    ],
)
def test_names_say_hosts_and_devices(name, hosts, per_host):
    target = targets.find(name)
    assert (target.hosts, target.per_host, target.count) == (hosts, per_host, hosts * per_host)
    assert target.platform == ("tpu" if name.startswith("v") else "cuda")


@pytest.mark.parametrize("name", targets.EXAMPLES)
def test_every_example_is_a_target(name):
    assert targets.find(name).name == name


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("h1000", "GPUs are a100, h100, h200, l4.*did you mean h100"),
        ("", "is unknown"),
        ("v5e", "as v5e-256; did you mean v5e-4"),
        ("v5e-3", "slices of v5e are v5e-1, v5e-4, v5e-8"),
        ("v4-4", "slices of v4 are v4-8"),
        ("v5e-512", "v5e-256"),
        ("0xh100x8", "1 to 1024 hosts with 1 to 16 GPUs"),
        ("h100x17", "1 to 1024 hosts with 1 to 16 GPUs"),
        ("h100 x8", "is unknown"),
    ],
)
def test_other_names_are_refused_with_those_there_are(name, words):
    with pytest.raises(ValueError, match=words) as error:
        targets.find(name)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("installed", "words"),
    [
        ({}, r"not installed: pip install 'simclr_jax\[plan-gpu\]'"),
        ({"jax-cuda12-pjrt": "0.1.0"}, r"has version 0.1.0, but jax .* needs ==.*: pip install --upgrade"),
    ],
)
def test_a_missing_or_foreign_compiler_is_told_with_the_mend(installed, words, monkeypatch):
    version = metadata.version

    def found(package):
        if package.startswith(("jax-cuda", "libtpu")):
            if package not in installed:
                raise metadata.PackageNotFoundError(package)
            return installed[package]
        return version(package)

    monkeypatch.setattr(metadata, "version", found)
    with pytest.raises(ValueError, match=words):
        targets.find("h100").devices()
    with pytest.raises(ValueError, match=r"libtpu, which is not installed: pip install 'simclr_jax\[plan-tpu\]'"):
        targets.find("v5e-4").devices()


def test_a_foreign_libtpu_is_told(monkeypatch):
    version = metadata.version
    monkeypatch.setattr(metadata, "version", lambda package: "0.0.1" if package == "libtpu" else version(package))
    with pytest.raises(ValueError, match=r"libtpu has version 0.0.1, but jax .* needs ==.*: pip install --upgrade"):
        targets.find("v5e-4").devices()


def test_a_gpus_memory_is_what_jax_takes_of_it(monkeypatch):
    monkeypatch.delenv("XLA_PYTHON_CLIENT_MEM_FRACTION", raising=False)
    target = targets.find("h100")
    assert target.memory == int(0.75 * target.chip.memory)
    monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", ".9")
    assert target.memory == int(0.9 * target.chip.memory)
    assert targets.find("v5e-4").memory == 16 * 2**30


def test_slices_are_as_square_as_they_can_be():
    for name, shape in {"v5e-32": "4x8", "v5e-256": "16x16", "v4-8": "2x2x1", "v4-64": "2x4x4"}.items():
        target = targets.find(name)
        found = targets.slice_shape(target.chip, target.count)
        assert found == shape
        assert math.prod(map(int, found.split("x"))) == target.count


@pytest.mark.parametrize("changes", [{}, {"train.microbatch_size": 8}, {"loss.gather": "ring", "loss.chunk_size": 2}])
def test_what_is_planned_has_the_bits_of_what_runs(changes, tmp_path):
    """pmap, which runs, and shard_map, which is compiled for targets, on 4 devices: the whole state and the metrics."""

    config = tiny_config.shrink(cifar10.get_config(), f"npz:{tiny_config.write_archive(tmp_path / 'x.npz')}", **changes)
    trainer, four = Trainer.from_config(config), jax.local_devices()[:4]
    arguments = trainer._step_arguments
    resident = trainer.feed.resident
    mapped = devices.map_train_step(steps.pretrain_step, four, **arguments)
    sharded = devices.shard_train_step(steps.pretrain_step, four, **arguments)
    one, other = (devices.replicate(trainer.initial_state(), four) for _ in range(2))
    for batch in trainer.feed.training(0, 2):
        one, metrics = mapped(one, devices.shard(batch, four), devices.replicate(resident, four), False)
        other, same = sharded(other, batch, resident, np.zeros(4, np.float32))
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(np.asarray(a.addressable_shards[0].data), np.asarray(b))
    assert devices.first(metrics) == {name: float(value) for name, value in same.items()}
