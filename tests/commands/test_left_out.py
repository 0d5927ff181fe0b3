"""Probes of data with few labels, of data that lack a role, and of a RUN that cannot be written."""

import json
import os
import re

import numpy as np
import pytest

from simclr_jax.commands import diagnose, features, finetune, pictures, probes
from simclr_jax.configs import diagnose as diagnose_config
from simclr_jax.configs import features as features_config
from simclr_jax.configs import finetune as finetune_config
from simclr_jax.configs import knn, lbfgs, linear, linear_augmented
from simclr_jax.configs import pictures as pictures_config
from simclr_jax.evaluate import probed_run
from simclr_jax.runtime import run_folder
from support.runs import write_run
from support.tiny_config import SIZE, red_or_blue, tiny

SUPERVISED = {"epochs": 1, "learning_rates": (0.1,)}
COMMANDS = {
    "linear": (linear, {"epochs": 1}, lambda *args, **how: probes.run("linear", *args, **how)),
    "knn": (knn, {"neighbours": (3,)}, lambda *args, **how: probes.run("knn", *args, **how)),
    "lbfgs": (lbfgs, {"l2_values": 1}, lambda *args, **how: probes.run("lbfgs", *args, **how)),
    "finetune": (finetune_config, SUPERVISED | {"from_scratch": False}, finetune.run),
    "finetune_0.9": (finetune_config, SUPERVISED | {"from_scratch": False, "label_fraction": 0.9}, finetune.run),
    "linear_augmented": (linear_augmented, SUPERVISED, finetune.run_linear),
    "diagnose": (diagnose_config, {}, diagnose.run),
    "pictures": (pictures_config, {"tsne_images": 0, "queries": 2}, pictures.run),
}
# Labels beside those of the colours 0 and 1: -1 is none, and of 2 and 3 train has one image and none.
ODD = {"train": [-1, -1, 2], "validation": [-1, 3, 3], "test": [2, 3, -1, -1, -1, -1]}


def run_command(name, run, **how):
    module, changes, command = COMMANDS[name]
    config = module.get_config()
    config.update_from_flattened_dict({"batch_size": 8, **changes})
    return command(config, str(run), **how)


def write_archive(path, odd=ODD, roles=("train", "validation", "test")):
    arrays = {}
    for seed, role in enumerate(roles):
        images, labels = red_or_blue(24, seed)
        labels[: len(odd.get(role, ()))] = odd.get(role, ())
        arrays |= {f"x_{role}": images, f"y_{role}": labels}
    np.savez(path, **arrays)
    return path


@pytest.fixture(scope="module", name="run")
def make_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("odd")
    return write_run(folder / "run", **tiny(f"npz:{write_archive(folder / 'images.npz')}"))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_probe_works_on_what_is_labelled_and_says_what_it_leaves_out(run, name, capsys, monkeypatch):
    said = []
    extract = probed_run.ProbedRun.extract
    monkeypatch.setattr(
        probed_run.ProbedRun,
        "extract",
        lambda *args: said.append(capsys.readouterr().out) or extract(*args),
    )
    result = run_command(name, run)
    out = "".join(said) + capsys.readouterr().out
    if name in ("diagnose", "pictures"):
        assert "skipped" not in out  # images without labels are images
        return
    lines = [
        "2 of 24 train images of SOURCE have no label: skipped",
        "1 of 24 validation images of SOURCE have no label: skipped",
        "2 of 24 validation images of SOURCE are of classes that train has no images of (3): skipped",
        "4 of 24 test images of SOURCE have no label: skipped",
        "1 of 24 test images of SOURCE are of classes that train has no images of (3): skipped",
    ]
    assert [line.replace(result["source"], "SOURCE") for line in result["left_out"]] == lines
    assert all(out.count(line) == 1 for line in result["left_out"])
    if said:  # before anything was computed
        assert result["left_out"][-1] in said[0]
    few = 6 + 6 + 1  # ⌊0.9 · 22 / 3⌋ of each of the three classes, or all there are
    train = few if name == "finetune_0.9" else 22
    assert result["images"] == {"train": train, "validation": 21, "test": 19}
    assert sum(of["images"] for of in result["per_class"].values()) == 19 and "3" not in result["per_class"]


def test_results_are_those_of_a_set_that_holds_no_others(tmp_path):
    """The same images without the odd ones, named for each role."""
    run = write_run(tmp_path / "run", **tiny(f"npz:{write_archive(tmp_path / 'odd.npz', {})}"))
    wanted = run_command("knn", run)
    with np.load(tmp_path / "odd.npz") as arrays:
        arrays = dict(arrays)
    for role in ("train", "validation", "test"):
        extra = np.random.default_rng(0).integers(0, 255, (5, SIZE, SIZE, 3), np.uint8)
        labels = [-1] * 5 if role == "train" else [-1, 2, 2, 3, -1]
        arrays[f"x_{role}"] = np.concatenate([extra, arrays[f"x_{role}"]])
        arrays[f"y_{role}"] = np.concatenate([labels, arrays[f"y_{role}"]])
    np.savez(tmp_path / "odd.npz", **arrays)
    found = run_command("knn", run)
    assert {key: found[key] for key in ("top1", "images", "validation_top1", "untrained_top1", "per_class")} == {
        key: wanted[key] for key in ("top1", "images", "validation_top1", "untrained_top1", "per_class")
    }


def test_features_of_a_run_that_held_nothing_out(tmp_path, capsys):
    archive = write_archive(tmp_path / "images.npz", roles=("train",))
    run = write_run(tmp_path / "run", **tiny(f"npz:{archive}") | {"data.holdout_fraction": 0.0})
    features.run(features_config.get_config(), str(run), str(tmp_path / "out"))
    assert sorted(os.listdir(tmp_path / "out")) == ["train"]
    assert len(np.load(tmp_path / "out" / "train" / "features-00000.npy")) == 24
    out = capsys.readouterr().out
    assert "has no validation images: skipped" in out and "has no test images: skipped" in out
    with pytest.raises(ValueError, match="take another split: --config.split=train"):
        run_command("diagnose", run)
    COMMANDS["diagnose"][2](*[_with(diagnose_config, split="train"), str(run)])  # as the message says
    assert pictures.run(_with(pictures_config), str(run)) == []  # and no failure


def _with(module, **changes):
    config = module.get_config()
    config.update_from_flattened_dict({"batch_size": 8, **changes})
    return config


def test_nothing_is_left_of_features_that_failed(run, tmp_path, monkeypatch):
    extract = probed_run.ProbedRun.extract

    def failing(self, role, *args):
        if role == "test":
            raise OSError("the disk is full")
        extract(self, role, *args)

    monkeypatch.setattr(probed_run.ProbedRun, "extract", failing)
    with pytest.raises(OSError, match="full"):
        features.run(features_config.get_config(), str(run), str(tmp_path / "out"))
    assert not list(tmp_path.iterdir())


@pytest.fixture(name="read_only")
def make_read_only(run, monkeypatch):
    """A RUN that cannot be written: for the superuser, too, who is asked nothing."""
    access, mkdir = os.access, os.mkdir

    def refuse(path, *rest):
        if os.path.abspath(path).startswith(str(run)):
            raise PermissionError(30, "Read-only file system", str(path))
        return mkdir(path, *rest)

    monkeypatch.setattr(
        run_folder.os,
        "access",
        lambda path, mode: access(path, mode) and not (mode == os.W_OK and str(path).startswith(str(run))),
    )
    monkeypatch.setattr(os, "mkdir", refuse)
    return run


@pytest.mark.parametrize("name", COMMANDS)
def test_a_read_only_run_is_probed_into_another_folder(read_only, tmp_path, name):
    before = {path: path.stat().st_mtime_ns for path in read_only.rglob("*")}
    with pytest.raises(
        ValueError, match=r"cannot be written: .* is read-only; give another place for results: --out=FOLDER"
    ):
        run_command(name, read_only)
    out = tmp_path / "some where"
    result = run_command(name, read_only, out=str(out))
    if name == "pictures":
        assert (out / "eval" / "neighbours.png").exists()
    else:
        assert json.loads((out / "eval" / f"{name}.json").read_text()) == result
    assert {path: path.stat().st_mtime_ns for path in read_only.rglob("*")} == before


def test_features_that_a_read_only_run_has_are_read_there(run, tmp_path, monkeypatch):
    run_command("knn", run)
    monkeypatch.setattr(probed_run.ProbedRun, "extract", lambda *_: pytest.fail("computed again"))
    run_command("knn", run, out=str(tmp_path / "out"))
    assert sorted(os.listdir(tmp_path / "out")) == ["eval"] and not re.search("features", str(os.listdir(tmp_path)))
