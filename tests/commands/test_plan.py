"""The plan tells what a run takes, finds what fits, and leaves nothing behind."""

import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

from configs import quickstart
from simclr_jax.commands import plan
from simclr_jax.runtime import checkpoint, devices
from simclr_jax.training.trainer import Trainer
from support import smallest

ROOT = pathlib.Path(__file__).parents[2]
SIZE, IMAGES = 8, 128


@pytest.fixture(scope="module", name="config")
def make_config(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "images.npz"
    rng = np.random.default_rng(0)
    np.savez(path, x_train=rng.integers(0, 256, (180, SIZE, SIZE, 3), np.uint8), y_train=np.arange(180) % 3)
    config = quickstart.get_config()
    changes = {"data.source": f"npz:{path}", "data.holdout_fraction": 0.1, "augment.image_size": SIZE}
    changes |= {"augment.jitter_probability": 0.0, "train.batch_size": IMAGES, "train.epochs": 2}
    config.update_from_flattened_dict(changes)
    return config


@pytest.fixture(scope="module", name="result")
def make_result(config):
    return plan.run(config)


def test_it_counts_what_a_run_counts(config, result):
    trainer = Trainer.from_config(config)
    assert result["steps"] == trainer.schedule.total_steps == 2
    assert result["images_seen"] == 2 * IMAGES
    kernels = 3 * 3 * (3 * 16 + 16 * 16 * 2 + 16 * 32 + 32 * 32 + 32 * 64 + 64 * 64) + 16 * 16 + 16 * 32 + 32 * 64
    norms = 2 * (16 + 3 * 16 + 3 * 32 + 3 * 64)
    assert result["encoder_parameters"] == kernels + norms
    assert result["head_parameters"] == 64 * 64 + 2 * 64 + 64 * 128 + 128
    assert result["overrides"] == {}
    assert 0 < result["seconds_per_step"] < 60


def test_flops_are_those_of_three_forward_passes(config, result):
    """A multiplication and an addition for every weight and place, forward, and twice that backward."""
    products = (3 * SIZE - 2) ** 2 * 3 * 16 + (64 * 64 + 64 * 128)  # a kernel's taps that fall outside are none
    for width, side in {16: SIZE, 32: SIZE // 2, 64: SIZE // 4}.items():
        before, inner = max(16, width // 2), (3 * side - 2) ** 2
        first = inner if width == 16 else (3 * side - 1) ** 2  # its stride of 2 leaves one edge alone
        products += first * before * width + inner * width * width + side**2 * before * width
    assert result["flops_per_step"] == pytest.approx(3 * 2 * products * 2 * IMAGES, rel=0.2)


def test_the_split_adds_up_to_what_xla_says(result):
    memory = result["memory"]
    assert memory["input"] >= IMAGES // jax.device_count() * 2 * SIZE * SIZE * 3 * 4
    assert memory["state"] == result["checkpoint_bytes"] > 4 * 3 * result["encoder_parameters"]
    assert 0 < memory["loss"] < memory["activations"]


def test_a_checkpoint_takes_what_was_said(config, result, tmp_path):
    rng = np.random.default_rng(0)

    def trained(x):
        """A fresh optimiser's zeros would be compressed away."""
        return rng.normal(size=x.shape).astype(x.dtype)

    checkpoints = checkpoint.Checkpoints(str(tmp_path), keep=1)
    checkpoints.save(1, jax.tree.map(trained, Trainer.from_config(config).state_shapes()))
    checkpoints.close()
    on_disk = sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file())
    assert on_disk == pytest.approx(result["checkpoint_bytes"], rel=0.1)


def test_shapes_of_the_state_are_those_of_the_state(config):
    trainer = Trainer.from_config(config)
    made, said = trainer.initial_state(), trainer.state_shapes()
    assert jax.tree.map(lambda x: (x.shape, x.dtype), made) == jax.tree.map(lambda x: (x.shape, x.dtype), said)


def test_where_it_does_not_fit_it_finds_settings_that_do(config, result, monkeypatch, capsys):
    limit = sum(result["memory"].values()) * 3 // 4
    monkeypatch.setattr(devices, "memory_bytes", lambda: limit)
    monkeypatch.setattr(plan, "_candidates", lambda parts: iter([{"train.microbatch_size": 64}]))
    found = plan.run(config)
    overrides, text = found["overrides"], capsys.readouterr().out
    assert overrides == {"train.microbatch_size": 64} and f"of {limit / 2**20:,.1f} MiB: does not fit" in text
    assert "add to the command: " + " ".join(f"--config.{key}={value}" for key, value in overrides.items()) in text
    assert "BatchNorm's statistics are then those of a micro-batch" in text


def test_where_nothing_fits_it_says_so(config, monkeypatch, capsys):
    monkeypatch.setattr(devices, "memory_bytes", lambda: 1)
    monkeypatch.setattr(plan, "measure", lambda parts: (plan.Memory(1, 1, 1, 1), None))
    monkeypatch.setattr(plan, "flops", lambda parts: 1)
    assert plan.run(config)["overrides"] is None
    assert "nothing that was tried fits: take a smaller train.batch_size" in capsys.readouterr().out


def test_a_step_that_the_compiler_cannot_hold_does_not_fit(config, monkeypatch, capsys):
    def out_of_memory(_):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")

    monkeypatch.setattr(Trainer, "lower_train_step", out_of_memory)
    assert plan.measure(Trainer.from_config(config)) == (None, None)


def test_the_step_is_timed_where_it_fits(config, monkeypatch, capsys):
    monkeypatch.setattr(plan, "measure", lambda trainer: (plan.Memory(1, 1, 1, 1), None))
    monkeypatch.setattr(plan, "seconds_per_step", lambda trainer, step: 6000.0)
    assert plan.run(config)["seconds_per_step"] == 6000
    assert "\ntime: about 3 h 20 min, 6e+03 s a step, from 3 steps on blank images;" in capsys.readouterr().out


def test_a_step_that_its_flops_make_long_is_not_tried(config, monkeypatch, capsys):
    monkeypatch.setattr(plan, "measure", lambda trainer: (plan.Memory(1, 1, 1, 1), None))
    monkeypatch.setattr(plan, "flops", lambda trainer: 10**12)
    monkeypatch.setattr(plan, "_flops_per_second", lambda dtype: 1e9)
    trainer = Trainer.from_config(config)
    assert plan.run(config)["seconds_per_step"] is None
    seconds = 2 * 1000 / trainer.devices  # of both steps, on all devices
    assert f"time: {int(seconds) // 60} min {seconds % 60:.0f} s or more" in capsys.readouterr().out


def test_a_step_that_finds_no_memory_when_it_is_tried_ends_no_plan(config, monkeypatch, capsys):
    def out_of_memory(*_):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")

    monkeypatch.setattr(plan, "measure", lambda trainer: (plan.Memory(1, 1, 1, 1), out_of_memory))
    assert plan.run(config)["seconds_per_step"] is None
    assert "the device has no memory to try the step" in capsys.readouterr().out


def test_candidates_come_in_order_and_all_of_them_can_be_made(config):
    changed = config.copy_and_resolve_references()
    changed.update_from_flattened_dict({"loss.chunk_size": 4, "train.batch_size": 96})
    trainer = Trainer.from_config(changed)
    candidates = list(plan._candidates(trainer))
    assert candidates[:2] == [{"loss.chunk_size": 0}, {"loss.chunk_size": 0, "model.remat": True}]
    assert [changes.get("train.microbatch_size") for changes in candidates[2:]] == [48, 24, 8, 8]
    for changes in candidates:
        trainer.with_changes(changes)


def test_the_command_needs_no_workdir_and_writes_nothing(config, tmp_path):
    command = [sys.executable, smallest.__file__, f"--config={ROOT}/configs/quickstart.py", "--plan"]
    command += [f"--config.data.source={config.data.source}", f"--config.augment.image_size={SIZE}"]
    command += [
        f"--config.model.encoder={smallest.NAME}",
        "--config.train.batch_size=16",
        "--config.data.holdout_fraction=0.1",
    ]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "memory of a device" in done.stdout and ": fits" in done.stdout and "\ntime: about " in done.stdout
    assert not list(tmp_path.iterdir())
