"""metrics.jsonl holds each step once, also when a run resumes."""

import errno
import json

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
