"""--import=FILE.py: what a user's file registers is known to every command, and nothing but the flag runs it."""

import shutil
import sys

import numpy as np
import pytest

import simclr_jax
from simclr_jax.commands import next_step, own_code
from simclr_jax.models.architectures import REGISTERED
from simclr_jax.runtime import checkpoint
from support.forked import execute
from support.tiny_config import SIZE, small, write_archive

FILE = """
import flax.linen as nn
import jax.numpy as jnp
import simclr_jax
from beside import WIDTH


class Net(nn.Module):
    width: int = WIDTH

    @nn.compact
    def __call__(self, images, train):
        level = self.variable("levels", "level", jnp.zeros, self.width)
        x = nn.Dense(self.width)(images.reshape(images.shape[0], -1))
        if train:
            level.value = 0.9 * level.value + 0.1 * x.mean(0)
        return nn.relu(x - level.value)


simclr_jax.register_encoder("of_file", lambda dtype, axis_name: Net())
"""
CHANGES = {
    "model.encoder": "of_file",
    "model.cifar_stem": False,
    "checkpoint.every_epochs": 1,
    "augment.placement": "device",
}


@pytest.fixture(scope="module", name="place")
def make_place(tmp_path_factory):
    place = tmp_path_factory.mktemp("own")
    (place / "net.py").write_text(FILE)
    (place / "beside.py").write_text("WIDTH = 12\n")
    write_archive(place / "images.npz")
    return place


def forget(monkeypatch):
    """What one test imports is unknown to the next."""
    monkeypatch.setattr(REGISTERED, "own", {})
    monkeypatch.setattr(own_code, "imported", {})
    monkeypatch.setattr(sys, "path", list(sys.path))


@pytest.fixture(autouse=True)
def forgotten(monkeypatch):
    forget(monkeypatch)


@pytest.fixture(scope="module", name="run")
def make_run(place):
    with pytest.MonkeyPatch.context() as monkeypatch:
        forget(monkeypatch)
        own_code.run([str(place / "net.py")])
        return simclr_jax.pretrain(small(f"npz:{place}/images.npz", **CHANGES), place / "run", progress=False)


def test_a_run_of_it_goes_the_whole_way(run, place, tmp_path):
    own_code.run([str(place / "net.py")])
    encoder = run.encoder()
    assert encoder.feature_dim == 12
    images = np.random.default_rng(0).integers(0, 256, (5, SIZE, SIZE, 3), np.uint8)
    variables = checkpoint.load_variables(run.path)[2]
    dense = variables["params"]["encoder"]["module"]["Dense_0"]
    level = variables["batch_stats"]["encoder"]["module"]["levels"]["level"]
    assert np.abs(level).max() > 0
    h = np.maximum(images.reshape(5, -1) / 255 @ dense["kernel"] + dense["bias"] - level, 0)
    np.testing.assert_allclose(encoder(images), h, rtol=1e-4, atol=1e-5)
    assert 0 <= run.knn(neighbours=(3,)).top1 <= 1
    assert run.features("test").array().shape == (24, 12)


def test_a_run_of_it_that_is_stopped_resumes_with_the_same_bits(run, place, tmp_path):
    own_code.run([str(place / "net.py")])
    stopped = shutil.copytree(run.path, tmp_path / "run")
    steps = sorted(int(path.name) for path in (stopped / "checkpoints").iterdir() if path.name.isdigit())
    for step in steps[1:]:
        shutil.rmtree(stopped / "checkpoints" / str(step))
    simclr_jax.pretrain(small(f"npz:{place}/images.npz", **CHANGES), stopped, progress=False)
    of_both = [checkpoint.load_variables(str(path)) for path in (run.path, stopped)]
    assert of_both[0][1] == of_both[1][1] == steps[-1]
    assert str(of_both[0][2]) == str(of_both[1][2])
    for one, other in zip(*(_leaves(of[2]) for of in of_both), strict=True):
        np.testing.assert_array_equal(one, other)


def _leaves(tree):
    return [leaf for value in tree.values() for leaf in (_leaves(value) if isinstance(value, dict) else [value])]


@pytest.mark.parametrize(
    "command",
    [
        "knn --workdir={run} --config.neighbours=(3,)",
        "export stablehlo {run} --out={out}/a.stablehlo",
    ],
)
def test_a_command_knows_it_by_the_flag_alone(run, place, tmp_path, command):
    arguments = command.format(run=run.path, out=tmp_path).split()
    result = execute("-m", "simclr_jax", *arguments)
    assert result.returncode == 1 and result.stderr.count("\n") == 1
    assert "register your own first: simclr_jax.register_encoder('of_file', factory)" in result.stderr
    assert "model.encoder 'of_file' is not registered; register your own first: " in result.stderr
    assert "or on the command line --import=FILE.py; else choose one of " in result.stderr
    result = execute("-m", "simclr_jax", *arguments, f"--import={place}/net.py")
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("kind", ["torch", "onnx"])
def test_files_of_known_layers_are_refused(run, place, tmp_path, kind):
    suffix = {"torch": ".safetensors", "onnx": ".onnx"}[kind]
    result = execute(
        "-m", "simclr_jax", "export", kind, str(run.path), f"--out={tmp_path}/a{suffix}", f"--import={place}/net.py"
    )
    assert result.returncode == 1 and not list(tmp_path.iterdir())
    assert f"use simclr-jax export stablehlo {run.path} --out={tmp_path}/a.stablehlo" in result.stderr


def test_a_module_that_breaks_the_contract_writes_nothing(place, tmp_path):
    """In training alone, which is traced before anything is made."""
    file = tmp_path / "net.py"
    file.write_text(FILE.replace("level.value = ", "level.value = images[0] + "))
    (tmp_path / "beside.py").write_text("WIDTH = 12\n")
    own_code.run([str(file)])
    with pytest.raises(ValueError, match="the registered encoder 'of_file' cannot be used with images float32"):
        simclr_jax.pretrain(small(f"npz:{place}/images.npz", **CHANGES), tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "there is no such file"),
        ("import nothing_there\n", "cannot be run: ModuleNotFoundError: No module named 'nothing_there' (line 1)"),
        ("x = 1\nx +\n", "cannot be run: SyntaxError: invalid syntax"),
        ("\nraise ValueError('of\\nlines')\n", "cannot be run: of lines (line 2)"),
        ("import sys\nsys.exit(3)\n", "cannot be run: SystemExit: 3 (line 2)"),
        (
            "import simclr_jax\nsimclr_jax.register_encoder('vit_tiny', dict)\n",
            "encoder 'vit_tiny' is one of this library; give yours another name, such as 'my_vit_tiny' (line 2)",
        ),
    ],
)
def test_a_file_that_fails_is_one_line(tmp_path, text, words):
    file = tmp_path / "mine.py"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ValueError, match="^--import=") as error:
        own_code.run([str(file)])
    assert words in str(error.value) and "\n" not in str(error.value)
    assert not own_code.imported


def test_what_is_no_python_file_is_one_line(tmp_path):
    (tmp_path / "net.py").write_text("x = 1\n")
    with pytest.raises(ValueError, match=r"net: there is no such file; did you mean --import=.*/net\.py\?"):
        own_code.run([str(tmp_path / "net")])
    (tmp_path / "mine.txt").write_text("x = 1\n")
    with pytest.raises(ValueError, match="give a Python file, whose name ends in .py"):
        own_code.run([str(tmp_path / "mine.txt")])


def test_a_file_runs_once_and_is_part_of_the_next_command(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text("import sys\nsys.path.append('ran')\n")
    own_code.run([str(tmp_path / "mine.py")] * 2)
    own_code.run([f"{tmp_path}/../{tmp_path.name}/mine.py"])
    assert sys.path.count("ran") == 1
    assert next_step.command("linear", "--workdir=x").endswith(f"linear --workdir=x --import={tmp_path}/mine.py")
