"""What the programs say to a user who typed something wrong, or nothing."""

import pathlib
import re
import subprocess
import sys

import pytest

import simclr_jax
from simclr_jax.configs import finetune
from simclr_jax.runtime.config import flatten
from support.forked import execute

ROOT = pathlib.Path(__file__).parents[2]
AS_A_USER = "eval_linear.py --workdir=nowhere"  # a process of its own: the others are forks


def by_itself(*arguments, cwd=ROOT):
    return subprocess.run([sys.executable, *arguments], cwd=cwd, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("train.py --config=configs/quickstart.py --config.train.epoch=3", "did you mean config.train.epochs?"),
        ("train.py --config=configs/quickstart.py --config.train.epochs=x", "config.train.epochs='x' must be int"),
        ("train.py --config=configs/quickstar.py", "does not exist; did you mean --config=configs/quickstart.py?"),
        ("train.py --config=configs/quickstart.py", "--workdir=RUN is required: the folder for the config"),
        (AS_A_USER, "is not a run"),
        ("-m simclr_jax preview", "--config=NAME is required"),
        ("-m simclr_jax preview --config=configs/quickstart.py --images=0", "images"),
        ("-m simclr_jax check-data --config.data.sauce=x", "did you mean config.data.source?"),
        ("train.py --config=configs/quickstart.py --flagfile=/no/such --workdir=x", "Unable to open flagfile"),
        ("eval_linear.py --workdir=x --config.epoch=3", "did you mean config.epochs?"),
        ("-m simclr_jax report", "--workdir=RUN is required: the folder of a pretraining run"),
        ("-m simclr_jax report --workdir=nowhere", "nowhere is not a run"),
        ("-m simclr_jax report --workdir=nowhere --config.seed=1", "--config.seed is not a flag: this command has no"),
        ("-m simclr_jax features --workdir=nowhere", "--out=FOLDER is required: a new folder for the features"),
        ("-m simclr_jax import", "the following arguments are required: google or torch"),
        ("-m simclr_jax import google", "the following arguments are required: CHECKPOINT, --out"),
        ("-m simclr_jax import torch nothing.safetensors --out=x", "nothing.safetensors is not a file"),
        ("-m simclr_jax import keras x --out=x", "invalid choice: 'keras'"),
        ("-m simclr_jax export torch nowhere --out=x.safetensors", "nowhere is not a run"),
        ("-m simclr_jax finetune --workdir=x --config.label_fraction=0", "must be above 0 and at most 1"),
        ("-m simclr_jax knn --workdir=x --config.temperatures=()", "must hold at least one number"),
        (
            "-m simclr_jax --data photos",
            "a command comes first: simclr-jax COMMAND --data; the commands are: pretrain,",
        ),
        (
            "-m simclr_jax prewiev",
            "'prewiev' is not a command; the commands are: pretrain, linear, preview, check-data",
        ),
        (
            "train.py --workdir=s3://bucket/run --config=configs/quickstart.py",
            "object stores and URLs are not supported",
        ),
        ("-m simclr_jax report --workdir=nowhere --out=gs://bucket/x", "gs://bucket/x: object stores and URLs"),
        ("-m simclr_jax import torch x --out=s3://bucket/x --normalize=none", "s3://bucket/x: object stores"),
    ],
)
def test_a_bad_command_line_ends_with_one_line(command, message):
    result = (by_itself if command == AS_A_USER else execute)(*command.split())
    assert result.returncode == 1
    assert message in result.stderr
    assert result.stderr.startswith("error: ") and len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def get_config(:", "SyntaxError: invalid syntax (mine.py, line 1)"),
        ("x = 1", "has no attribute 'get_config'"),
        ("def get_config():\n    raise RuntimeError('two\\nlines')", "RuntimeError: two lines ("),
        ("def get_config():\n    raise ValueError('two\\nlines')", "lines"),
        ("def get_config(): pass", "its get_config() returns NoneType, not a ConfigDict"),
        ("open('/no/such')", "No such file or directory: '/no/such'"),
        ("raise KeyError('\\x1b[2J' + 'x' * 10**6)", " … "),
    ],
)
def test_a_config_that_cannot_be_loaded_is_one_line(tmp_path, text, message):
    (tmp_path / "mine.py").write_text(text)
    result = execute("train.py", f"--config={tmp_path}/mine.py", f"--workdir={tmp_path}/run")
    assert result.returncode == 1 and message in result.stderr
    assert result.stderr.startswith("error: ") and len(result.stderr.splitlines()) == 1
    assert len(result.stderr) < 3000 and result.stderr.strip().isprintable()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("command", "there", "elsewhere"),
    [
        ("train.py --help", "--config.train.batch_size=4096  *images per step over all devices", "config.neighbours"),
        ("-m simclr_jax preview -h", r"--images=N: how many images to show \(default: 8\)", "check-data"),
        (
            "-m simclr_jax knn --help",
            "--config.temperatures=.* *T; a neighbour with cosine similarity s votes",
            "finetune",
        ),
        ("-m simclr_jax report --help", r"--\[no\]compute: make missing probes", "--config"),
    ],
)
def test_help_answers_with_the_flags_and_keys_of_one_command(command, there, elsewhere):
    result = execute(*command.split())
    assert (result.returncode, result.stderr) == (0, "")
    assert re.search(there, result.stdout) and elsewhere not in result.stdout
    flags = result.stdout.partition("flags:\n")[2]
    assert flags.startswith(
        "  --workdir=RUN: " if "report" in command else ("  --config=NAME: ", "  --config=FILE.py: ")
    )
    assert "-m simclr_jax" not in command or result.stdout.startswith(f"simclr-jax {command.split()[2]} ")


def test_help_lists_every_key_with_its_comment_whichever_file_that_stands_in():
    lines = execute("-m", "simclr_jax", "finetune", "--help").stdout.splitlines()
    settings = {line.split("=")[0].removeprefix("  --config."): line for line in lines if "--config." in line}
    assert set(flatten(finetune.get_config())) <= set(settings)
    assert settings["data.source"].endswith(
        "keys that are not given are then as in configs/default.py"
    )  # of configs/probe.py
    assert settings["label_fraction"].endswith("smaller subsets are part of larger ones")


@pytest.mark.parametrize("command", ["train.py", "-m simclr_jax", "-m simclr_jax import torch"])
def test_version_answers(command):
    result = execute(*command.split(), "--version")
    assert (result.returncode, result.stdout.split()[:2]) == (0, ["simclr_jax", f"{simclr_jax.__version__},"])


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_without_a_command_the_commands_are_listed(arguments):
    result = by_itself("-m", "simclr_jax", *arguments)
    assert result.returncode == 0
    assert "simclr-jax preview --config" in result.stdout
    assert "simclr-jax check-data --config" in result.stdout


def test_a_terminal_is_not_told_what_a_name_holds():
    result = by_itself("train.py", "--config=\x1b[2J\x07.py", "--workdir=x")
    assert result.stderr.startswith(r"error: --config=\x1b[2J\x07.py does not exist; the shipped configs are ")


def test_commands_work_from_every_folder(tmp_path):
    result = by_itself("-m", "simclr_jax", "knn", "--workdir=nowhere", cwd=tmp_path)
    assert result.stderr.startswith("error: nowhere is not a run")


def test_importing_the_library_is_light_and_changes_nothing_of_the_process():
    script = """
import os, sys
for name in ("TF_CPP_MIN_LOG_LEVEL", "TF_ENABLE_ONEDNN_OPTS"):
    os.environ.pop(name, None)
before = dict(os.environ)
import simclr_jax
from simclr_jax.commands import settle
assert dict(os.environ) == before
assert {"nt_xent", "lars", "load_encoder"} < set(dir(simclr_jax))
assert not {"jax", "flax", "tensorflow"} & set(sys.modules)
assert simclr_jax.nt_xent is sys.modules["simclr_jax.losses"].nt_xent and "flax" not in sys.modules
for name in simclr_jax.__all__:
    assert callable(getattr(simclr_jax, name))
from simclr_jax.commands import pretrain, probes
assert os.environ.get("TF_ENABLE_ONEDNN_OPTS") is None
"""
    result = by_itself("-c", script)
    assert result.returncode == 0, result.stderr


def test_the_settings_of_a_program_come_before_those_of_jax():
    script = """
import os, sys
from simclr_jax import __main__
for name in ("TF_CPP_MIN_LOG_LEVEL", "TF_ENABLE_ONEDNN_OPTS"):
    os.environ.pop(name, None)
sys.argv = ["simclr_jax", "knn", "--workdir=nowhere"]
try:
    __main__.main()
except SystemExit:
    assert (os.environ["TF_CPP_MIN_LOG_LEVEL"], os.environ["TF_ENABLE_ONEDNN_OPTS"]) == ("3", "0")
    print("seen")
"""
    assert by_itself("-c", script).stdout == "seen\n"


def test_lines_of_tensorflow_itself_are_kept_out():
    """It writes them past Python, of a damaged JPEG as an error."""
    script = """
import os
os.environ.pop("TF_CPP_MIN_LOG_LEVEL", None)
from simclr_jax.commands.settle import settle_process
settle_process()
import tensorflow as tf
try:
    tf.io.decode_jpeg(b"\\xff\\xd8\\xff\\xe0aaa")
except tf.errors.InvalidArgumentError:
    print("damaged")
"""
    result = by_itself("-c", script)
    assert (result.stdout, result.stderr) == ("damaged\n", "")
