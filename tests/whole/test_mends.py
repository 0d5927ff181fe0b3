"""Mends that messages name, done as they are written: appended to the command that was refused, or done by hand."""

import contextlib
import json
import pathlib
import re
import shlex
import shutil
import sys
from unittest import mock

import jax
import numpy as np
import pytest
from absl import flags
from ml_collections import config_flags

from simclr_jax.commands import finetune, pretrain
from simclr_jax.configs import finetune as finetune_config
from simclr_jax.runtime import checkpoint, run_folder
from simclr_jax.training import loop
from support.processes import untimed
from support.states import contents, files_of
from support.tiny_config import red_or_blue, small, write_archive


@pytest.fixture(scope="module", name="source")
def make_source(tmp_path_factory):
    return f"npz:{write_archive(tmp_path_factory.mktemp('data') / 'images.npz')}"


@pytest.fixture(scope="module", name="finished")
def make_finished(tmp_path_factory, source):
    """A finished run, 6 steps in 3 epochs, with checkpoints of steps 2, 4 and 6, and its config."""
    workdir, config = tmp_path_factory.mktemp("finished") / "RUN", small(source, **{"checkpoint.every_steps": 2})
    pretrain.run(config, str(workdir))
    return workdir, config


def appended(config, workdir, text):
    """What the same command asks for with flags appended, as a shell and the flag parser read them."""
    values, argv = flags.FlagValues(), ["train.py", f"--workdir={workdir}", *shlex.split(text)]
    with mock.patch.object(sys, "argv", argv):  # where ml_collections looks for the keys that are given
        config_flags.DEFINE_config_dict("config", config.copy_and_resolve_references(), flag_values=values)
        flags.DEFINE_string("workdir", None, "", flag_values=values)
        assert values(argv) == ["train.py"]
    return values.config, values.workdir


def flags_in(message):
    """The groups of flags that a message names: what follows each "with"."""
    return re.findall(r"with ((?:(?:--\S+|'--[^']+') ?)+)", message)


@contextlib.contextmanager
def not_finite_at(step):
    """Has a step's metrics say that it was not finite."""
    real = loop.MetricsLog.on_step

    def on_step(self, number, values):
        real(self, number, values | ({"finite": 0.0} if number == step else {}))

    with mock.patch.object(loop.MetricsLog, "on_step", on_step):
        yield


def broken_off(config, workdir, step):
    """The message of a run whose loss is not finite at a step."""
    with not_finite_at(step), pytest.raises(loop.NonFinite) as told:
        pretrain.run(config, str(workdir))
    assert "\n" not in str(told.value)
    return str(told.value)


def rows(run):
    lines = (pathlib.Path(run) / "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if "loss" in row]


def assert_same_bits(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_after_a_loss_that_is_not_finite_another_run_goes_on_from_the_last_good_weights(source, tmp_path, capsys):
    run, new = tmp_path / "a run", tmp_path / "NEW"  # a path that a shell would take apart
    config = small(source, **{"optimizer.name": "sgd", "checkpoint.every_steps": 1, "checkpoint.keep": 9})
    _, anew = flags_in(broken_off(config, run, 5))
    before = contents(run)
    slower, place = appended(config, run, anew)
    assert place == "NEW" and slower.optimizer.learning_rate == pytest.approx(config.optimizer.learning_rate / 10)
    assert slower.model.init_from == str(run / "checkpoints" / "4")
    pretrain.run(slower, str(new))
    assert contents(run) == before
    assert f"starting from the weights of {run}" in capsys.readouterr().out
    # The schedule begins anew, so that the first step's rate is 0 and leaves the parameters as they came.
    assert [row["step"] for row in rows(new)] == [1, 2, 3, 4, 5, 6] and rows(new)[0]["learning_rate"] == 0
    came, first = (
        checkpoint.load_variables(str(place))[2] for place in (slower.model.init_from, new / "checkpoints/1")
    )
    assert_same_bits(first["params"], came["params"])
    moved = jax.tree.leaves(jax.tree.map(lambda a, b: np.abs(a - b).max(), first["batch_stats"], came["batch_stats"]))
    assert 0 < max(moved) < 0.5  # a step of momentum 0.9 from where they were: from 0 and 1 it would be farther

    shutil.rmtree(run)  # it is not read again
    last = checkpoint.load_variables(str(new))[2]
    shutil.rmtree(new / "checkpoints" / "6")
    pretrain.run(slower, str(new))
    assert_same_bits(checkpoint.load_variables(str(new))[2], last)


def test_after_a_loss_that_is_not_finite_the_same_run_may_drop_such_updates(source, tmp_path, capsys):
    config = small(source, **{"checkpoint.every_steps": 1})
    skip, _ = flags_in(broken_off(config, tmp_path, 5))
    config, place = appended(config, tmp_path, skip)
    with not_finite_at(5):
        pretrain.run(config, place)
    assert "found a checkpoint of step 4 of 6: resuming" in (out := capsys.readouterr().out)
    assert "step 5 is not finite" in out and "1 updates were skipped" in out
    assert checkpoint.latest_step(place) == 6


def test_where_no_checkpoint_is_there_the_same_run_begins_anew_more_slowly(source, tmp_path):
    config = small(source)
    message = broken_off(config, tmp_path, 1)
    assert "last good checkpoint: none yet" in message
    config, place = appended(config, tmp_path, flags_in(message)[-1])
    pretrain.run(config, place)
    assert json.loads((tmp_path / "config.json").read_text())["optimizer"]["learning_rate"] == pytest.approx(3e-4)
    assert len(rows(place)) == 6


def test_one_dropped_update_too_many_has_the_mend_of_another_run(source, tmp_path):
    config = small(source, **{"train.on_nonfinite": "skip", "train.max_skipped": 0, "checkpoint.every_steps": 1})
    real = loop.MetricsLog.on_step
    counted = lambda self, step, values: real(self, step, values | {"finite": float(step < 5), "skipped": 1.0})  # noqa: E731
    with mock.patch.object(loop.MetricsLog, "on_step", counted), pytest.raises(loop.NonFinite) as told:
        pretrain.run(config, str(tmp_path / "RUN"))
    assert "more than train.max_skipped=0; last good checkpoint: " in str(told.value)
    (anew,) = flags_in(str(told.value))
    pretrain.run(appended(config, tmp_path / "RUN", anew)[0], str(tmp_path / "NEW"))
    assert len(rows(tmp_path / "NEW")) == 6


def test_a_classifier_whose_loss_is_not_finite_learns_more_slowly(finished, monkeypatch):
    run, _ = finished
    config = finetune_config.get_config()
    config.update({"epochs": 1, "batch_size": 16, "learning_rates": (0.05, 0.2), "from_scratch": False})
    real = loop.train
    never = lambda *args, on_step, **more: real(  # noqa: E731
        *args, on_step=lambda step, metrics: on_step(step, metrics | {"finite": 0.0}), **more
    )
    with monkeypatch.context() as patch, pytest.raises(loop.NonFinite) as told:
        patch.setattr(loop, "train", never)
        finetune.run(config, str(run))
    (slower,) = flags_in(str(told.value))
    config, place = appended(config, run, slower)
    assert config.learning_rates == (0.005,)
    assert finetune.run(config, place)["learning_rate"] == 0.005


def test_weights_of_another_network_are_refused_before_anything_is_written(finished, source, tmp_path):
    run, _ = finished
    cases = {
        "its encoder is different (model.norm: 'batch' → 'group'); set these keys to its values; of the encoder's "
        "12 tensors some do not fit: 8 surplus: batch_stats/encoder/": {"model.norm": "group"},
        "has no checkpoint of step 5; it has those of steps 2, 4, 6": {"model.init_from": f"{run}/checkpoints/5"},
        "is not a run": {"model.init_from": f"{tmp_path}/nowhere"},
    }
    for expected, changes in cases.items():
        config = small(source, **{"model.init_from": str(run), **changes})
        with pytest.raises(ValueError) as told:
            pretrain.run(config, str(tmp_path / "NEW"))
        assert expected in str(told.value) and f"config.model.init_from={config.model.init_from}: " in str(told.value)
        assert "\n" not in str(told.value) and not list(tmp_path.iterdir())


def test_a_network_may_start_from_weights_and_compute_otherwise(finished, source, tmp_path):
    run, _ = finished
    changes = {"model.dtype": "bfloat16", "model.remat": True, "train.epochs": 2, "model.init_from": str(run)}
    pretrain.run(small(source, **changes), str(tmp_path))
    assert np.isfinite(rows(tmp_path)[-1]["loss"])


def test_a_run_of_before_there_was_such_a_key_goes_on(finished, tmp_path):
    run, config = finished
    old = shutil.copytree(run, tmp_path / "old")
    stored = run_folder.read_config(str(old))
    del stored["model"]["init_from"]
    run_folder.write_config(str(old), stored)
    pretrain.run(config, str(old))
    shutil.rmtree(old / "checkpoints" / "6")
    pretrain.run(config, str(old))
    assert checkpoint.latest_step(str(old)) == 6


def test_of_other_classes_the_message_names_the_arrays_and_the_data_may_be_given_back(finished, source, tmp_path):
    """A third class came: a checkpoint that is whole is named so, and nothing is touched."""
    run, config = finished
    archive, mine = pathlib.Path(source.removeprefix("npz:")), shutil.copytree(run, tmp_path / "RUN")
    (mine / "data.json").unlink(missing_ok=True)  # as of a run that does not tell what its data were
    images, labels = red_or_blue(40, 0)
    before, whole, test = contents(mine), archive.read_bytes(), dict(np.load(archive))
    try:
        np.savez(archive, **test | {"x_train": images, "y_train": np.arange(40) % 3})
        for _ in range(2):
            with pytest.raises(
                ValueError, match=r"6 is intact, but .* probe_params/bias is float32 \[2\] instead of float32 \[3\]"
            ):
                pretrain.run(config, str(mine))
            assert contents(mine) == before
    finally:
        archive.write_bytes(whole)
    pretrain.run(config, str(mine))
    assert rows(mine) == rows(run) and not (mine / "damaged").exists()


def test_where_all_checkpoints_are_damaged_the_folders_that_are_named_are_removed(finished, tmp_path):
    run, config = finished
    mine = shutil.copytree(run, tmp_path / "RUN")
    for path in files_of(mine / "checkpoints"):
        path.write_bytes(b"")
    metrics, before = (mine / "metrics.jsonl").read_bytes(), untimed(mine)
    for _ in range(2):
        with pytest.raises(ValueError, match="has no intact checkpoint left") as told:
            pretrain.run(config, str(mine))
        assert (mine / "metrics.jsonl").read_bytes() == metrics
    places = re.search(r"or remove (\S+) to restart this run from the beginning", str(told.value)).group(1)
    assert places == str(mine / "checkpoints")
    shutil.rmtree(places)
    pretrain.run(config, str(mine))
    assert untimed(mine) == before  # of the same steps, taken again


def test_a_run_that_is_to_have_more_epochs_before_its_end_is_finished_first(finished, tmp_path):
    run, config = finished
    mine = shutil.copytree(run, tmp_path / "RUN")
    shutil.rmtree(mine / "checkpoints" / "6")
    more, place = appended(config, mine, "--config.train.epochs=4")
    with pytest.raises(ValueError, match="finish its 3 epochs before extending it to 4"):
        pretrain.run(more, place)
    pretrain.run(config, place)
    pretrain.run(more, place)
    assert len(rows(mine)) == 8
