"""Configs: every key is read and checked, and epochs become the steps they should."""

import importlib
import pathlib
import re

import pytest

from simclr_jax.configs import default, linear
from simclr_jax.runtime.config import check_keys, flatten, run_config, whole_config
from simclr_jax.runtime.differences import config_differences
from simclr_jax.training import schedule

ROOT = pathlib.Path(__file__).parents[2]
FILES = sorted(path.stem for path in (ROOT / "configs").glob("*.py") if path.stem != "__init__")
NAMES = [
    name for name in FILES if "train" in importlib.import_module(f"simclr_jax.configs.{name}").get_config()
]  # not probes


def changed(**changes):
    config = default.get_config()
    config.update_from_flattened_dict({key.replace("__", "."): value for key, value in changes.items()})
    return config


@pytest.mark.parametrize("name", NAMES)
def test_every_config_is_complete_and_right(name):
    config = importlib.import_module(f"simclr_jax.configs.{name}").get_config()
    check_keys(config, default.get_config())
    schedule.check(config)


@pytest.mark.parametrize("name", sorted({*FILES} - {"default", "probe"}))  # which others start from
def test_every_docstring_says_command_time_and_result(name):
    text = importlib.import_module(f"simclr_jax.configs.{name}").__doc__
    assert re.search(r"simclr-jax [a-z-]+ --", text)
    assert "Time:" in text and "Result:" in text


def test_every_key_is_read_somewhere():
    code = "".join(path.read_text() for path in (ROOT / "simclr_jax").rglob("*.py"))
    for key in [*flatten(default.get_config()), *flatten(linear.get_config())]:
        if key.startswith(("augment.", "head.")):
            continue  # handed over whole to a dataclass, which refuses a name that it does not have
        assert re.search(rf"\b{key.rsplit('.', 1)[-1]}\b", code), f"nothing reads {key}"


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("loss.temperature", 0.0, "loss.temperature=0.0 must be above 0"),
        ("loss.temperature", float("nan"), "loss.temperature=nan"),
        ("loss.chunk_size", -1, "loss.chunk_size=-1"),
        ("optimizer.learning_rate", -0.1, "must be above 0"),
        (
            "optimizer.warmup_epochs",
            100.0,
            "must be below config.train.epochs=100; a tenth of it is usual: --config.optimizer.warmup_epochs=10",
        ),
        ("train.batch_size", 1, "must be at least 2"),
        ("train.epochs", 0, "must be above 0"),
        ("train.microbatch_size", -64, "train.microbatch_size=-64 must be 0 (the whole batch at once) or more"),
        ("loss.gather", "tree", "loss.gather='tree' must be all or ring"),
        ("model.sk_ratio", 2.0, "model.sk_ratio=2.0 must be 0 (off) to 1"),
        ("model.se_ratio", -1.0, "model.se_ratio=-1.0 must be 0 (off) to 1"),
        ("model.norm", "layer", "model.norm='layer' must be batch or group"),
        ("checkpoint.keep", 0, "must be above 0"),
        ("augment.flip_probability", 1.5, "flip_probability"),
        ("augment.image_size", 0, "image_size"),
    ],
)
def test_a_value_that_cannot_be_right_is_refused(key, value, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        schedule.check(changed(**{key.replace(".", "__"): value}))


def test_unknown_missing_and_mistyped_keys_are_named():
    known = default.get_config()
    config = default.get_config()
    with config.unlocked():
        config.train.epoch = 3
    with pytest.raises(ValueError, match=r"config.train.epoch is not a key; did you mean config.train.epochs\?"):
        check_keys(config, known)
    config = default.get_config()
    with config.unlocked():
        del config.loss.temperature
    with pytest.raises(ValueError, match="config.loss.temperature is missing"):
        check_keys(config, known)
    config = default.get_config()
    with config.ignore_type():
        config.train.epochs = "many"
    with pytest.raises(ValueError, match="config.train.epochs='many' must be int"):
        check_keys(config, known)


def test_epochs_become_steps():
    config = changed(
        train__batch_size=512, train__epochs=10, optimizer__warmup_epochs=2.0, optimizer__learning_rate=1.0
    )
    plan = schedule.resolve(config, num_train=50_000, num_validation=5_001, num_devices=4)
    assert plan.steps_per_epoch == 97  # the last, short batch of an epoch is dropped
    assert plan.total_steps == 970
    assert plan.warmup_steps == 195  # round(2 · 50,000 / 512)
    assert plan.peak_learning_rate == 2.0
    assert plan.validation_batch_size == 512
    assert [step for step in range(1, 971) if plan.ends_epoch(step)] == list(range(97, 971, 97))


def test_a_single_image_that_is_held_out_is_no_validation_for_a_loss_that_needs_negatives():
    def validated(name, images):
        config = changed(train__batch_size=10, loss__name=name)
        return schedule.resolve(config, num_train=40, num_validation=images, num_devices=1).validation_batch_size

    assert [validated(name, images) for name in ("nt_xent", "dcl") for images in (1, 2)] == [1, 2, 0, 2]


@pytest.mark.parametrize(
    ("changes", "saved"),
    [
        ({"checkpoint__every_epochs": 1}, [4, 8, 12]),
        ({"checkpoint__every_epochs": 2}, [8, 12]),
        ({"checkpoint__every_epochs": 0}, [12]),
        ({"checkpoint__every_steps": 5}, [5, 10, 12]),
    ],
)
def test_checkpoints_come_when_asked_and_always_last(changes, saved):
    config = changed(train__batch_size=10, train__epochs=3, optimizer__warmup_epochs=0.0, **changes)
    plan = schedule.resolve(config, num_train=49, num_validation=0, num_devices=1)
    assert [step for step in range(1, plan.total_steps + 1) if plan.saves(step)] == saved


def test_a_batch_that_does_not_fit_names_those_that_do():
    config = changed(train__batch_size=500)
    with pytest.raises(ValueError, match="500 is not divisible by 8 devices; use 496 or 504"):
        schedule.resolve(config, num_train=1000, num_validation=0, num_devices=8)
    with pytest.raises(ValueError, match="larger than the 450 training images; use 448 or less"):
        schedule.resolve(changed(train__batch_size=512), num_train=450, num_validation=0, num_devices=8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"train__microbatch_size": 48},
            "48 must divide train.batch_size=256 and .* by 4 .*; use 32 or 64, or",
        ),
        ({"train__microbatch_size": 2}, "use 4, or 0 for one pass"),
        ({"train__microbatch_size": 512}, "microbatch_size=512 must divide train.batch_size=256 .*; use 256, or 0"),
        ({"loss__chunk_size": 65}, "chunk_size=65 is larger than the 64 images of one device; use 64 or less, or 0"),
    ],
)
def test_a_micro_batch_or_chunk_that_does_not_fit_names_those_that_do(changes, message):
    with pytest.raises(ValueError, match=message) as error:
        schedule.resolve(changed(train__batch_size=256, **changes), num_train=1000, num_validation=0, num_devices=4)
    assert "\n" not in str(error.value)


def test_a_chunk_that_memory_does_not_hold_names_the_largest_that_does():
    config = changed(train__batch_size=65536, loss__chunk_size=65536)
    with pytest.raises(ValueError, match="take 32,768 MiB, but a device has 8,192 .*; use 16384 or less, or 0"):
        schedule.check_chunk(config, free_bytes=8 * 2**30)
    schedule.check_chunk(changed(train__batch_size=65536), free_bytes=2**20)  # 0 never takes much


@pytest.mark.parametrize(
    ("micro", "held_out", "passes", "validation_batch", "validation_passes"),
    [(0, 100, 1, 64, 1), (16, 100, 4, 64, 4), (16, 40, 4, 32, 2), (16, 14, 4, 12, 1), (16, 0, 4, 0, 1)],
)
def test_a_batch_becomes_micro_batches(micro, held_out, passes, validation_batch, validation_passes):
    config = changed(train__batch_size=64, train__microbatch_size=micro)
    plan = schedule.resolve(config, num_train=1000, num_validation=held_out, num_devices=4)
    assert (plan.microbatches, plan.validation_microbatches) == (passes, validation_passes)
    assert plan.validation_batch_size == validation_batch


def test_validation_takes_what_there_is():
    plan = schedule.resolve(changed(train__batch_size=64), num_train=99, num_validation=21, num_devices=8)
    assert plan.validation_batch_size == 16


def test_differences_name_what_changes_the_result_and_only_that():
    old = default.get_config().to_dict()
    assert config_differences(old, changed(checkpoint__keep=9, log__every_steps=7, data__dir="/x").to_dict()) == []
    same_result = changed(model__remat=True, loss__chunk_size=64, loss__gather="ring")
    assert config_differences(old, same_result.to_dict()) == []
    new = changed(train__epochs=7, loss__temperature=0.5).to_dict()
    assert config_differences(old, new) == ["loss.temperature: 0.1 → 0.5", "train.epochs: 100 → 7"]


def test_a_run_from_before_a_key_is_read_and_goes_on_as_it_was():
    stored = default.get_config().to_dict()
    for key in ("sk_ratio", "se_ratio", "pool", "normalize"):
        del stored["model"][key]
    assert run_config(stored, "RUN") == run_config(default.get_config().to_dict(), "RUN")
    assert config_differences(stored, default.get_config().to_dict()) == []
    now_with_it = changed(model__sk_ratio=0.0625).to_dict()
    assert config_differences(stored, now_with_it) == ["model.sk_ratio: 0.0 → 0.0625"]
    del stored["model"]["width"]
    with pytest.raises(ValueError, match="config.model.width is missing"):
        run_config(stored, "RUN")


@pytest.mark.parametrize("source, labels", [("folder:x", "folders"), ("npz:x", ""), ("textures", ""), ("tfds:x", "")])
def test_a_run_of_before_there_were_other_labels_read_folders(source, labels):
    """Its probes ask nothing then; a source whose labels are not to be chosen gets no key that it would refuse."""
    stored = changed(data__source=source).to_dict()
    del stored["data"]["labels"]
    assert run_config(stored, "RUN").data.labels == labels
    assert config_differences(stored, changed(data__source=source).to_dict()) == []
    stored["data"]["labels"] = "none"
    assert run_config(stored, "RUN").data.labels == "none"


@pytest.mark.parametrize("section", ["model", "head"])
def test_a_run_of_a_network_that_is_not_known_is_refused(section):
    stored = default.get_config().to_dict()
    assert run_config(stored, "RUN").model.encoder == "resnet50"
    stored[section]["magic"] = 1
    with pytest.raises(ValueError, match=f"RUN: its config.json .*config.{section} has the key 'magic', which this"):
        run_config(stored, "RUN")


def test_a_stored_config_is_completed_by_the_keys_that_came_after_it():
    stored = default.get_config().to_dict()
    stored["loss"]["temperature"] = 0.7
    del stored["loss"]["gather"], stored["log"]
    config = whole_config(stored, default.get_config(), "RUN")
    assert config.loss.temperature == 0.7
    assert (config.loss.gather, config.log.every_steps) == ("all", 50)
    assert default.get_config().loss.temperature == 0.1


@pytest.mark.parametrize(
    ("change", "message"),
    [({"warp": 1}, "config.warp is not a key"), ({"seed": "x"}, "config.seed='x' must be int")],
)
def test_a_stored_config_that_is_none_is_not_completed(change, message):
    with pytest.raises(ValueError, match=f"RUN: its config.json cannot be used: {message}"):
        whole_config(default.get_config().to_dict() | change, default.get_config(), "RUN")


def test_a_run_of_before_the_losses_had_names_had_nt_xent_and_another_is_another_run():
    old = changed().to_dict()
    del old["loss"]["name"]
    assert config_differences(old, changed().to_dict()) == []
    assert config_differences(old, changed(loss__name="dcl").to_dict()) == ["loss.name: 'nt_xent' → 'dcl'"]
