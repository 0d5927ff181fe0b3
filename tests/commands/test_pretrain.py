"""The loggers of a pretraining run, from Python and from its config."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from simclr_jax.commands import pretrain
from simclr_jax.configs import default
from simclr_jax.runtime.config import CAME_LATER, flatten, run_config
from simclr_jax.runtime.differences import config_differences
from support.processes import ROOT
from support.tiny_config import small, write_archive


class Recorder:
    def __init__(self):
        self.rows, self.closed = [], 0

    def write(self, step, values):
        self.rows.append({"step": step, **values})

    def close(self):
        self.closed += 1


@pytest.fixture(scope="module", name="source")
def make_source(tmp_path_factory):
    return f"npz:{write_archive(tmp_path_factory.mktemp('data') / 'images.npz')}"


def rows(workdir):
    found = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != "epoch"} for row in found]


def test_loggers_of_a_caller_get_all_rows_whatever_one_of_them_does_and_those_after_the_checkpoint_of_a_resume(
    source, tmp_path, capsys
):
    def fails(step, values):
        raise OSError("no room")

    config = small(source, **{"log.to": "", "checkpoint.every_steps": 3})
    recorder, again = Recorder(), Recorder()
    pretrain.run(config, str(tmp_path / "run"), loggers=[fails, recorder])
    assert recorder.rows == rows(tmp_path / "run") and recorder.closed == 1
    assert [row["step"] for row in recorder.rows] == [1, 2, 2, 3, 4, 4, 5, 6, 6]
    out = capsys.readouterr().out
    assert out.count("fails failed at step 1 (OSError: no room)") == out.count("no room") == 1
    assert "tensorboard" not in out.lower() and not (tmp_path / "run" / "tensorboard").exists()

    shutil.rmtree(tmp_path / "run" / "checkpoints" / "6")
    config.log.to = "tensorboard"  # changes nothing of what is learned
    pretrain.run(config, str(tmp_path / "run"), loggers=[again])
    assert [row["step"] for row in again.rows] == [4, 4, 5, 6, 6]
    assert list((tmp_path / "run" / "tensorboard").iterdir())


@pytest.mark.parametrize(
    ("to", "given", "message"),
    [
        ("tensorbord", (), "did you mean tensorboard"),
        ("mlflow", (), r"pip install 'simclr_jax\[mlflow\]'"),
        ("", ["wandb"], "the logger 'wandb' is neither a function"),
    ],
)
def test_loggers_that_cannot_work_are_refused_before_anything_is_written(
    to, given, message, source, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(ValueError, match=message) as refused:
        pretrain.run(small(source, **{"log.to": to}), str(tmp_path / "run"), loggers=given)
    assert "\n" not in str(refused.value) and not (tmp_path / "run").exists()


def test_a_run_from_before_the_key_goes_on():
    config = default.get_config()
    old = config.to_dict()
    del old["log"]["to"]
    assert (CAME_LATER | flatten(old))["log.to"] == config.log.to == "tensorboard"  # as all of them did
    config.log.to = "wandb,mlflow"
    assert config_differences(old, config.to_dict()) == []


def test_a_run_from_before_the_keys_of_momentum_head_and_views_goes_on():
    config = default.get_config()
    old = json.loads(json.dumps(config.to_dict()))
    assert config_differences(old, config.to_dict()) == [], "JSON has no tuples"
    for section, names in {
        "optimizer": ("momentum", "nesterov", "betas", "exclude"),
        "head": ("hidden_dim", "norm"),
        "model": ("view_batch_norm",),
    }.items():
        for name in names:
            del old[section][name]
    assert config_differences(old, config.to_dict()) == []
    read = run_config(old, "RUN")
    assert (read.head.hidden_dim, read.head.norm, read.model.view_batch_norm) == (0, True, False)
    config.optimizer.exclude = "none"
    assert config_differences(old, config.to_dict()) == ["optimizer.exclude: 'all_but_kernels' → 'none'"]


# PyTorch stands there as a file that tells when it is imported, which tensorboardX does unless it is hidden.
COMMAND = """
import sys
from etils import epath
from simclr_jax.commands import ablate, pretrain
from simclr_jax.runtime import trackers
module = {"pretrain": pretrain, "ablate": ablate}[sys.argv.pop(1)]
module.run = lambda config, workdir, **_: trackers.TensorBoard(epath.Path(workdir), 0).close()
pretrain.next_step.after_training = lambda *_: []
module.main()
"""
LIBRARY = """
import sys
from simclr_jax.commands import pretrain
from support.tiny_config import small
def no_steps(*_, **__):
    raise ArithmeticError("stopped here")
pretrain.loop.train = no_steps
try:
    pretrain.run(small(sys.argv[1]), sys.argv[2])
except ArithmeticError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("code", "arguments", "said"),
    [
        (COMMAND, ["pretrain", "--config=quickstart", "--workdir=RUN"], []),
        (COMMAND, ["ablate", "--study=head", "--workdir=RUN"], []),
        (LIBRARY, [], ["torch", "stopped here"]),
    ],
    ids=["pretrain", "ablate", "library"],
)
def test_pytorch_is_hidden_from_tensorboard_by_commands_and_never_by_the_library(
    code, arguments, said, source, tmp_path
):
    (tmp_path / "torch.py").write_text("print('torch')\nclass Tensor: pass\n")
    (tmp_path / "RUN").mkdir()
    path = os.pathsep.join(map(str, (tmp_path, ROOT, ROOT / "tests")))
    command = [sys.executable, "-c", code, *(arguments or [source, "RUN"])]
    found = subprocess.run(
        command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, timeout=120
    )
    assert found.returncode == 0, found.stderr
    assert [line for line in found.stdout.splitlines() if line in ("torch", "stopped here")] == said
    assert list((tmp_path / "RUN").glob("**/events*"))
