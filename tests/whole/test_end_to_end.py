"""The real configs, made small: pretrain, resume, probe and load, as a user would."""

import contextlib
import importlib
import json
import pathlib
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

import simclr_jax
from simclr_jax.commands import pictures as draw
from simclr_jax.commands import pretrain, probes
from simclr_jax.commands.diagnose import run as measure
from simclr_jax.configs import diagnose, linear, pictures
from simclr_jax.runtime import checkpoint
from simclr_jax.training import loop
from simclr_jax.training.trainer import Trainer
from support.processes import untimed
from support.tiny_config import BATCH, TRAIN, red_or_blue, shrink, small, write_archive

ROOT = pathlib.Path(__file__).parents[2]
FILES = [path.stem for path in sorted((ROOT / "configs").glob("*.py")) if path.stem not in ("__init__", "default")]
NAMES = [
    name for name in FILES if "train" in importlib.import_module(f"simclr_jax.configs.{name}").get_config()
]  # not probes
PNG = b"\x89PNG"


@pytest.fixture(scope="session", name="archive")
def make_archive(tmp_path_factory):
    return write_archive(tmp_path_factory.mktemp("data") / "images.npz")


def probe_config(**changes):
    config = linear.get_config()
    config.update_from_flattened_dict({"epochs": 20, "batch_size": 16, **changes})
    return config


def rows(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def assert_same_bits(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@contextlib.contextmanager
def compilations():
    """The names of the programs that jax compiles, or loads from its cache, meanwhile."""
    seen = []

    def listen(event, _, fun_name="", **__):
        if event.endswith("/backend_compile_duration"):
            seen.append(fun_name)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield seen
    jax.monitoring.unregister_event_duration_listener(listen)


@pytest.fixture(scope="session", name="run")
def make_run(tmp_path_factory, archive):
    """A finished run: 6 steps in 3 epochs, checkpoints after steps 3 and 6, so one in the middle of an epoch."""
    workdir = tmp_path_factory.mktemp("run")
    config = small(f"npz:{archive}", **{"checkpoint.every_steps": 3, "augment.jitter_probability": 0.0})
    with compilations() as seen:
        pretrain.run(config, str(workdir))
    (workdir / "compiled.json").write_text(json.dumps(seen))
    return workdir, config


@pytest.mark.parametrize("name", NAMES)
def test_every_config_trains(name, archive, tmp_path):
    config = importlib.import_module(f"simclr_jax.configs.{name}").get_config()
    config = shrink(config, f"npz:{archive}", **{"train.epochs": 2})
    pretrain.run(config, str(tmp_path))
    losses = [row["loss"] for row in rows(tmp_path) if "loss" in row]
    assert len(losses) == 4 and np.isfinite(losses).all()
    assert checkpoint.latest_step(str(tmp_path)) == 4
    assert json.loads((tmp_path / "config.json").read_text()) == json.loads(config.to_json_best_effort())


def test_a_run_leaves_what_it_promises(run):
    workdir, _ = run
    assert sorted(path.name for path in (workdir / "checkpoints").iterdir()) == ["3", "6"]
    assert (workdir / "versions.jsonl").exists() and list((workdir / "tensorboard").iterdir())
    training = [row for row in rows(workdir) if "loss" in row]
    held_out = [row for row in rows(workdir) if "validation_loss" in row]
    assert [row["step"] for row in training] == [1, 2, 3, 4, 5, 6]
    assert {"contrastive_accuracy", "contrastive_entropy", "learning_rate", "online_top1"} <= set(training[0])
    assert [row["step"] for row in held_out] == [2, 4, 6]
    assert {"validation_contrastive_accuracy", "validation_online_top1"} <= set(held_out[0])
    for row in held_out:
        assert 1 <= row["validation_rank_h"] <= 8 * 2 and 1 <= row["validation_rank_z"] <= 8 * 2  # views of 8 images
        assert 0 < row["validation_std_z"] <= 128**-0.5 and row["validation_std_h"] > 0
        assert 0 < row["validation_alignment"] < 4 and -8 <= row["validation_uniformity"] < 0
        assert row["validation_chance_loss"] == pytest.approx(np.log(15))


def test_a_run_compiles_its_steps_once(run):
    seen = json.loads((run[0] / "compiled.json").read_text())
    assert seen.count("jit(_fun)") == 2  # jax's name for what is mapped: the training step and the validation step


def test_a_run_resumed_in_the_middle_of_an_epoch_ends_with_the_same_bits(run, tmp_path):
    workdir, config = run
    shutil.copytree(workdir, tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "checkpoints" / "6")
    pretrain.run(config, str(tmp_path))
    for part in (1, 2):  # the step and the network
        assert_same_bits(checkpoint.load_variables(str(workdir))[part], checkpoint.load_variables(str(tmp_path))[part])
    assert untimed(tmp_path) == untimed(workdir)


def test_a_run_on_images_that_the_devices_hold_may_resume_with_images_that_travel(archive, tmp_path):
    config = small(
        f"npz:{archive}",
        **{
            "augment.placement": "device",
            "data.cache": "device",
            "model.dtype": "bfloat16",
            "checkpoint.every_steps": 3,
        },
    )
    pretrain.run(config, str(tmp_path / "whole"))
    shutil.copytree(tmp_path / "whole", tmp_path / "resumed")
    shutil.rmtree(tmp_path / "resumed" / "checkpoints" / "6")
    config.data.cache = "host"
    pretrain.run(config, str(tmp_path / "resumed"))
    whole, resumed = (checkpoint.load_variables(str(tmp_path / name)) for name in ("whole", "resumed"))
    assert_same_bits(resumed[2], whole[2])
    assert np.isfinite([row["loss"] for row in rows(tmp_path / "resumed") if "loss" in row]).all()


def test_a_run_in_micro_batches_is_the_run_in_one_pass_where_no_layer_looks_across_images(archive, tmp_path, capsys):
    losses, changes = [], {"model.norm": "group", "train.epochs": 1, "optimizer.warmup_epochs": 0.0}
    for name, micro in {"whole": 0, "parts": BATCH // 2}.items():
        pretrain.run(
            small(f"npz:{archive}", **changes, **{"train.microbatch_size": micro, "loss.gather": "ring"}),
            str(tmp_path / name),
        )
        losses.append([row["loss"] for row in rows(tmp_path / name) if "loss" in row])
    np.testing.assert_allclose(*losses, rtol=1e-3)
    assert "2 micro-batches of 8 images; the gradient equals that of one pass" in capsys.readouterr().out
    features = simclr_jax.load_encoder(str(tmp_path / "parts"))(red_or_blue(3, 5)[0])
    assert features.shape == (3, 16) and np.isfinite(features).all()


def test_a_finished_run_has_nothing_left_to_do(run, capsys):
    workdir, config = run
    before = (workdir / "metrics.jsonl").read_bytes()
    pretrain.run(config, str(workdir))
    assert "already finished, nothing to do" in capsys.readouterr().out
    assert (workdir / "metrics.jsonl").read_bytes() == before


def test_a_workdir_of_another_config_is_refused(run):
    workdir, config = run
    other = config.copy_and_resolve_references()
    other.loss.temperature = 0.9
    before = sorted(path for path in workdir.rglob("*"))
    with pytest.raises(ValueError, match="loss.temperature: .* → 0.9"):
        pretrain.run(other, str(workdir))
    assert sorted(path for path in workdir.rglob("*")) == before


def test_the_probe_finds_what_colour_blind_views_leave(run):
    workdir, _ = run
    result = probes.run("linear", probe_config(), str(workdir))
    assert result == json.loads((workdir / "eval" / "linear.json").read_text())
    assert result["top1"] >= 0.9  # red against blue, and no colour distortion to forget it
    assert {"untrained_top1", "top5", "untrained_top5", "validation_top1"} <= set(result)
    assert result["chance_top1"] == 0.5
    assert result["images"] == {"train": 32, "validation": 8, "test": 24}


def test_the_probe_reads_any_layer_and_any_source(run, tmp_path):
    workdir, _ = run
    for label, colour in enumerate(((250, 20, 20), (20, 20, 250))):
        for split in ("train", "test"):
            folder = tmp_path / split / str(label)
            folder.mkdir(parents=True)
            for i in range(12):
                Image.new("RGB", (12 + i, 20), colour).save(folder / f"{i}.png")
    for layer in (1, -1):
        result = probes.run("linear", probe_config(layer=layer, **{"data.source": f"folder:{tmp_path}"}), str(workdir))
        assert result["layer"] == layer % 3
        assert result["top1"] == 1.0
    with pytest.raises(
        ValueError,
        match=r"config.layer=3 does not exist; this run has 0 = representation h to "
        r"2 = projection z",
    ):
        probes.run("linear", probe_config(layer=3), str(workdir))


def picture_config(**changes):
    config = pictures.get_config()
    config.update_from_flattened_dict({"perplexity": 5.0, "queries": 3, "neighbours": 4, **changes})
    return config


def test_a_checkpoint_is_diagnosed_as_validation_measured_it(run, capsys):
    workdir, _ = run
    config = diagnose.get_config()
    result = measure(config, str(workdir))
    assert result == json.loads((workdir / "eval" / "diagnose.json").read_text())
    last = [row for row in rows(workdir) if "validation_loss" in row][-1]
    for name, found in {
        "rank_h": result["h"]["rank"],
        "rank_z": result["z"]["rank"],
        "std_h": result["h"]["mean_std"],
        "std_z": result["z"]["mean_std"],
        **{name: result[name] for name in ("alignment", "uniformity", "loss", "chance_loss")},
    }.items():
        assert found == pytest.approx(last[f"validation_{name}"], rel=1e-2), name
    assert sum(result["positive"]["counts"]) == 8 and sum(result["negative"]["counts"]) == 8 * 7
    assert (workdir / "eval" / "similarities.png").read_bytes().startswith(PNG)
    assert result["verdict"][0] in capsys.readouterr().out
    config.split = "all"
    with pytest.raises(ValueError, match=r"config.split='all' must be train, validation or test"):
        measure(config, str(workdir))


def test_pictures_are_drawn_as_far_as_there_is_what_they_show(run, tmp_path, capsys):
    workdir, _ = run
    drawn = draw.run(picture_config(), str(workdir))
    assert [path.rsplit("/", 1)[1] for path in drawn] == ["tsne.png", "neighbours.png", "curves.png"]
    assert all(pathlib.Path(path).read_bytes().startswith(PNG) for path in drawn)
    copy = shutil.copytree(workdir, tmp_path / "copy")
    (copy / "metrics.jsonl").unlink()
    assert not draw.run(picture_config(perplexity=24.0, queries=0), str(copy))
    said = capsys.readouterr().out
    assert "24 test images are too few for t-SNE with perplexity 24" in said and "no rows in metrics.jsonl" in said
    with pytest.raises(ValueError, match="config.queries=99 must be from 0 to 24"):
        draw.run(picture_config(queries=99), str(copy))


def test_load_encoder_gives_the_features_of_the_checkpoint(run):
    workdir, config = run
    encoder = simclr_jax.load_encoder(str(workdir))
    images, _ = red_or_blue(5, 3)
    found = encoder(images)
    assert found.shape == (5, encoder.feature_dim) and found.dtype == np.float32
    trainer = Trainer.from_config(config)
    _, _, variables = checkpoint.load_variables(str(workdir))
    expected = jax.jit(trainer.model.apply, static_argnames="train")(variables, images / 255.0, train=False)[0]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(simclr_jax.load_encoder(str(workdir / "checkpoints" / "6"))(images), found)
    assert not np.allclose(simclr_jax.load_encoder(str(workdir), step=3)(images), found)


def test_images_without_labels_train_and_are_refused_by_the_probe(tmp_path, capsys):
    pile = tmp_path / "pile"
    pile.mkdir()
    for i, image in enumerate(red_or_blue(TRAIN, 0)[0]):
        Image.fromarray(image).save(pile / f"{i}.jpg", quality=95)
    (pile / "scan.heic").touch()
    pretrain.run(small(f"folder:{pile}"), str(tmp_path / "run"))
    text = capsys.readouterr().out
    assert "found:        40 train images; no labels\n" in text and "left out:     not images: 1 × .heic" in text
    assert all("online_top1" not in row for row in rows(tmp_path / "run"))
    with pytest.raises(ValueError, match="has no labels, which a probe needs; use data with labels"):
        probes.run("linear", probe_config(), str(tmp_path / "run"))
    assert not (tmp_path / "run" / "eval").exists()
    assert len(draw.run(picture_config(perplexity=20.0), str(tmp_path / "run"))) == 2  # 13 images are too few for t-SNE


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_last_good_checkpoint(archive, tmp_path):
    config = small(
        f"npz:{archive}", **{"optimizer.learning_rate": 1e38, "optimizer.name": "sgd", "checkpoint.every_steps": 1}
    )
    with pytest.raises(loop.NonFinite, match=r"step \d is not finite .*; last good checkpoint: .*/checkpoints/\d"):
        pretrain.run(config, str(tmp_path))
    last = checkpoint.latest_step(str(tmp_path))
    _, _, variables = checkpoint.load_variables(str(tmp_path), last)
    assert last < 6
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(variables))
    assert np.isfinite(rows(tmp_path)[-1].get("loss", 0.0))


def test_updates_that_are_not_finite_are_dropped_up_to_a_limit(archive, tmp_path, capsys):
    changes = {"optimizer.learning_rate": 1e38, "optimizer.name": "sgd", "checkpoint.every_steps": 1}
    config = small(f"npz:{archive}", **changes, **{"train.on_nonfinite": "skip", "train.max_skipped": 1})
    with pytest.raises(loop.NonFinite, match=r"; 2 in a row, more than train.max_skipped=1; last good checkpoint"):
        pretrain.run(config, str(tmp_path))
    dropped = [row for row in rows(tmp_path) if row.get("skipped")]
    assert {row["skipped"] for row in dropped} == {1.0}
    assert capsys.readouterr().out.count("its update is skipped") == len(dropped)
    _, _, variables = checkpoint.load_variables(str(tmp_path))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(variables))


def test_a_finished_run_may_be_given_more_epochs_and_an_unfinished_one_not(run, tmp_path, capsys):
    workdir, config = run
    shutil.copytree(workdir, tmp_path / "more")
    config = config.copy_and_resolve_references()
    config.train.epochs = 4
    pretrain.run(config, str(tmp_path / "more"))
    assert "extending a finished run of 3 epochs to 4: the learning rate rises from 0 to" in capsys.readouterr().out
    rates = {row["step"]: row["learning_rate"] for row in rows(tmp_path / "more") if "loss" in row}
    peak, warmup, total = 3e-3, 2, 8
    cosine = [peak * (1 + np.cos(np.pi * (step - 1 - warmup) / (total - warmup))) / 2 for step in (7, 8)]
    np.testing.assert_allclose([rates[7], rates[8]], cosine, rtol=1e-5)
    assert json.loads((tmp_path / "more" / "config.json").read_text())["train"]["epochs"] == 4
    assert checkpoint.latest_step(str(tmp_path / "more")) == 8

    shutil.copytree(workdir, tmp_path / "unfinished")
    shutil.rmtree(tmp_path / "unfinished" / "checkpoints" / "6")
    with pytest.raises(ValueError, match="is at step 3 of 6: finish its 3 epochs before extending it to 4"):
        pretrain.run(config, str(tmp_path / "unfinished"))
    assert json.loads((tmp_path / "unfinished" / "config.json").read_text())["train"]["epochs"] == 3
