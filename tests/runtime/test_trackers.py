"""W&B and MLflow themselves, without a network: what they keep is read back by other means than it was written."""

import importlib.util
import json
import os
import pty
import struct
import subprocess
import sys

import pytest

from support.processes import ROOT

needs_wandb = pytest.mark.skipif(not importlib.util.find_spec("wandb"), reason="wandb is not installed")
needs_mlflow = pytest.mark.skipif(not importlib.util.find_spec("mlflow"), reason="mlflow is not installed")

# Two starts of one training of eight steps: it is killed after step 6, and its checkpoint is of step 4.
TWO_STARTS = """
import sys
from simclr_jax.runtime.loggers import check_loggers, open_loggers
from simclr_jax.runtime.metrics import MetricsWriter
to, run = sys.argv[1:]

def start(first_step, last_step):
    check_loggers(to, ())
    config = {"seed": 7, "data.dir": "", "augment.range": (1, 2)}
    opened = open_loggers(to, (), workdir=run, first_step=first_step, config=config)
    assert len(opened) == 1
    writer = MetricsWriter(run, first_step=first_step, total_steps=8, views_per_step=4, loggers=opened)
    for step in range(first_step + 1, last_step + 1):
        writer.write(step, step / 4, {"loss": 10.0 - step, "gradient_norm": float("nan")})
        if step % 4 == 0:
            writer.write(step, step / 4, {"validation_loss": 20.0 - step})
    writer.close()

start(0, 6)
start(4, 8)
"""


@pytest.fixture(name="environment")
def make_environment(tmp_path):
    """Variables without the user's settings and logins, in which neither package tells anybody that it is used."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("WANDB_", "MLFLOW_"))}
    silent = {"WANDB_ERROR_REPORTING": "false", "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
    return ours | silent | {"HOME": str(tmp_path), "NETRC": str(tmp_path / "netrc"), "PYTHONPATH": str(ROOT)}


def execute(code, *arguments, cwd, environment):
    command = [sys.executable, "-c", code, *arguments]
    found = subprocess.run(
        command, cwd=cwd, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120
    )
    assert found.returncode == 0, found.stdout + found.stderr
    return found


def records(path):
    """The records of a .wandb file, which is a LevelDB log: blocks of 32 KiB, each part with CRC, length and kind."""
    from wandb.proto import wandb_internal_pb2

    data, at, whole, found = path.read_bytes(), 7, b"", []
    while at + 7 <= len(data):
        if (left := 2**15 - at % 2**15) < 7:
            at += left
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        at += 7 + length
        whole += data[at - length : at]
        if kind in (1, 4):  # the whole or its last part
            found.append(wandb_internal_pb2.Record.FromString(whole))
            whole = b""
    return found


@needs_wandb
def test_wandb_keeps_the_rows_and_a_training_that_goes_on_is_one_run(environment, tmp_path):
    (run := tmp_path / "RUN").mkdir()
    out = execute(
        TWO_STARTS, "wandb", str(run), cwd=tmp_path, environment=environment | {"WANDB_MODE": "offline"}
    ).stdout
    first, second = map(records, sorted(run.glob("wandb/offline-run-*/*.wandb"), key=os.path.getmtime))
    identity = json.loads((run / "wandb.json").read_text())["id"]
    described = [record.run for record in first + second if record.HasField("run")]
    assert {(of.run_id, of.project) for of in described} == {(identity, "simclr_jax")}
    assert described[0].display_name == "RUN" and described[1].display_name == ""  # which would undo a new name
    config = {item.key: json.loads(item.value_json) for item in described[0].config.update}
    assert (config["seed"], config["data.dir"], config["augment.range"]) == (7, "", [1, 2])

    def rows(of):
        names = {"_step", "loss", "validation_loss", "gradient_norm"}
        items = [record.history.item for record in of]
        values = [{"".join(item.nested_key): json.loads(item.value_json) for item in row} for row in items]
        return [{name: row[name] for name in row if name in names} for row in values if row]

    expected = [{"_step": step, "loss": 10 - step} for step in range(1, 9)]
    for row in expected[3::4]:
        row["validation_loss"] = 20 - row["_step"]
    assert rows(first) == expected[:6] and rows(second) == expected[4:]
    assert [record.exit.exit_code for record in first + second if record.HasField("exit")] == [0, 0]
    assert out.count(f"W&B: run {identity}, offline, in {run}") == 2 and not (tmp_path / "wandb").exists()


@needs_mlflow
def test_mlflow_keeps_the_rows_once_and_a_training_that_goes_on_is_one_run(environment, tmp_path):
    (run := tmp_path / "RUN é").mkdir()
    code = f"""{TWO_STARTS}
import json
from mlflow.tracking import MlflowClient
client = MlflowClient(tracking_uri=f"sqlite:///{{run}}/mlflow.db")
experiment = client.get_experiment_by_name("simclr_jax")
runs = client.search_runs([experiment.experiment_id])
histories = [{{name: [(x.step, x.value) for x in client.get_metric_history(run.info.run_id, name)]
              for name in run.data.metrics}} for run in runs]
print(json.dumps([[run.info.run_id, run.info.run_name, run.info.status, run.data.params] for run in runs]))
print(json.dumps(histories))
"""
    *said, found, histories = execute(
        code, "mlflow", str(run), cwd=tmp_path, environment=environment
    ).stdout.splitlines()
    found, histories = json.loads(found), json.loads(histories)
    identity = json.loads((run / "mlflow.json").read_text())["id"]
    params = {"seed": "7", "data.dir": "", "augment.range": "(1, 2)"}
    assert said == [f"MLflow: run {identity}, in {run}/mlflow.db"] * 2
    assert found == [[identity, "RUN é", "FINISHED", params]]
    assert histories[0].keys() == {"loss", "validation_loss", "seconds"}
    assert histories[0]["loss"] == [[step, 10 - step] for step in range(1, 9)]
    assert histories[0]["validation_loss"] == [[4, 16], [8, 12]]
    assert {path.name for path in tmp_path.iterdir()} <= {run.name, ".cache", ".config"}


ENDS = """
import sys
from simclr_jax.runtime import preemption
from simclr_jax.runtime.loggers import open_loggers
for number, error in enumerate((None, ValueError(), preemption.Stopped())):
    try:
        raise KeyError  # which is none of the run's, as where it is tried again
    except KeyError:
        (logger,) = open_loggers(sys.argv[1], (), workdir=f"{sys.argv[2]}/{number}", first_step=0, config={})
        try:
            logger.write(1, {"loss": 1.0})
            if error:
                raise error
        except type(error):
            logger.close()
        else:
            logger.close()
"""


@needs_wandb
def test_wandb_is_told_how_a_run_ended(environment, tmp_path):
    for number in range(3):
        (tmp_path / str(number)).mkdir()
    execute(ENDS, "wandb", str(tmp_path), cwd=tmp_path, environment=environment | {"WANDB_MODE": "offline"})
    found = [records(next(tmp_path.glob(f"{number}/wandb/offline-run-*/*.wandb"))) for number in range(3)]
    codes = [[record.exit.exit_code for record in of if record.HasField("exit")] for of in found]
    assert codes == [[0], [1], [75]]
    assert [any(record.HasField("preempting") for record in of) for of in found] == [False, False, True]


@needs_mlflow
def test_mlflow_is_told_how_a_run_ended(environment, tmp_path):
    for number in range(3):
        (tmp_path / str(number)).mkdir()
    code = (
        ENDS
        + """
from mlflow.tracking import MlflowClient
(experiment,) = MlflowClient().search_experiments(filter_string="name = 'simclr_jax'")
runs = MlflowClient().search_runs([experiment.experiment_id], order_by=["attributes.start_time ASC"])
print([run.info.status for run in runs])
"""
    )
    # Folders of files, which MLflow is about to give up, take no seconds to make.
    shared = environment | {"MLFLOW_TRACKING_URI": f"file://{tmp_path}/shared", "MLFLOW_ALLOW_FILE_STORE": "true"}
    out = execute(code, "mlflow", str(tmp_path), cwd=tmp_path, environment=shared).stdout
    assert out.splitlines()[-1] == "['FINISHED', 'FAILED', 'KILLED']"
    assert not list(tmp_path.glob("*/mlflow.db")) and "shared" not in out  # an address may hold a password


@needs_wandb
def test_wandb_without_a_login_is_refused_and_asks_nobody(environment, tmp_path):
    """In a terminal, where it would ask and wait."""
    code = "from simclr_jax.runtime.loggers import check_loggers; check_loggers('wandb', ())"
    terminal, end = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, stdin=end, stdout=end, stderr=end
    )
    os.close(end)
    shown = b""
    try:
        process.wait(60)
        shown = os.read(terminal, 100_000)
    finally:
        process.kill()
        os.close(terminal)
    last = shown.decode().strip().splitlines()[-1]
    assert process.returncode == 1 and last.startswith(
        "ValueError: config.log.to: W&B has no API key here; `wandb login`"
    )
    assert "WANDB_MODE=offline" in last and b"account" not in shown


AWAY = """
import sys
from simclr_jax.runtime.loggers import check_loggers, open_loggers
check_loggers(sys.argv[1], ())
assert open_loggers(sys.argv[1], (), workdir=".", first_step=0, config={}) == []
"""


@needs_wandb
def test_a_run_goes_on_where_wandb_is_away(environment, tmp_path):
    away = {"WANDB_API_KEY": "0" * 40, "WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_INIT_TIMEOUT": "2"}
    out = execute(AWAY, "wandb", cwd=tmp_path, environment=environment | away).stdout
    assert out.startswith("wandb cannot start (") and out.count("\n") == 1
    assert "the run goes on without it; with WANDB_MODE=offline" in out


@needs_mlflow
def test_a_run_goes_on_where_mlflow_is_away(environment, tmp_path):
    away = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    out = execute(AWAY, "mlflow", cwd=tmp_path, environment=environment | away).stdout
    assert out.startswith("mlflow cannot start (") and out.count("\n") == 1


def test_pytorch_is_not_imported_for_tensorboard_and_can_be_later(environment, tmp_path):
    (tmp_path / "torch.py").write_text("print('torch')")
    code = """
import sys
sys.path.insert(0, ".")
from etils import epath
from simclr_jax.runtime import trackers
trackers.import_tensorboardx_without_torch()
trackers.TensorBoard(epath.Path("tensorboard"), 0).close()
print("then")
import torch
"""
    assert execute(code, cwd=tmp_path, environment=environment).stdout.split() == ["then", "torch"]
    assert list((tmp_path / "tensorboard").iterdir())
