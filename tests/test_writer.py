"""metrics.jsonl holds each step once, also when a run resumes."""

import errno
import json
import pathlib
import subprocess
import sys

import pytest
from tensorboardX import SummaryWriter

from simclr_jax.writer import Writer


def write(workdir, first_step, steps):
    writer = Writer(str(workdir), first_step=first_step, total_steps=10, views_per_step=4)
    for step in steps:
        writer.advance(step, 1.5)
        writer.write(step, step / 5, {"loss": 1.5 + step})
    writer.close()


def rows(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_rows_hold_step_epoch_and_values(tmp_path):
    write(tmp_path, 0, [5])
    assert rows(tmp_path) == [{"step": 5, "epoch": 1.0, "loss": 6.5}]
    assert list((tmp_path / "tensorboard").iterdir())


def test_a_run_that_resumes_writes_later_rows_anew(tmp_path):
    write(tmp_path, 0, [1, 2, 3, 4])
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "epo')  # torn by a kill
    write(tmp_path, 2, [3, 4, 5])
    assert [row["step"] for row in rows(tmp_path)] == [1, 2, 3, 4, 5]


def test_a_new_run_starts_empty(tmp_path):
    write(tmp_path, 0, [1, 2])
    write(tmp_path, 0, [1])
    assert [row["step"] for row in rows(tmp_path)] == [1]


def test_a_disk_that_is_full_is_named_whatever_is_written(tmp_path, monkeypatch):
    writer = Writer(str(tmp_path), first_step=0, total_steps=10, views_per_step=4)

    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(SummaryWriter, "add_scalar", fail)
    with pytest.raises(ValueError, match="tensorboard cannot be written: No space left.*last good checkpoint"):
        writer.write(1, 0.1, {"loss": 1.0})
    assert rows(tmp_path)[0]["step"] == 1
    writer.close()


def test_a_disk_that_is_full_at_the_end_is_told_once(tmp_path, monkeypatch):
    at_exit = []
    monkeypatch.setattr("atexit.register", at_exit.append)
    writer = Writer(str(tmp_path), first_step=0, total_steps=10, views_per_step=4)

    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tensorboardX.event_file_writer.EventFileWriter.close", fail)
    with pytest.raises(ValueError, match="tensorboard cannot be written: No space left"):
        writer.close()
    assert at_exit
    for cleanup in at_exit:  # which tensorboardX left
        cleanup()
    writer.close()


def test_pytorch_is_not_imported_for_tensorboard_and_can_be_later(tmp_path):
    (tmp_path / "torch.py").write_text("print('torch')")
    code = f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
from simclr_jax.writer import Writer
Writer({str(tmp_path)!r}, first_step=0, total_steps=1, views_per_step=1).close()
print("then")
import torch
"""
    root = pathlib.Path(__file__).parent.parent
    out = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True).stdout
    assert out.split() == ["then", "torch"]
    assert list((tmp_path / "tensorboard").iterdir())
