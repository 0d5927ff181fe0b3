"""The sweep command: which setting it calls the best, how sure it is, and the command that it prints."""

import json
import shlex

import numpy as np
import pytest

from simclr_jax.commands import over, sweep
from simclr_jax.configs import ablation, ablation_cifar10
from support.sweeps import Trained, base_config

VALIDATION, TEST = {0.1: 0.8, 0.2: 0.7, 0.5: 0.75}, {0.1: 0.6, 0.2: 0.9, 0.5: 0.65}


def scores(config):
    of = config.loss.temperature
    return {"validation_top1": VALIDATION[of] + config.seed / 100, "top1_h": TEST[of] + config.seed / 100}


def test_the_best_is_chosen_on_validation_and_judged_on_test(tmp_path, monkeypatch, capsys):
    config, folder = base_config(tmp_path), str(tmp_path / "my sweep")
    Trained(monkeypatch, scores=scores)
    sweep.run(config, folder, ["loss.temperature=0.1,0.2,0.5", "seed=0,1"], of="ablation")
    said = capsys.readouterr().out
    assert "run 3 of 6: loss.temperature=0.5, seed 0" in said
    assert "Best on validation: **loss.temperature=0.1**, with 80.5 ± 0.7 % on validation and 60.5 ± 0.7 % on" in said
    assert "own setting, loss.temperature=0.2 (90.5 ± 0.7 % on test): **significantly worse**" in said
    assert "the second best, loss.temperature=0.5 (65.5 ± 0.7 % on test): **significantly worse**" in said
    (command,) = [line for line in said.splitlines() if "pretrain --config" in line]
    arguments = shlex.split(command)
    assert arguments[-1] == "--config.loss.temperature=0.1"
    assert {"--config=ablation", f"--workdir={folder}-best", f"--config.data.source={config.data.source}"} < {
        *arguments
    }
    text = (tmp_path / "my sweep" / "sweep.md").read_text()
    assert text.strip() in said and (tmp_path / "my sweep" / "sweep.png").exists()
    assert "| loss.temperature | validation top-1 of h, % | top-1 of" in text


@pytest.fixture(name="undrawn")
def no_pictures(monkeypatch):
    """Pictures take most of the time, and have tests of their own."""
    monkeypatch.setattr(sweep.comparison, "draw", lambda *_, **__: None)


@pytest.mark.usefixtures("undrawn")
def test_more_values_and_other_keys_reuse_the_runs_that_they_share(tmp_path, monkeypatch):
    config, folder = base_config(tmp_path), str(tmp_path / "sweep")
    first = Trained(monkeypatch, scores=scores)
    sweep.run(config, folder, ["loss.temperature=0.1,0.2"], of="ablation")
    sweep.run(config, folder, ["loss.temperature=0.5,0.1,0.2"], of="ablation")
    assert first.seen == [(0.1, 0), (0.2, 0), (0.5, 0)]
    sweep.run(config, folder, ["head.kind=linear,nonlinear"], of="ablation")  # the second is the config's
    assert first.seen[3:] == [(0.2, 0)]


@pytest.mark.usefixtures("undrawn")
def test_settings_that_diverged_are_not_chosen(tmp_path, monkeypatch, capsys):
    config, folder = base_config(tmp_path), str(tmp_path / "sweep")
    Trained(monkeypatch, scores=scores, diverges=[(0.1, 0), (0.2, 0), (0.5, 0), (0.2, 1)])
    sweep.run(config, folder, ["loss.temperature=0.1,0.2", "seed=1"], of="ablation")
    said = capsys.readouterr().out
    assert "Best on validation: **loss.temperature=0.1**" in said
    assert "own setting, loss.temperature=0.2: **it diverged**" in said
    sweep.run(config, folder, ["loss.temperature=0.1,0.2,0.5"], of="ablation")
    said = capsys.readouterr().out
    assert "No setting can be chosen" in said and "pretrain" not in said


@pytest.mark.usefixtures("undrawn")
def test_programs_read_the_result_as_json(tmp_path, monkeypatch, capsys):
    console = sweep.comparison.console
    Trained(monkeypatch, scores=scores)
    with console.using(console.Console(as_json=True)):
        sweep.run(base_config(tmp_path), str(tmp_path / "sweep"), ["loss.temperature=0.1,0.2"], of="ablation")
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    (result,) = [event for event in events if event["event"] == "result"]
    assert result["name"] == "sweep" and result["variants"]["loss.temperature=0.2"]["top1_h"] == [0.9]


def judged(values):
    """The lines of a verdict on settings of a sweep over head.dim, of which 128 is the config's own."""
    config = ablation.get_config()
    settings = (128, 16, 32, 64, 256, 512)[: len(values)]
    wanted, _ = over.grid([f"head.dim={','.join(map(str, settings))}"], config)
    found = {
        variant.name: {"validation_top1": value, "top1_h": value}
        for variant, value in zip(wanted.variants, values, strict=True)
    }
    return sweep.verdict(sweep.ranked_on_validation(wanted, found), wanted, found, config)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (
            [[0.5, 0.52, 0.51], [0.6, 0.62, 0.64]],
            ["**head.dim=16**, with", "own setting, head.dim=128 .*significantly better"],
        ),
        (
            [[0.6, 0.62, 0.61], [0.59, 0.62, 0.6]],
            ["**head.dim=128**, the config's own, with", "the second best, head.dim=16 .*no significant"],
        ),
        (
            [[0.5], [0.6], [0.4]],
            ["**head.dim=16**", "own setting, .*not testable with one seed; add --over=seed=0,1,2"],
        ),
        ([[0.5, 0.5], [0.6, 0.6], [0.7, 0.7]], ["**head.dim=32**", "own setting, head.dim=128", "best, head.dim=16 "]),
        ([[0.5, 0.6]], ["The only setting: **head.dim=128**"]),
    ],
)
def test_a_verdict_compares_with_the_own_setting_and_the_second_best(values, said):
    lines = judged(values)
    assert len(lines) == len(said)
    for line, words in zip(lines, said, strict=True):
        assert words in line or all(part in line for part in words.split(".*"))


def test_the_best_of_many_settings_that_are_alike_is_seldom_called_better():
    rng = np.random.default_rng(0)
    said = ["\n".join(judged(rng.normal(0.5, 0.1, (6, 5)).tolist())) for _ in range(200)]
    assert sum("significantly better" in lines.splitlines()[1] for lines in said) <= 0.07 * len(said)


def test_the_best_setting_is_trained_as_long_as_the_config_says():
    started_from, config = ablation_cifar10.get_config(), ablation_cifar10.get_config()
    config.train.epochs, config.optimizer.warmup_epochs, config.data.dir = 5, 1.0, "/my data"
    (warmer,) = over.grid(["loss.temperature=0.7"], config)[0].variants
    assert sweep.full_length(config, warmer, started_from) == (
        started_from.train.epochs,
        ["--config.data.dir=/my data", "--config.loss.temperature=0.7"],
    )
    (longer,) = over.grid(["train.epochs=7"], config)[0].variants
    epochs, flags = sweep.full_length(config, longer, started_from)
    assert epochs == 7 and "--config.train.epochs=7" in flags and "--config.optimizer.warmup_epochs=1" in flags


def test_a_config_that_is_gone_is_told_before_the_first_run(tmp_path, monkeypatch):
    never = Trained(monkeypatch)
    with pytest.raises(ValueError, match="there is no config 'gone.py'"):
        sweep.run(base_config(tmp_path), str(tmp_path / "sweep"), ["seed=0,1"], of="gone.py")
    assert not never.seen and not (tmp_path / "sweep").exists()
