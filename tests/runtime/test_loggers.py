"""Which loggers a run has, and that none of them but its own files can end it."""

import importlib.util
import json
import os
import sys
import types

import pytest

from simclr_jax.runtime import loggers, trackers
from simclr_jax.runtime.loggers import check_loggers, names, open_loggers
from simclr_jax.runtime.metrics import MetricsWriter


class Recorder:
    """Keeps what it is told; raises at a step, if one is given."""

    def __init__(self, fails_at=None):
        self.rows, self.closed, self.fails_at = [], 0, fails_at

    def write(self, step, values):
        self.rows.append((step, values))
        if step == self.fails_at:
            raise RuntimeError("no\nroom")

    def close(self):
        self.closed += 1
        if self.fails_at == "the end":
            raise RuntimeError("gone")


def write_ten(workdir, to, others):
    """Rows 1 to 10 of a run; returns those of metrics.jsonl."""
    opened = open_loggers(to, others, workdir=str(workdir), first_step=0, config={"seed": 0})
    writer = MetricsWriter(str(workdir), first_step=0, total_steps=10, views_per_step=4, loggers=opened)
    for step in range(1, 11):
        writer.write(step, step / 5, {"loss": 1.5 + step})
    writer.close()
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_each_logger_gets_the_values_of_each_row_and_is_closed_once(tmp_path):
    recorder, told = Recorder(), []
    rows = write_ten(tmp_path, "", [recorder, lambda step, values: told.append((step, values))])
    values = [(row["step"], {name: row[name] for name in row if name not in ("step", "epoch")}) for row in rows]
    assert len(values) == 10 and recorder.rows == told == values
    assert recorder.closed == 1
    assert not (tmp_path / "tensorboard").exists()


def test_a_logger_that_raises_is_told_once_and_not_called_again_and_the_others_have_all(tmp_path, capsys):
    bad, good = Recorder(fails_at=3), Recorder()
    rows = write_ten(tmp_path, "tensorboard", [bad, good])
    assert [row["step"] for row in rows] == [step for step, _ in good.rows] == list(range(1, 11))
    assert [step for step, _ in bad.rows] == [1, 2, 3] and bad.closed == 0 and good.closed == 1
    out = capsys.readouterr().out
    assert out.count("Recorder") == 1 and out.count("\n") == 1
    assert "Recorder failed at step 3 (RuntimeError: no room); the run goes on without it" in out


def test_a_logger_that_cannot_be_closed_keeps_nothing_from_being_closed(tmp_path, capsys):
    bad, good = Recorder(fails_at="the end"), Recorder()
    write_ten(tmp_path, "", [bad, good])
    assert good.closed == 1 and "Recorder failed at the end (RuntimeError: gone)" in capsys.readouterr().out


def test_a_logger_that_changes_its_row_changes_that_of_nobody_else(tmp_path):
    good = Recorder()
    write_ten(tmp_path, "", [lambda step, values: values.clear(), good])
    assert all("loss" in values for _, values in good.rows)


def test_a_failure_of_the_runs_own_files_ends_it_and_still_closes_the_others(tmp_path):
    own, *others = Recorder(fails_at="the end"), Recorder(), Recorder()
    opened = [others[0], own, others[1]]
    writer = MetricsWriter(str(tmp_path), first_step=0, total_steps=1, views_per_step=1, loggers=opened)
    with pytest.raises(RuntimeError, match="gone"):
        writer.close()
    assert [other.closed for other in others] == [1, 1]


@pytest.mark.parametrize(
    ("to", "found"),
    [("", []), ("tensorboard", ["tensorboard"]), (" WandB,,mlflow , wandb", ["wandb", "mlflow"]), (" , ", [])],
)
def test_names_by_commas(to, found):
    assert names(to) == found


@pytest.mark.parametrize(
    ("to", "message"),
    [
        (
            "wandbb",
            r"config.log.to='wandbb': 'wandbb' is not a logger; did you mean wandb\? there are tensorboard,",
        ),
        ("tensorboard,ml-flow", "'ml-flow' is not a logger; did you mean mlflow"),
        (
            "none",
            'is not a logger; there are tensorboard, wandb, mlflow, several by commas; "" writes metrics',
        ),
        ("x\ny" * 999, "is not a logger; there are"),
    ],
)
def test_an_unknown_name_is_refused_in_one_line(to, message):
    with pytest.raises(ValueError, match=message) as refused:
        names(to)
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 500


@pytest.mark.parametrize(
    ("others", "message"),
    [
        ([3], r"the logger 3 is neither a function of \(step, values\) nor an object with write\(step, values\)"),
        ([types.SimpleNamespace(write=None)], r"namespace\(write=None\) is neither a function"),
        ([Recorder], r"the logger Recorder is a class; give an object of it: Recorder\(\)"),
        (print, r"must be a list; write loggers=\[…\]"),
        (Recorder(), "must be a list"),
    ],
)
def test_what_is_no_logger_is_refused(others, message):
    with pytest.raises(ValueError, match=message):
        check_loggers("", others)


@pytest.mark.parametrize(
    ("to", "missing", "message"),
    [
        ("wandb", "wandb", r"needs the package wandb, which is not installed: pip install 'simclr_jax\[wandb\]'"),
        ("tensorboard,mlflow", "mlflow", r"needs the package mlflow, .*pip install 'simclr_jax\[mlflow\]'"),
        ("mlflow", "sqlalchemy", r"needs the package sqlalchemy, .*pip install 'simclr_jax\[mlflow\]'"),
    ],
)
@pytest.mark.parametrize("folder", [True, False])
def test_a_package_that_is_missing_is_named_with_what_installs_it(to, missing, message, folder, tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / missing).mkdir()  # as W&B leaves one where it is used, which looks like a package
    empty = importlib.machinery.PathFinder.find_spec(missing, [str(tmp_path)])
    there = types.SimpleNamespace(origin="…/__init__.py")
    spec = empty if folder else None
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec if name == missing else there)
    with pytest.raises(ValueError, match=message):
        check_loggers(to, ())
    check_loggers(to, (), writes=False)  # a process that logs nothing needs none


def test_a_server_needs_no_packages_of_a_local_store(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    there = types.SimpleNamespace(origin="…/__init__.py")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: there if name == "mlflow" else None)
    check_loggers("mlflow", ())


def test_what_does_not_start_is_told_and_left_out(tmp_path, monkeypatch, capsys):
    def away(*_):
        raise ConnectionError("no\nanswer")

    monkeypatch.setattr(loggers, "WandB", away)
    monkeypatch.setattr(loggers, "MLflow", away)
    assert open_loggers("wandb,mlflow", (), workdir=str(tmp_path), first_step=0, config={}) == []
    wandb, mlflow = capsys.readouterr().out.splitlines()
    assert "wandb cannot start (ConnectionError: no answer): the run goes on without it" in wandb
    assert "WANDB_MODE=offline" in wandb and "MLFLOW_TRACKING_URI" in mlflow


def test_rows_that_wandb_has_from_before_the_stop_are_left_out(tmp_path, monkeypatch):
    logged = []
    settings = types.SimpleNamespace(run_id=None, project=None, run_name=None, mode="online", sync_dir="")
    run = types.SimpleNamespace(
        settings=settings, url="https://…", starting_step=6, log=lambda values, step: logged.append(step)
    )
    wandb = types.SimpleNamespace(
        setup=lambda: types.SimpleNamespace(settings=settings), Settings=dict, init=lambda **_: run
    )
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    logger = trackers.WandB(str(tmp_path), 3, {})
    for step in (4, 5, 6, 6, 7):
        logger.write(step, {"loss": 1.0})
    assert logged == [6, 6, 7]


def damage(kind, path):
    if kind == "a pipe":
        os.mkfifo(path)
    elif kind == "a link to nowhere":
        path.symlink_to(path.parent / "nowhere")
    elif kind == "huge":
        path.write_text('{"id": "abc"}' + " " * 10_000)
    else:
        path.write_text(kind)


@pytest.mark.parametrize(
    "kind",
    ["a pipe", "a link to nowhere", "huge", "", "[]", '{"id": 3}', '{"id": "../../x"}', '{"id": ""}', "[" * 3000, "\0"],
)
def test_an_id_that_others_may_have_written_is_checked(kind, tmp_path, capsys):
    path = tmp_path / "wandb.json"
    damage(kind, path)
    assert trackers._kept_id(path, 5) is None
    assert "does not tell the run's id" in capsys.readouterr().out


def test_an_id_is_kept_where_the_training_goes_on_and_not_where_it_begins(tmp_path, capsys):
    path = tmp_path / "wandb.json"
    assert trackers._kept_id(path, 5) is None
    path.write_text('{"id": "abc-1_Z"}')
    assert trackers._kept_id(path, 5) == "abc-1_Z" and trackers._kept_id(path, 0) is None
    assert capsys.readouterr().out == ""
