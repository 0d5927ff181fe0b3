"""The ablate command: every run once, whatever stops it; its rows, table and picture."""

import json

import numpy as np
import pytest
from matplotlib.figure import Figure

from simclr_jax.commands import ablate
from simclr_jax.commands.studies import Claim, Study, Variant
from simclr_jax.configs import ablation, lbfgs
from simclr_jax.runtime import preemption
from simclr_jax.runtime.config import flatten
from simclr_jax.training import loop
from support.runs import write_run
from support.smallest import NAME

SIZE = 8


def two_heads(base):
    """A study of two variants, one of them with no head."""
    variants = [Variant("none", {"head.kind": "none"}), Variant("as it is", {})]
    claims = [Claim("a head helps", ("as it is", "top1_h"), (("none", "top1_h"),))]
    return Study(variants, ("top1_h", "top1_z", "colour_r2"), claims)


@pytest.fixture(name="config")
def make_config(tmp_path, monkeypatch):
    monkeypatch.setitem(ablate.STUDIES, "two", two_heads)
    rng, arrays = np.random.default_rng(0), {}
    for role, n in {"train": 40, "validation": 20, "test": 30}.items():
        labels = np.arange(n) % 2
        images = rng.integers(0, 120, (n, SIZE, SIZE, 3)) + 100 * labels[:, None, None, None]
        arrays |= {f"x_{role}": images.astype(np.uint8), f"y_{role}": labels}
    np.savez(tmp_path / "images.npz", **arrays)
    config = ablation.get_config()
    changes = {"source": f"npz:{tmp_path}/images.npz", "validation_split": "validation", "test_split": "test"}
    config.data.update(changes)
    config.augment.image_size, config.model.encoder = SIZE, NAME
    return config


class Pretraining:
    """Stands for pretraining: leaves a run of random weights; stops at its ``stops``-th call, as a signal would."""

    def __init__(self, stops=0):
        self.seen, self.stops = [], stops

    def __call__(self, config, run):
        self.seen.append((config.head.kind, config.seed))
        if len(self.seen) == self.stops:
            raise preemption.Stopped("told to")
        write_run(run, **flatten(config))
        row = {"step": 7, "epoch": 1, "loss": 3.5, "contrastive_accuracy": 0.25}
        with open(f"{run}/metrics.jsonl", "w") as file:
            file.write(json.dumps(row) + "\n" + json.dumps({"step": 7, "epoch": 1, "validation_loss": 3}) + "\n")


def start(config, folder, pretrain, seeds=2, study="two"):
    probe = lbfgs.get_config()
    probe.l2_values = 1
    return ablate.run(config, str(folder), study, seeds, pretrain=pretrain, probe=probe)


def test_every_run_is_done_once(config, tmp_path, monkeypatch, capsys):
    folder, stopped = tmp_path / "ablations", Pretraining(stops=2)
    with pytest.raises(preemption.Stopped):
        start(config, folder, stopped, seeds=1)
    assert stopped.seen == [("none", 0), ("nonlinear", 0)]
    assert len((folder / "rows.jsonl").read_text().splitlines()) == 1

    second = Pretraining()
    found = start(config, folder, second)
    assert second.seen == [("nonlinear", 0), ("none", 1), ("nonlinear", 1)]  # what was stopped goes on
    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    assert [row["run"] for row in rows] == [f"{w},seed={s}" for s in (0, 1) for w in ("head.kind=none", "base")]
    assert found["none"]["top1_h"] == [rows[0]["top1_h"], rows[2]["top1_h"]]
    assert rows[0]["top1_z"] == rows[0]["top1_h"]  # without a head z is h
    assert rows[0]["contrastive_accuracy"] == 0.25 and rows[0]["chance_top1"] == 0.5
    assert all(row["top1_h"] > 0.9 and row["colour_r2"] > 0.9 for row in rows)  # the classes differ in brightness

    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, file, **_: (drawn.append(figure), open(file, "x").close()))
    capsys.readouterr()
    nothing = Pretraining()
    assert start(config, folder, nothing) == found and not nothing.seen
    assert "4 runs, 4 of them already done" in capsys.readouterr().out
    mean, deviation = np.mean(found["none"]["top1_h"]), np.std(found["none"]["top1_h"], ddof=1)
    (line,) = [line for line in (folder / "two.md").read_text().splitlines() if line.startswith("| none")]
    assert f"{100 * mean:.1f} ± {100 * deviation:.1f}" in line
    axis = drawn[0].axes[0]
    assert [label.get_text() for label in axis.get_xticklabels()] == ["none", "as it is"]
    np.testing.assert_allclose(axis.lines[0].get_ydata()[0], 100 * mean)


def test_a_loss_that_is_not_finite_has_the_mend_of_the_study_and_not_of_its_run(config, tmp_path):
    class NeverFinite(Pretraining):
        def __call__(self, config, run):
            raise loop.NonFinite("step 3 is not finite", "the same command with --workdir=NEW")

    with pytest.raises(ArithmeticError, match="/runs/.*: step 3 is not finite; add (--.*) to drop") as told:
        start(config, tmp_path / "ablations", NeverFinite(), seeds=1)
    assert "--workdir" not in str(told.value) and "--config.train.on_nonfinite=skip" in str(told.value)
    config.train.on_nonfinite = "skip"
    with pytest.raises(ArithmeticError, match="with --workdir=NEW --config.optimizer.learning_rate="):
        start(config, tmp_path / "ablations", NeverFinite(), seeds=1)
    start(config, tmp_path / "ablations", Pretraining(), seeds=1)


def test_a_folder_of_another_config_is_refused(config, tmp_path):
    start(config, tmp_path / "ablations", Pretraining(), seeds=1)
    config.loss.temperature = 0.3
    with pytest.raises(ValueError, match=r"another config \(loss.temperature: 0.2 → 0.3\)"):
        start(config, tmp_path / "ablations", Pretraining())


@pytest.mark.parametrize(
    ("study", "changes", "said"),
    [
        ("tow", {}, "--study=tow does not exist; the studies are: augmentation, head"),
        ("batch", {"train.batch_size": 16}, "128 images, 2 epochs: train.batch_size=128 is larger than the 40"),
        ("epochs", {"train.epochs": 1, "optimizer.warmup_epochs": 0.5}, "1 epochs and 1 epochs are the same run"),
        ("epochs", {"optimizer.warmup_epochs": 3.0}, "2 epochs: config.optimizer.warmup_epochs=3 must be below"),
        (
            "two",
            {"data.validation_split": "", "data.test_split": "validation", "data.holdout_fraction": 0.0},
            "has no labelled validation images; an ablation is judged by a probe",
        ),
    ],
)
def test_what_cannot_be_is_refused_before_the_first_run(config, tmp_path, study, changes, said):
    config.update_from_flattened_dict(changes)
    never = Pretraining()
    with pytest.raises(ValueError, match=said):
        start(config, tmp_path / "ablations", never, study=study)
    assert not never.seen and not (tmp_path / "ablations").exists()


def test_other_files_and_torn_rows_are_left_alone(config, tmp_path):
    folder = tmp_path / "ablations"
    folder.mkdir()
    (folder / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds other files"):
        start(config, folder, Pretraining())
    assert [path.name for path in folder.iterdir()] == ["mine.txt"]
    (folder / "mine.txt").unlink()
    start(config, folder, Pretraining(), seeds=1)
    with (folder / "rows.jsonl").open("a") as file:
        file.write('{"run": "base,seed=1"}\n')
    with pytest.raises(ValueError, match="line 3 of .*rows.jsonl is not the result of a run"):
        start(config, folder, Pretraining())


def test_seeds_are_counted(config, tmp_path):
    with pytest.raises(ValueError, match="--seeds=0 must be from 1 to 100"):
        start(config, tmp_path / "ablations", Pretraining(), seeds=0)
