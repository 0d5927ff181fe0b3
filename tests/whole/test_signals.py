"""Real processes that are asked to stop otherwise than by SIGTERM: by a scheduler, by a terminal that is closed."""

import contextlib
import io
import os
import pty
import signal
import subprocess
import sys

import pytest

from support import processes
from support.processes import ROOT, checkpoints, finish, metrics, start, wait_until

LONG = 100  # epochs: the run does not end before its signal comes


@pytest.fixture(scope="module", name="source")
def make_source(tmp_path_factory):
    return processes.archive(tmp_path_factory.mktemp("data"))


def last_step(run):
    return max((row["step"] for row in metrics(run)), default=0)


def test_a_scheduler_may_ask_by_another_signal_than_sigterm(source, tmp_path):
    run = tmp_path / "run"
    process = start(run, source, train__epochs=LONG)
    wait_until(lambda: last_step(run) > 2, process)
    process.send_signal(signal.SIGUSR1)
    code, _, err = finish(process)
    assert code == 75 and "Traceback" not in err
    assert "SIGUSR1: saving a checkpoint after this step" in err
    assert checkpoints(run)[-1] == last_step(run)
    assert f"stopped at step {last_step(run)} with a checkpoint; the same command resumes it" in err


def test_a_terminal_that_is_closed_takes_nothing_of_the_run_with_it(source, tmp_path):
    """What is printed meets an error from then on."""
    run = tmp_path / "run"
    settings = processes.TINY | {"data.source": source, "train.epochs": LONG}
    flags = [f"--config.{key}={value}" for key, value in settings.items()]
    command = [
        sys.executable,
        "tests/support/smallest.py",
        "--config=configs/quickstart.py",
        f"--workdir={run}",
        *flags,
    ]
    ours, theirs = pty.openpty()
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT), "XLA_FLAGS": ""}
    heard = ["env", "--default-signal=HUP"]  # the tests may run under nohup
    login = ["setsid", "--ctty", "--wait"]  # the terminal's first process, to which the system sends SIGHUP
    streams = {"stdin": theirs, "stdout": theirs, "stderr": subprocess.STDOUT}
    process = subprocess.Popen([*heard, *login, *command], cwd=ROOT, env=environment, **streams)
    os.close(theirs)
    os.set_blocking(ours, False)

    def steps_are_taken():
        with contextlib.suppress(BlockingIOError):
            os.read(ours, 2**16)  # else the terminal is full once
        return last_step(run) > 5

    process.stderr = io.StringIO()  # what `wait_until` shows of a process that has ended
    wait_until(steps_are_taken, process)
    os.close(ours)
    assert process.wait(processes.PATIENCE) == 75
    assert checkpoints(run)[-1] == last_step(run)
