"""The plan tells what a run takes, finds what fits, and leaves nothing behind."""

import dataclasses
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

from simclr_jax.commands import plan
from simclr_jax.configs import quickstart
from simclr_jax.runtime import checkpoint, compiled, devices, targets
from simclr_jax.training import cost
from simclr_jax.training.trainer import Trainer
from support import forked, smallest

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
    assert "BatchNorm then uses the statistics of each micro-batch" in text


def test_where_nothing_fits_it_says_so(config, monkeypatch, capsys):
    monkeypatch.setattr(devices, "memory_bytes", lambda: 1)
    monkeypatch.setattr(cost, "measure", lambda parts: (cost.Memory(1, 1, 1, 1), None))
    monkeypatch.setattr(cost, "flops", lambda parts: 1)
    assert plan.run(config)["overrides"] is None
    assert "none of these settings fits: use a smaller train.batch_size" in capsys.readouterr().out


def test_a_step_that_the_compiler_cannot_hold_does_not_fit(config, monkeypatch, capsys):
    def out_of_memory(_):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")

    monkeypatch.setattr(Trainer, "lower_train_step", out_of_memory)
    assert cost.measure(Trainer.from_config(config)) == (None, None)


def test_the_step_is_timed_where_it_fits(config, monkeypatch, capsys):
    monkeypatch.setattr(cost, "measure", lambda trainer: (cost.Memory(1, 1, 1, 1), None))
    monkeypatch.setattr(cost, "seconds_per_step", lambda trainer, step: 6000.0)
    assert plan.run(config)["seconds_per_step"] == 6000
    assert (
        "\ntime: about 3 h 20 min, 6e+03 s per step, measured over 3 steps on blank images;" in capsys.readouterr().out
    )


def test_a_step_that_its_flops_make_long_is_not_tried(config, monkeypatch, capsys):
    monkeypatch.setattr(cost, "measure", lambda trainer: (cost.Memory(1, 1, 1, 1), None))
    monkeypatch.setattr(cost, "flops", lambda trainer: 10**12)
    monkeypatch.setattr(plan, "_flops_per_second", lambda dtype: 1e9)
    trainer = Trainer.from_config(config)
    assert plan.run(config)["seconds_per_step"] is None
    seconds = 2 * 1000 / trainer.devices  # of both steps, on all devices
    assert f"time: {int(seconds) // 60} min {seconds % 60:.0f} s or more" in capsys.readouterr().out


def test_a_step_that_finds_no_memory_when_it_is_tried_ends_no_plan(config, monkeypatch, capsys):
    def out_of_memory(*_):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")

    monkeypatch.setattr(cost, "measure", lambda trainer: (cost.Memory(1, 1, 1, 1), out_of_memory))
    assert plan.run(config)["seconds_per_step"] is None
    assert "the device has too little free memory to run the step" in capsys.readouterr().out


def test_candidates_come_in_order_and_all_of_them_can_be_made(config):
    changed = config.copy_and_resolve_references()
    changed.update_from_flattened_dict({"loss.chunk_size": 4, "train.batch_size": 96})
    trainer = Trainer.from_config(changed)
    candidates = list(plan._candidates(trainer))
    assert candidates[:2] == [{"loss.chunk_size": 0}, {"loss.chunk_size": 0, "model.remat": True}]
    assert [changes.get("train.microbatch_size") for changes in candidates[2:]] == [48, 24, 8, 8]
    for changes in candidates:
        trainer.with_changes(changes)


def test_the_ring_is_no_candidate_for_a_loss_that_has_none(config, monkeypatch):
    changed = config.copy_and_resolve_references()
    changed.train.batch_size = 96
    trainer = Trainer.from_config(changed)
    monkeypatch.setattr(plan.losses, "is_dense", lambda n, devices: False)
    for name, found in (("supcon", True), ("mine", False)):
        changed.loss.name = name
        candidates = plan._candidates(dataclasses.replace(trainer, config=changed))
        assert any("loss.gather" in changes for changes in candidates) is found


# For machines that are not here. The compilers are not installed where the tests run: the CPU's stands in for them.


@pytest.fixture(name="compilers")
def stand_in_for_compilers(monkeypatch):
    """Compiles for the first CPU devices what is asked for a target."""

    def local(target):
        return jax.local_devices()[: target.count]

    monkeypatch.setattr(targets.Target, "devices", local)
    monkeypatch.setattr(targets.Target, "platform", property(lambda target: "cpu"))


def test_a_plan_for_a_target_has_its_devices_and_memory(config, compilers, capsys):
    found = plan.run(config, ["h100x4"], price=3.0)["h100x4"]
    text = capsys.readouterr().out
    assert found["fits"] and found["overrides"] == {} and found["limit"] == targets.find("h100x4").memory
    assert "4 × NVIDIA H100 80GB, 32 images each" in text and ": fits" in text and "a lower bound" in text
    assert found["messages"]["all-reduce"]["count"] > 0 and found["kernels"] > 0
    least = found["least_seconds"]
    assert least["step"] == max(least[name] for name in ("compute", "memory", "network"))
    assert least["run"] == pytest.approx(found["steps"] * least["step"])
    assert found["least_cost"] == pytest.approx(3.0 * 4 * least["run"] / 3600)


def test_several_targets_are_rows_of_one_table(config, compilers, capsys):
    found = plan.run(config, ["h100", "l4x2", "h100"], price=1.0)
    lines = capsys.readouterr().out.splitlines()
    header = next(index for index, line in enumerate(lines) if "shortest step" in line)
    assert list(found) == ["h100", "l4x2"]
    assert [line.split()[0] for line in lines[header + 1 : header + 3]] == ["h100", "l4x2"]
    assert all(len(line) == len(lines[header]) for line in lines[header + 1 : header + 3])


def test_the_messages_of_a_step_do_not_grow_with_its_devices(config, compilers):
    """But for the vectors that are gathered: 2N of them, N images; this batch is the same for all."""
    messages = [next(iter(plan.run(config, [name]).values()))["messages"] for name in ("h100x2", "h100x8")]
    two, eight = (kinds["all-reduce"] for kinds in messages)
    assert two["count"] == eight["count"]
    assert two["bytes"] / (2 * 1 / 2) == pytest.approx(eight["bytes"] / (2 * 7 / 8), rel=0.05)


def test_where_it_does_not_fit_a_target_settings_are_found(config, compilers, monkeypatch, capsys):
    peak = sum(plan.run(config, ["h100"])["h100"]["memory"].values())
    monkeypatch.setattr(targets.Target, "memory", property(lambda target: peak * 3 // 4))
    monkeypatch.setattr(plan, "_candidates", lambda trainer: iter([{"train.microbatch_size": 32}]))
    found = plan.run(config, ["h100"])["h100"]
    assert not found["fits"] and found["overrides"] == {"train.microbatch_size": 32}
    assert "add to the command: --config.train.microbatch_size=32" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("target", "changes", "price", "words"),
    [
        (["h1000"], {}, None, "GPUs are"),
        (["h100x3"], {}, None, "--target=h100x3: train.batch_size=128 is not divisible by 3 devices; use 126 or 129"),
        (["h100", "v5e-256"], {}, None, "--target=v5e-256: train.batch_size=128 is not divisible by 256 devices"),
        (["h100"], {"data.source": "npz:nowhere.npz"}, None, "say how many there are: --config.data.images=N"),
        (["h100"], {}, -1.0, "--price=-1 must be a number above 0"),
        ([], {}, 2.0, "--price=2 only works with --target: add --target=h100x8"),
        (["h100"], {"data.images": -1}, None, "config.data.images=-1 must be 0"),
    ],
)  # fmt: skip
def test_bad_plans_are_refused_before_anything_is_compiled(
    config, compilers, monkeypatch, target, changes, price, words
):
    changed = config.copy_and_resolve_references()
    changed.update_from_flattened_dict(changes)
    monkeypatch.setattr(cost, "measure", None)
    with pytest.raises(ValueError) as error:
        plan.run(changed, target, price)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_the_bound_is_what_the_data_sheet_allows(config):
    trainer = Trainer.from_config(config, target=targets.find("2xh100x4"))
    work = compiled.Work(1, 3352 * 10**9, {"all-reduce": compiled.Message(3, 7 * 10**9)}, 0)
    bound = cost.bound(trainer, work, int(8 * 494.7e12))
    assert bound.memory == pytest.approx(1.0)
    assert bound.compute == pytest.approx(1.0)
    # 8 devices send 7/8 of 8 GB each in one ring; of two hosts each sends half of it, over four cards of 50 GB/s.
    assert bound.network == pytest.approx(8 * 1 / 2 / 4 / 50)
    assert bound.seconds == 1.0
    remat = Trainer.from_config(_changed(config, {"model.remat": True}), target=targets.find("2xh100x4"))
    assert cost.bound(remat, work, int(8 * 494.7e12)).compute == pytest.approx(4 / 3)


def _changed(config, changes):
    changed = config.copy_and_resolve_references()
    changed.update_from_flattened_dict(changes)
    return changed


@pytest.mark.parametrize("placement", ["host", "device"])
@pytest.mark.parametrize("source", ["npz:none.npz", "folder:none", "tfds:imagenet2012"])
def test_blank_images_have_the_shapes_of_those_that_are_not_here(config, source, placement):
    changes = {"data.source": source, "data.images": 1000, "augment.placement": placement, "data.cache": "host"}
    trainer = Trainer.from_config(_changed(config, changes | {"augment.image_size": 65}), blank=True)
    assert (len(trainer.train), len(trainer.validation)) == (800, 100)
    batch, _ = trainer.batch_shapes()
    n = IMAGES // trainer.devices
    assert batch["labels"].shape == (n,)
    if placement == "host":
        assert batch["views"].shape == (n, 2, 65, 65, 3)
    elif source.startswith("npz"):
        assert batch["images"].shape == (n, 65, 65, 3)
    else:
        assert batch["crops"].shape == (n, 2, 130, 130, 3)


def test_blank_images_are_for_plans_alone(config):
    with pytest.raises(ValueError, match="config.data.images=9 is only for --plan"):
        Trainer.from_config(_changed(config, {"data.images": 9}))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--target=h100", "--workdir=RUN"], "--target only works with --plan; add --plan, or leave out --target"),
        (["--price=2", "--workdir=RUN"], "--price only works with --plan; add --plan, or leave out --price"),
        (["--plan", "--target="], "--target= names no machine; examples are h100, "),
        (["--plan", "--profile=3"], "--profile traces training steps, and --plan does not train"),
        (["--plan", "--target=h100", "--price=two"], "flag --price=two: could not convert string to float"),
    ],
)
def test_flags_that_say_nothing_together_are_refused(given, said, tmp_path):
    found = forked.execute(str(ROOT / "train.py"), f"--config={ROOT}/configs/quickstart.py", *given, cwd=tmp_path)
    assert found.returncode == 1 and found.stderr.startswith(f"error: {said}") and not list(tmp_path.iterdir())


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
    assert "memory per device" in done.stdout and ": fits" in done.stdout and "\ntime: about " in done.stdout
    assert not list(tmp_path.iterdir())
