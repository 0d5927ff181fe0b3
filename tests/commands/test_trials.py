"""The runs of a sweep: each once, whatever stops it; what cannot be is refused before the first."""

import json
import math

import pytest

from simclr_jax.commands import trials
from simclr_jax.commands.comparison import Sweep, Variant
from simclr_jax.runtime import preemption
from support.sweeps import Trained, base_config

MEASURES = ("validation_top1", "top1_h")


@pytest.fixture(name="config")
def make_config(tmp_path):
    return base_config(tmp_path)


@pytest.fixture(name="folder")
def make_folder(tmp_path):
    return tmp_path / "sweep"


def temperatures(*values, measures=MEASURES):
    return Sweep([Variant(f"{value:g}", {"loss.temperature": value}, value) for value in values], measures)


def rows_of(folder):
    return [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]


def test_every_run_is_done_once(config, folder, monkeypatch, capsys):
    stopped = Trained(monkeypatch, stops=3)
    with pytest.raises(preemption.Stopped):
        trials.complete(config, str(folder), temperatures(0.1, 0.2), (0, 1))
    assert stopped.seen == [(0.1, 0), (0.2, 0), (0.1, 1)]
    assert [row["run"] for row in rows_of(folder)] == ["loss.temperature=0.1,seed=0", "base,seed=0"]

    second = Trained(monkeypatch, scores=lambda config: {"top1_h": 2 * config.loss.temperature})
    found = trials.complete(config, str(folder), temperatures(0.1, 0.2), (0, 1))
    assert second.seen == [(0.1, 1), (0.2, 1)]  # what was stopped goes on
    assert found["0.1"]["top1_h"] == [0.5, 0.2] and found["0.2"]["top1_h"] == [0.5, 0.4]
    assert found["0.1"]["chance_top1"] == [0.5, 0.5]
    assert not list(folder.glob("runs/*/features"))

    # Another sweep on the same folder: the runs that it shares are there.
    third = Trained(monkeypatch)
    capsys.readouterr()
    trials.complete(config, str(folder), temperatures(0.2, 0.5), (1, 2))
    assert third.seen == [(0.5, 1), (0.2, 2), (0.5, 2)]
    assert "4 runs, 1 of them already done" in capsys.readouterr().out


def test_how_far_it_is_is_told(config, folder, monkeypatch, capsys):
    Trained(monkeypatch)
    seconds = iter([0, 0, 40, 41, 41, 101, 102])  # start; then each run's start and end, and after it
    monkeypatch.setattr(trials.time, "monotonic", lambda: next(seconds, 200))
    trials.complete(config, str(folder), temperatures(0.1, 0.2, 0.5), (3,))
    said = capsys.readouterr().out
    assert "run 1 of 3: 0.1, seed 3\n  top-1 of representation h 50.00 %, 40 s; about 1 min left\n" in said  # 82 s
    assert "run 2 of 3: 0.2, seed 3\n  top-1 of representation h 50.00 %, 1 min 0 s; about 51 s left\n" in said
    assert said.rstrip().endswith("s") and "about 0" not in said


def test_rows_of_before_a_measure_are_kept_and_measured_again_where_it_is_asked_for(config, folder, monkeypatch):
    Trained(monkeypatch)
    trials.complete(config, str(folder), temperatures(0.1), (0,))
    (row,) = rows_of(folder)
    del row["validation_top1"]
    (folder / "rows.jsonl").write_text(json.dumps(row) + "\n")
    again = Trained(monkeypatch)
    trials.complete(config, str(folder), temperatures(0.1, measures=("top1_h",)), (0,))
    assert not again.seen and rows_of(folder) == [row]
    trials.complete(config, str(folder), temperatures(0.1), (0,))
    assert len(again.measured) == 1 and "validation_top1" in rows_of(folder)[0]


def test_a_run_that_diverges_is_passed_over_once_or_ends_it_all(config, folder, monkeypatch):
    diverging = Trained(monkeypatch, diverges=[(0.1, 0)])
    found = trials.complete(config, str(folder), temperatures(0.1, 0.2), (0,), past_divergence=True)
    assert math.isnan(found["0.1"]["top1_h"][0]) and found["0.2"]["top1_h"] == [0.5]
    assert rows_of(folder)[0]["nonfinite"] == "step 3 is not finite"
    trials.complete(config, str(folder), temperatures(0.1, 0.2), (0,), past_divergence=True)
    assert len(diverging.seen) == 2
    with pytest.raises(ArithmeticError, match="/runs/.*: step 3 is not finite; add (--.*) to drop") as told:
        trials.complete(config, str(folder), temperatures(0.1, 0.2), (0,))
    assert "--workdir" not in str(told.value) and "--config.train.on_nonfinite=skip" in str(told.value)
    config.train.on_nonfinite = "skip"  # which may help it
    with pytest.raises(ArithmeticError, match="with --workdir=NEW --config.optimizer.learning_rate=0.0001 "):
        trials.complete(config, str(folder), temperatures(0.1), (0,))
    Trained(monkeypatch)
    found = trials.complete(config, str(folder), temperatures(0.1), (0,), past_divergence=True)
    assert found["0.1"]["top1_h"] == [0.5]


def test_folders_that_are_not_its_own_are_left_alone(config, folder, monkeypatch):
    Trained(monkeypatch)
    folder.mkdir()
    (folder / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds other files"):
        trials.complete(config, str(folder), temperatures(0.1), (0,))
    assert [path.name for path in folder.iterdir()] == ["mine.txt"]
    (folder / "mine.txt").unlink()
    trials.complete(config, str(folder), temperatures(0.1), (0,))
    config.loss.temperature = 0.3
    with pytest.raises(ValueError, match=r"another config \(loss.temperature: 0.2 → 0.3\)"):
        trials.complete(config, str(folder), temperatures(0.1), (0,))
    config.loss.temperature = 0.2
    with (folder / "rows.jsonl").open("a") as file:
        file.write('{"run": "base,seed=1", "seconds": 3}\n')
    with pytest.raises(ValueError, match="line 2 of .*rows.jsonl is not the result of a run"):
        trials.complete(config, str(folder), temperatures(0.1), (0,))


@pytest.mark.parametrize(
    ("settings", "changes", "said"),
    [
        ({"train.batch_size": 128}, {}, "two: train.batch_size=128 is larger than the 40"),
        ({"optimizer.warmup_epochs": 4.0}, {}, "two: config.optimizer.warmup_epochs=4 must be below"),
        ({"model.init_from": "nowhere"}, {}, "two: config.model.init_from=nowhere: nowhere is not a run"),
        ({"loss.temperature": 0.1}, {}, "one and two are the same run"),
        ({"model.init_from": 260 * "x"}, {}, "two: the run's folder would have a name of 283 bytes"),
        (
            {},
            {"data.validation_split": "", "data.test_split": "validation", "data.holdout_fraction": 0.0},
            "has no labelled validation images; runs are compared by a probe on labels",
        ),
    ],
)
def test_what_cannot_be_is_refused_before_the_first_run(config, folder, monkeypatch, settings, changes, said):
    config.update_from_flattened_dict(changes)
    never = Trained(monkeypatch)
    sweep = Sweep([Variant("one", {"loss.temperature": 0.1}), Variant("two", settings)], MEASURES)
    with pytest.raises(ValueError, match=said):
        trials.complete(config, str(folder), sweep, (0,))
    assert not never.seen and not folder.exists()


def test_a_run_is_one_folder_and_numbers_that_differ_are_two(config):
    place = Variant("a", {"model.init_from": "runs/a", "loss.temperature": 0.2})
    assert trials._name(config, place, 1) == "model.init_from=runs%2Fa,seed=1"
    close = [Variant("", {"loss.temperature": value}) for value in (0.1234567, 0.1234568)]
    assert len({trials._name(config, variant, 0) for variant in close}) == 2
