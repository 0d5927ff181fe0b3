"""What is measured of a run, from its checkpoint and its metrics."""

import json

from simclr_jax.commands import measures
from simclr_jax.runtime.config import flatten
from support.runs import write_run
from support.sweeps import base_config, write_images


def test_a_run_is_measured_on_each_split(tmp_path):
    config = base_config(tmp_path)
    config.head.kind = "none"
    write_images(tmp_path / "images.npz", wrong=10)
    run = tmp_path / "run"
    write_run(run, **flatten(config))
    rows = [{"loss": 4.0, "contrastive_accuracy": 0.1}, {"loss": 3.5, "contrastive_accuracy": 0.25}]
    rows = [row | {"step": step, "epoch": 1} for step, row in enumerate([*rows, {"validation_loss": 3}])]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = measures.of_run(config, str(run))
    assert set(measures.MEASURES) < set(found)
    assert found["loss"] == 3.5 and found["contrastive_accuracy"] == 0.25 and found["chance_top1"] == 0.5
    assert found["top1_h"] > 0.9 and found["colour_r2"] > 0.9  # the classes differ in brightness
    assert found["top1_z"] == found["top1_h"]  # without a head z is h
    assert abs(found["validation_top1"] - 0.5) <= 0.1  # half of its labels are wrong
