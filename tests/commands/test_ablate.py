"""The ablate command: a study of the paper as a sweep, and what becomes of its claims."""

import json

import pytest

from simclr_jax.commands import ablate
from simclr_jax.commands.comparison import Variant
from simclr_jax.commands.studies import Claim, Study
from support.sweeps import Trained, base_config


def two_heads(base):
    """A study of two variants, one of them with no head."""
    variants = [Variant("none", {"head.kind": "none"}), Variant("as it is", {})]
    claims = [Claim("a head helps", ("as it is", "top1_h"), (("none", "top1_h"),))]
    return Study(variants, ("top1_h", "top1_z", "colour_r2"), claims=claims)


@pytest.fixture(name="config")
def make_config(tmp_path, monkeypatch):
    monkeypatch.setitem(ablate.STUDIES, "two", two_heads)
    return base_config(tmp_path)


def test_a_study_is_a_sweep_with_the_claims_of_the_paper(config, tmp_path, monkeypatch):
    config.seed = 3
    accuracies = {("none", 3): 0.5, ("nonlinear", 3): 0.8, ("none", 4): 0.52, ("nonlinear", 4): 0.81}
    trained = Trained(
        monkeypatch,
        shown=("head.kind", "seed"),
        scores=lambda config: {"top1_h": accuracies[config.head.kind, config.seed]},
    )
    found = ablate.run(config, str(tmp_path / "ablations"), "two", 2)
    assert trained.seen == list(accuracies)
    rows = [json.loads(line)["run"] for line in (tmp_path / "ablations" / "rows.jsonl").read_text().splitlines()]
    assert rows == [f"{what},seed={seed}" for seed in (3, 4) for what in ("head.kind=none", "base")]
    assert found["none"]["top1_h"] == [0.5, 0.52]
    text = (tmp_path / "ablations" / "two.md").read_text()
    assert text.startswith(f"# two: {config.data.source}, {config.model.encoder}, 2 seeds\n")
    assert "| none     | 51.0 ± 1.4 " in text and "- a head helps: **as in the paper**" in text
    assert (tmp_path / "ablations" / "two.png").read_bytes()[1:4] == b"PNG"


@pytest.mark.parametrize(
    ("study", "seeds", "changes", "said"),
    [
        ("tow", 1, {}, "--study=tow does not exist; the studies are: augmentation, head"),
        ("two", 0, {}, "--seeds=0 must be from 1 to 100"),
        ("batch", 1, {"train.batch_size": 16}, "128 images, 2 epochs: train.batch_size=128 is larger than the 40"),
        ("epochs", 1, {"train.epochs": 1, "optimizer.warmup_epochs": 0.5}, "1 epochs and 1 epochs are the same run"),
    ],
)
def test_what_cannot_be_is_refused_before_the_first_run(config, tmp_path, monkeypatch, study, seeds, changes, said):
    config.update_from_flattened_dict(changes)
    never = Trained(monkeypatch)
    with pytest.raises(ValueError, match=said):
        ablate.run(config, str(tmp_path / "ablations"), study, seeds)
    assert not never.seen and not (tmp_path / "ablations").exists()
