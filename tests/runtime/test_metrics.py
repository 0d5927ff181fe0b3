"""metrics.jsonl holds each step once, also when a run resumes."""

import errno
import json
import time
import types

import pytest
from tensorflow.python.summary import summary_iterator

from simclr_jax.runtime import metrics
from simclr_jax.runtime.loggers import open_loggers
from simclr_jax.runtime.metrics import MetricsWriter


def open_writer(workdir, first_step, total_steps=10, views_per_step=4):
    """A writer with TensorBoard, as runs have it."""
    opened = open_loggers("tensorboard", (), workdir=str(workdir), first_step=first_step, config={})
    lengths = {"total_steps": total_steps, "views_per_step": views_per_step}
    return MetricsWriter(str(workdir), first_step=first_step, loggers=opened, **lengths)


def write(workdir, first_step, steps):
    writer = open_writer(workdir, first_step)
    for step in steps:
        writer.advance(step, 1.5)
        writer.write(step, step / 5, {"loss": 1.5 + step})
    writer.close()


def rows(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_rows_hold_step_epoch_and_values(tmp_path):
    write(tmp_path, 0, [5])
    (row,) = rows(tmp_path)
    assert 0 <= row.pop("seconds") < 60 and row == {"step": 5, "epoch": 1.0, "loss": 6.5}
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


class Clock:
    """The time of a writer: it stands still but where it is told to go on."""

    def __init__(self, monkeypatch):
        self.now = 1000.0
        monkeypatch.setattr(metrics, "time", types.SimpleNamespace(monotonic=lambda: self.now, time=time.time))


def test_rows_tell_seconds_and_speed_and_the_step_that_compiles_is_in_none(tmp_path, monkeypatch):
    clock = Clock(monkeypatch)
    writer = MetricsWriter(str(tmp_path), first_step=6, total_steps=20, views_per_step=4)
    for step, seconds in enumerate((100, 2, 2, 1), 7):
        clock.now += seconds
        writer.advance(step, 1.5)
        if step != 8:
            writer.write(step, step / 5, {"loss": 1.0})
    writer.write(10, 2.0, {"validation_loss": 1.0})  # no step since the row before
    writer.close()
    assert [row["seconds"] for row in rows(tmp_path)] == [100, 104, 105, 105]
    assert [row.get("views_per_second") for row in rows(tmp_path)] == [None, 2.0, 4.0, None]


def test_after_ten_steps_the_length_of_the_run_is_told_once(tmp_path, monkeypatch, capsys):
    clock = Clock(monkeypatch)
    writer = MetricsWriter(str(tmp_path), first_step=5, total_steps=6015, views_per_step=128)
    for step in range(6, 40):
        clock.now += {6: 95, 10: 300}.get(step, 2)  # one compiles, and after one there was a validation
        writer.advance(step, 1.5)
        said = capsys.readouterr().out
        assert bool(said) == (step == 16)
        if said:
            assert said.count("\n") == 1
            assert "first step, with compilation, took 1 min 35 s; the next 10 ran at 64 views/s" in said
            assert "about 3 h 19 min left" in said  # 5,999 steps, 11,998 seconds
    writer.close()


def test_a_run_that_ends_with_its_tenth_timed_step_tells_no_length(tmp_path, capsys):
    write(tmp_path, 0, range(1, 11))
    assert capsys.readouterr().out == ""


class FullDisk:
    """A file that takes what is written, and has no room for it."""

    def write(self, _):
        pass

    def flush(self):
        raise OSError(errno.ENOSPC, "No space left on device")

    close = flush


def test_a_disk_that_is_full_is_named_whatever_is_written(tmp_path, monkeypatch):
    writer = open_writer(tmp_path, 0)
    records = writer._loggers[0]._file._py_recordio_writer
    records._writer.close()
    monkeypatch.setattr(records, "_writer", FullDisk())
    named = "tensorboard cannot be written: No space left.*last good checkpoint"
    with pytest.raises(ValueError, match=named):
        writer.write(1, 0.1, {"loss": 1.0})
    assert rows(tmp_path)[0]["step"] == 1
    with pytest.raises(ValueError, match=named):
        writer.close()


def test_tensorboard_reads_the_values_and_forgets_those_that_a_resumed_run_writes_anew(tmp_path):
    write(tmp_path, 0, [1, 2, 3])
    (first,) = (tmp_path / "tensorboard").iterdir()
    events = list(summary_iterator.summary_iterator(str(first)))
    values = [(event.step, v.tag, v.simple_value) for event in events for v in event.summary.value]
    names = {"loss", "seconds", "views_per_second"}
    found = [(row["step"], name, row[name]) for row in rows(tmp_path) for name in row if name in names]
    assert {name for _, name, _ in values} == names
    assert values == [(step, name, pytest.approx(value)) for step, name, value in found]
    write(tmp_path, 2, [3, 4])
    (second,) = set((tmp_path / "tensorboard").iterdir()) - {first}
    (start,) = [e for e in summary_iterator.summary_iterator(str(second)) if e.session_log.status]
    assert start.session_log.status == start.session_log.START and start.step == 3


def test_values_that_are_not_finite_are_gaps(tmp_path):
    writer = open_writer(tmp_path, 0)
    writer.write(1, 1.0, {"loss": float("nan"), "rank": 2.0})
    (file,) = (tmp_path / "tensorboard").iterdir()  # on disk before it is closed
    tags = [v.tag for event in summary_iterator.summary_iterator(str(file)) for v in event.summary.value]
    assert tags == ["rank", "seconds"] and rows(tmp_path)[0]["loss"] is None
    writer.close()
