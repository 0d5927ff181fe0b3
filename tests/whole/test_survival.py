"""Runs that are killed, told to stop, moved and starved: done to real processes."""

import contextlib
import pathlib
import shutil
import signal
import subprocess
import time

import numpy as np
import pytest

from support import processes
from support.processes import arrays, assert_same_run, checkpoints, finish, metrics, start, starts, train, wait_until

STEPS = 16  # of a run: 4 epochs of 4


@pytest.fixture(scope="module", name="source")
def make_source(tmp_path_factory):
    return processes.archive(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module", name="unstopped")
def make_unstopped(tmp_path_factory, source):
    """A run on one device that nothing happened to, with all its checkpoints."""
    run = tmp_path_factory.mktemp("unstopped") / "run"
    train(run, source, checkpoint__keep=100)
    return run


def kill_after(process, run, rows, delay):
    wait_until(lambda: len(metrics(run)) >= rows, process)
    time.sleep(delay)
    process.kill()
    process.communicate()


@pytest.mark.parametrize(
    ("settings", "kills"),
    [
        ({"devices": 1}, [(5, 0.0), (12, 0.03)]),
        ({"devices": 4, "augment__placement": "host"}, [(7, 0.0)]),
    ],
    ids=["1 device", "4 devices, views of the host"],
)
def test_a_run_that_is_killed_ends_with_the_bits_of_one_that_is_not(settings, kills, source, unstopped, tmp_path):
    whole = unstopped
    if settings != {"devices": 1}:
        whole = tmp_path / "whole"
        train(whole, source, **settings)
    killed = tmp_path / "killed"
    for rows, delay in kills:
        kill_after(start(killed, source, **settings), killed, rows, delay)
    train(killed, source, **settings)
    assert_same_run(killed, whole, STEPS)
    assert [row["step"] for row in metrics(killed) if "loss" in row] == list(range(1, STEPS + 1))
    assert len(starts(killed)) == len(kills) + 1 and 0 < starts(killed)[-1]["step"] < STEPS


def test_a_run_may_go_on_with_another_number_of_devices(source, unstopped, tmp_path):
    run = shutil.copytree(unstopped, tmp_path / "run")
    for step in checkpoints(run)[2:]:
        shutil.rmtree(run / "checkpoints" / str(step))
    train(run, source, devices=4)
    assert starts(run)[-1]["step"] == 6
    mine, one = arrays(run, STEPS), arrays(unstopped, STEPS)
    for name in mine:
        if name.startswith(("params", "batch_stats")):
            scale = np.abs(one[name]).max()
            np.testing.assert_allclose(mine[name], one[name], atol=2e-3 * scale, err_msg=name)
    losses = [[row["loss"] for row in metrics(r) if "loss" in row] for r in (run, unstopped)]
    np.testing.assert_allclose(*losses, rtol=2e-3)


def test_a_run_that_is_told_to_stop_loses_no_step_and_a_second_ctrl_c_harms_nothing(source, unstopped, tmp_path):
    run = tmp_path / "run"
    process = start(run, source)
    wait_until(lambda: metrics(run), process)
    process.send_signal(signal.SIGTERM)
    told = time.monotonic()
    code, _, err = finish(process)
    assert code == 75 and time.monotonic() - told < 30
    assert "SIGTERM: saving a checkpoint after this step" in err
    last = max(row["step"] for row in metrics(run))
    assert checkpoints(run)[-1] == last < STEPS
    assert f"stopped at step {last} with a checkpoint; the same command resumes it" in err

    process = start(run, source)
    wait_until(lambda: max(row["step"] for row in metrics(run)) > last, process)
    assert starts(run)[-1]["step"] == last
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(0.05)  # the first one's checkpoint is being written
    code, _, err = finish(process)
    assert code in (130, 75)  # 75 where the checkpoint was quicker than the second signal
    assert "Traceback" not in err
    train(run, source)
    assert_same_run(run, unstopped, STEPS)


def test_before_the_first_step_a_signal_ends_it_without_waiting_for_the_compiler(source, tmp_path):
    run = tmp_path / "run"
    process = start(run, source)
    wait_until(lambda: (run / "versions.jsonl").exists(), process)
    process.send_signal(signal.SIGINT)
    code, _, err = finish(process)
    assert code == 75 and "stopped before the first step" in err and not checkpoints(run)


@contextlib.contextmanager
def small_disk(folder, size):
    """A file system of its own for a folder, where the machine lets us make one."""
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("a small file system cannot be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


def test_a_full_disk_stops_a_run_with_one_line_and_leaves_its_last_good_checkpoint(source, unstopped, tmp_path):
    disk = tmp_path / "disk"
    with small_disk(disk, "1500k"):
        run = disk / "run"
        code, out, err = finish(start(run, source, checkpoint__keep=100, checkpoint__every_steps=1))
        lines = [line for line in err.splitlines() if line.startswith("error: ")]
        assert code == 1 and len(lines) == 1, err[-2000:]
        assert "last good checkpoint" in lines[0] and "Traceback" not in err
        good = checkpoints(run)
        assert 0 < len(good) < STEPS
        for step in good[2:]:
            subprocess.run(["rm", "-rf", run / "checkpoints" / str(step)], check=True)
        train(run, source, checkpoint__keep=1)
        assert_same_run(run, unstopped, STEPS)


def test_a_damaged_newest_checkpoint_is_named_and_passed_over(source, unstopped, tmp_path):
    run = shutil.copytree(unstopped, tmp_path / "run")
    newest = run / "checkpoints" / str(checkpoints(run)[-1])
    largest = max(newest.rglob("*"), key=lambda path: path.stat().st_size * path.is_file())
    content = bytearray(pathlib.Path(largest).read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(bytes(content))
    out = train(run, source)
    assert f"{newest} is damaged: " in out and f"moved to {run}/damaged/{newest.name}" in out
    assert_same_run(run, unstopped, STEPS)
