"""Commands that are printed work when they are copied into a shell."""

import os
import pathlib
import shlex
import subprocess
import sys
import types

import pytest

from simclr_jax.commands import next_step
from simclr_jax.data.split import Split
from simclr_jax.evaluate.probed_run import ProbedRun
from support.runs import write_run
from support.tiny_config import write_archive

ROOT = pathlib.Path(__file__).parents[2]
WORKDIR = "it's a $(touch stolen) run"


def trainer(labelled, validation=4, test="", holdout=0.1, to="wandb,tensorboard"):
    """As much of a Trainer as tells what can be done with its run."""
    return types.SimpleNamespace(
        train=types.SimpleNamespace(labelled=labelled),
        validation=range(validation),
        splits=types.SimpleNamespace(split_of=lambda role: test),
        config=types.SimpleNamespace(
            data=types.SimpleNamespace(holdout_fraction=holdout), log=types.SimpleNamespace(to=to)
        ),
    )


@pytest.mark.parametrize(
    ("of", "program"),
    [
        (trainer(True), "linear"),
        (trainer(True, test="test", holdout=0.0), "linear"),
        (trainer(True, holdout=0.0), "pictures"),
        (trainer(False), "pictures"),
        (trainer(False, validation=0, holdout=0.0), "features"),
        (trainer(True, validation=0, holdout=0.0), "features"),
    ],
)
def test_what_is_said_to_be_next_can_be_done(of, program):
    words = shlex.split(next_step.after_training(of, WORKDIR)[0])
    assert " ".join(words[1:]).startswith(program)
    assert f"--workdir={WORKDIR}" in words
    assert ("features" in program) == (f"--out={WORKDIR}-features" in words)


@pytest.mark.parametrize("installed", [True, False])
def test_tensorboard_is_named_where_it_is_installed_alone(installed, monkeypatch):
    monkeypatch.setattr(next_step.importlib.util, "find_spec", lambda name: installed or None)
    found = next_step.after_training(trainer(True), WORKDIR)[1:]
    assert [shlex.split(line)[1:] for line in found] == [
        ["-m", "tensorboard.main", f"--logdir={WORKDIR}/tensorboard"]
    ] * installed


def test_tensorboard_is_not_named_where_the_run_has_no_files_for_it(monkeypatch):
    monkeypatch.setattr(next_step.importlib.util, "find_spec", lambda name: True)
    assert len(next_step.after_training(trainer(True, to="wandb"), WORKDIR)) == 1


@pytest.mark.parametrize("where", ["project", "elsewhere"])
@pytest.mark.parametrize("path", ["", os.path.dirname(sys.executable)])
def test_the_command_is_found_by_a_shell(where, path, tmp_path, monkeypatch):
    """Whether the environment is active or not, and from any folder."""
    monkeypatch.chdir(ROOT if where == "project" else tmp_path)
    monkeypatch.setenv("PATH", f"{path}:/usr/bin:/bin")
    line = next_step.after_training(trainer(True), WORKDIR)[0]
    face, program = shlex.split(line)[:2]
    assert face == "simclr-jax" if path else face.endswith(".venv/bin/simclr-jax") or os.path.exists(face)
    assert program == "linear"
    result = subprocess.run(line, shell=True, capture_output=True, text=True, check=False)
    assert result.stderr.startswith(f"error: {WORKDIR} is not a run")
    assert not (tmp_path / "stolen").exists()


@pytest.mark.parametrize("path", ["", os.path.dirname(sys.executable)])
def test_where_the_command_is_not_installed_python_runs_it(path, monkeypatch):
    monkeypatch.setenv("PATH", f"{path}:/usr/bin:/bin")
    monkeypatch.setattr(pathlib.Path, "exists", lambda path: path.name != "simclr-jax" and os.path.exists(path))
    python, *module = shlex.split(next_step.command("knn"))
    assert module == ["-m", "simclr_jax", "knn"]
    assert python == "python" if path else os.path.samefile(python, sys.executable)


def probe(run, **changes):
    from simclr_jax.configs import probe as config

    given = config.get_config()
    given.update_from_flattened_dict(changes)
    return ProbedRun(given, str(run))


def test_data_that_moved_are_named_with_the_key_that_replaces_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_archive(tmp_path / "images.npz")
    run = write_run(tmp_path / "run", **{"data.source": "npz:images.npz", "augment.image_size": 8})
    assert isinstance(probe(run).splits.load("train"), Split)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    with pytest.raises(ValueError) as error:
        probe(run)
    assert f"nothing at {tmp_path}/elsewhere/images.npz" in str(error.value)
    assert f"{run}/config.json has source=npz:images.npz of its pretraining" in str(error.value)
    assert "--config.data.source=" in str(error.value) and "\n" not in str(error.value)
    moved = probe(run, **{"data.source": f"npz:{tmp_path}/images.npz"})
    assert isinstance(moved.splits.load("train"), Split)
    with pytest.raises(ValueError) as error:
        probe(run, **{"data.source": "folder:nowhere"})
    assert "pretraining" not in str(error.value)
