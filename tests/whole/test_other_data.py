"""Data that changed between two starts, that moved, or that differ between processes: nothing goes on in silence."""

import json
import shutil

import numpy as np
import pytest

from simclr_jax.commands import features, pretrain, probes
from simclr_jax.configs import features as features_config
from simclr_jax.configs import linear
from simclr_jax.data import sources
from simclr_jax.evaluate import probed_run
from simclr_jax.runtime import run_folder
from simclr_jax.training import loop
from support import smallest
from support.runs import write_run
from support.samples import assert_one_line, noise, png
from support.tiny_config import SIZE, red_or_blue, small, write_archive

TINY = {"train.epochs": 1, "optimizer.warmup_epochs": 0.0, "augment.placement": "device"}


@pytest.fixture(scope="module", name="archive")
def make_archive(tmp_path_factory):
    return write_archive(tmp_path_factory.mktemp("data") / "images.npz")


@pytest.fixture(scope="module", name="finished")
def make_run(tmp_path_factory, archive):
    """A finished run and its own copy of the data."""
    place = tmp_path_factory.mktemp("finished")
    shutil.copy(archive, place / "images.npz")
    pretrain.run(small(f"npz:{place}/images.npz", **TINY), str(place / "run"))
    return place


@pytest.fixture(name="place")
def copy_run(finished, tmp_path):
    """A copy of both, whose config.json names the copy of the data."""
    shutil.copytree(finished, tmp_path / "place")
    path = tmp_path / "place/run/config.json"
    path.write_text(path.read_text().replace(str(finished), str(tmp_path / "place")))
    return tmp_path / "place"


def more(arrays):
    images, labels = red_or_blue(1, 77)
    return {"x_train": np.concatenate([arrays["x_train"], images]), "y_train": np.append(arrays["y_train"], labels)}


def fewer(arrays):
    return {"x_train": arrays["x_train"][1:], "y_train": arrays["y_train"][1:]}


def swapped(arrays):
    return {"x_train": 255 - arrays["x_train"]}


def a_class_more(arrays):
    return {"y_train": np.append(arrays["y_train"][1:], 2)}


def no_labels(arrays):
    return {"y_train": np.full_like(arrays["y_train"], -1), "y_test": np.full_like(arrays["y_test"], -1)}


def another_validation(arrays):
    return {"x_validation": arrays["x_test"], "y_validation": arrays["y_test"]}


def change(path, how):
    with np.load(path) as arrays:
        changed = dict(arrays) | how(arrays)
    np.savez(path, **changed)


def everything(run):
    return {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != ".lock"}


@pytest.mark.parametrize(
    ("how", "words"),
    [
        (more, "train: 40 → 41 images"),
        (fewer, "train: 40 → 39 images"),
        (swapped, "train: as many images, but different files"),
        (a_class_more, "train: 2 → 3 classes"),
        (no_labels, "train: 2 → 0 classes"),
        (another_validation, "validation was added"),
    ],
)
def test_a_run_does_not_go_on_with_other_data_and_nothing_is_touched(place, how, words):
    change(place / "images.npz", how)
    before = everything(place / "run")
    with pytest.raises(ValueError, match=f"was trained on different data .*{words}.*give another --workdir") as error:
        pretrain.run(small(f"npz:{place}/images.npz", **TINY), str(place / "run"))
    assert_one_line(error)
    assert everything(place / "run") == before


def test_the_mends_of_other_data_work_as_written(place, monkeypatch):
    shutil.copy(place / "images.npz", place / "old.npz")
    change(place / "images.npz", more)
    config = small(f"npz:{place}/images.npz", **TINY)
    monkeypatch.setattr(loop, "train", lambda *_, **options: (config.train.epochs * 2, None))  # what follows the checks
    pretrain.run(config, str(place / "another"))
    config.model.init_from = str(place / "run")
    pretrain.run(config, str(place / "a third"))
    config.model.init_from = ""
    shutil.move(place / "old.npz", place / "images.npz")
    pretrain.run(config, str(place / "run"))


def test_data_that_moved_are_the_same_data(place, capsys, monkeypatch):
    (place / "disk").mkdir()
    shutil.move(place / "images.npz", place / "disk/same.npz")
    before = (place / "run/metrics.jsonl").read_bytes()
    pretrain.run(small(f"npz:{place}/disk/same.npz", **TINY), str(place / "run"))
    assert (place / "run/metrics.jsonl").read_bytes() == before
    assert json.loads((place / "run/config.json").read_text())["data"]["source"] == f"npz:{place}/disk/same.npz"
    monkeypatch.setattr(loop, "train", lambda *_, **options: (4, None))
    pretrain.run(small(f"npz:{place}/disk/same.npz", **TINY | {"train.epochs": 2}), str(place / "run"))
    assert "extending a finished run of 1 epochs to 2" in capsys.readouterr().out


def test_a_run_of_before_takes_its_data_for_granted_and_remembers_them_from_then_on(place):
    (place / "run/data.json").unlink()
    pretrain.run(small(f"npz:{place}/images.npz", **TINY), str(place / "run"))
    change(place / "images.npz", more)
    with pytest.raises(ValueError, match="was trained on different data"):
        pretrain.run(small(f"npz:{place}/images.npz", **TINY), str(place / "run"))


@pytest.mark.parametrize("text", ["[]", "{", '{"train": 3}', '{"train": {"images": "many"}}', "9" * 2**21])
def test_a_data_json_that_is_none_is_refused(place, text):
    (place / "run/data.json").write_text(text)
    with pytest.raises(ValueError, match="data.json") as error:
        pretrain.run(small(f"npz:{place}/images.npz", **TINY), str(place / "run"))
    assert_one_line(error)


# Probes


def probed(run, **changes):
    config = features_config.get_config()
    config.update_from_flattened_dict({"batch_size": 16, **changes})
    return probed_run.ProbedRun(config, str(run), labelled=False)


def begun(run, source, **changes):
    """Writes a run of random weights that remembers its data."""
    write_run(run, **{"model.encoder": smallest.NAME, "data.source": source, **changes})
    run_folder.write_data(str(run), sources.Splits(sources.open_source(source)).contents())
    return run


def test_a_probe_says_that_the_data_changed_and_judges_nothing_that_was_trained_on(tmp_path, capsys):
    folder = tmp_path / "images"
    images, labels = red_or_blue(120, 0)
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        (folder / f"class{label}").mkdir(parents=True, exist_ok=True)
        (folder / f"class{label}" / f"{i}.png").write_bytes(png(image))
    trained = set(probed(begun(tmp_path / "run", f"folder:{folder}")).splits.load("train").names.tolist())
    assert "have changed" not in capsys.readouterr().out
    for i in range(9):
        (folder / "class0" / f"new{i}.png").write_bytes(png(noise(1, seed=i)[0]))
    splits = probed(tmp_path / "run").splits
    said = capsys.readouterr().out
    assert "the data have changed since this run started: train: 120 → 129 images" in said
    assert "none of them were used in its training" in said
    judged = {name for role in ("validation", "test") for name in splits.load(role).names.tolist()}
    assert judged and trained.isdisjoint(judged)


def test_of_an_older_run_a_probe_does_not_promise_what_positions_do_not_keep(archive, tmp_path, capsys):
    copy = shutil.copy(archive, tmp_path / "images.npz")
    run = begun(tmp_path / "run", f"npz:{copy}", **{"data.identity": "position"})
    change(copy, more)
    probed(run)
    assert "are held out by position, so some of them may have been used in its training" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "sizes"),
    [
        ({}, (32, 8, 24)),
        ({"data.limit": 5}, (5, 8, 24)),
        ({"data.holdout_fraction": 0.0}, (40, 0, 24)),
        ({"data.train_split": "test", "data.holdout_fraction": 0.0}, (24, 0, 0)),
        ({"data.validation_split": "test"}, None),
    ],
)
def test_each_key_of_a_probes_data_counts_without_its_source(finished, changes, sizes):
    splits = probed(finished / "run", **changes).splits
    found = tuple(len(splits.load(role)) for role in ("train", "validation", "test"))
    assert found == sizes if sizes else (len(splits.load("validation")), splits.split_of("test")) == (24, "")


def test_another_source_is_read_by_the_usual_keys(finished, archive, tmp_path):
    run = begun(tmp_path / "run", f"npz:{archive}", **{"data.limit": 16})
    assert len(probed(run).splits.load("train")) == 16
    splits = probed(run, **{"data.source": f"npz:{finished}/images.npz"}).splits
    assert splits.limit == 0 and splits.holdout_fraction == 0.1


def test_the_mend_for_a_run_without_hold_outs_works_as_written(archive, tmp_path):
    run = str(begun(tmp_path / "run", f"npz:{archive}", **{"data.holdout_fraction": 0.0, "augment.image_size": SIZE}))
    config = linear.get_config()
    config.update_from_flattened_dict({"epochs": 1, "batch_size": 16})
    with pytest.raises(ValueError, match="held none out; add --config.data.holdout_fraction=0.1 to hold out a tenth"):
        probes.run("linear", config, run)
    config.data.holdout_fraction = 0.1
    probes.run("linear", config, run)
    assert (tmp_path / "run/eval/linear.json").exists()


def test_features_are_of_as_many_images_as_were_asked_for(finished, tmp_path):
    config = features_config.get_config()
    config.update_from_flattened_dict({"data.limit": 3, "batch_size": 16})
    features.run(config, str(finished / "run"), str(tmp_path / "out"))
    assert len(np.load(tmp_path / "out/train/ids.npy")) == 3
