"""The commands knn and lbfgs on a run: what they write, against scikit-learn on the features that they read."""

import json

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from simclr_jax.commands import pretrain, probes
from simclr_jax.configs import knn, lbfgs
from simclr_jax.evaluate import probed_run
from support.tiny_config import small

SIZE, CLASSES = 8, 3
COUNTS = {"train": 60, "validation": 60, "test": 90}


@pytest.fixture(scope="module", name="run")
def make_run(tmp_path_factory):
    """A run of two epochs on images whose classes overlap: none of the probes is right about all of them."""
    folder, arrays = tmp_path_factory.mktemp("probed"), {}
    for seed, (role, n) in enumerate(COUNTS.items()):
        rng = np.random.default_rng(seed)
        labels = np.arange(n) % CLASSES
        images = rng.integers(0, 200, (n, 1, 1, 3)) + rng.integers(0, 20, (n, SIZE, SIZE, 3))
        images[np.arange(n), :, :, labels] += 35
        arrays |= {f"x_{role}": images.astype(np.uint8), f"y_{role}": labels}
    np.savez(folder / "images.npz", **arrays)
    changes = {"data.validation_split": "validation", "data.test_split": "test"}
    changes |= {"train.epochs": 2, "augment.placement": "device"}
    pretrain.run(small(f"npz:{folder / 'images.npz'}", **changes), str(folder / "run"))
    return folder / "run"


def settings(module, **changes):
    config = module.get_config()
    config.update_from_flattened_dict({"batch_size": 16, **changes})
    return config


def read(run, role, network):
    subject = probed_run.ProbedRun(settings(knn), str(run))
    found = subject.features(role, networks=[network])[network]
    return found.array(), found.labels


@pytest.mark.parametrize("network", probed_run.NETWORKS)
def test_knn_is_scikit_learns_vote(run, network):
    result = probes.run("knn", settings(knn, neighbours=(20,), temperatures=(0.1,)), str(run))
    assert result == json.loads((run / "eval" / "knn.json").read_text())
    assert (run / "eval" / "knn_confusion.png").exists() and result["images"] == COUNTS
    vote = KNeighborsClassifier(20, metric="cosine", weights=lambda distance: np.exp((1 - distance) / 0.1))
    vote.fit(*read(run, "train", network))
    prefix = "" if network == "pretrained" else "untrained_"
    assert abs(result[f"{prefix}top1"] - vote.score(*read(run, "test", network))) <= 1 / COUNTS["test"]
    assert 1 / CLASSES == result["chance_top1"] < result[f"{prefix}top1"] < 1
    if network == "pretrained":
        assert abs(result["validation_top1"] - vote.score(*read(run, "validation", network))) <= 1 / COUNTS["test"]


def test_validation_chooses_neighbours_and_temperature(run):
    grid = [(k, t) for k in (60, 20, 3) for t in (0.1, 1.0)]
    alone = {
        (k, t): probes.run("knn", settings(knn, neighbours=(k,), temperatures=(t,)), str(run))["validation_top1"]
        for k, t in grid
    }
    assert min(alone.values()) < max(alone.values())
    result = probes.run("knn", settings(knn, neighbours=(60, 20, 3), temperatures=(0.1, 1.0)), str(run))
    best = max(alone.values())
    assert (result["neighbours"], result["temperature"]) == next(pair for pair in grid if alone[pair] == best)
    assert result["validation_top1"] == best


def test_neighbours_that_the_bank_has_not_are_left_out_or_refused(run, capsys):
    result = probes.run("knn", settings(knn), str(run))
    assert result["neighbours"] <= 60
    assert "there are only 60 training images, so k=200, 100 is not tried" in capsys.readouterr().out
    (run / "eval" / "knn.json").unlink()
    with pytest.raises(ValueError, match=r"neighbours=61, 200 of 60 training images: choose from 1 to 60"):
        probes.run("knn", settings(knn, neighbours=(61, 200)), str(run))
    assert not (run / "eval" / "knn.json").exists()


@pytest.mark.parametrize("network", probed_run.NETWORKS)
def test_lbfgs_is_scikit_learn_at_the_chosen_strength(run, network):
    result = probes.run("lbfgs", settings(lbfgs, l2_min=0.01, l2_max=0.01, l2_values=1), str(run))
    assert result == json.loads((run / "eval" / "lbfgs.json").read_text()) and result["l2"] == 0.01
    x, y = (
        np.concatenate(parts) for parts in zip(*(read(run, r, network) for r in ("train", "validation")), strict=True)
    )
    oracle = LogisticRegression(C=100, solver="newton-cholesky", tol=1e-8).fit(x.astype(np.float64), y)
    prefix = "" if network == "pretrained" else "untrained_"
    assert abs(result[f"{prefix}top1"] - oracle.score(*read(run, "test", network))) <= 1 / COUNTS["test"]
    assert 1 / CLASSES == result["chance_top1"] < result[f"{prefix}top1"] <= 1


def test_fits_that_have_not_converged_are_said(run, capsys):
    probes.run("lbfgs", settings(lbfgs, l2_values=2, l2_max=1e-5, iterations=1), str(run))
    assert "3 of 3 fits of the pretrained encoder did not converge in 1 iterations" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("module", "changes", "words"),
    [
        (knn, {"neighbours": ()}, "config.neighbours"),
        (knn, {"neighbours": (5, 0)}, "config.neighbours"),
        (knn, {"neighbours": (2.5,)}, "config.neighbours"),
        (knn, {"temperatures": (0.1, 0.0)}, "config.temperatures"),
        (knn, {"temperatures": (float("nan"),)}, "config.temperatures"),
        (lbfgs, {"l2_min": 10.0, "l2_max": 1.0}, "config.l2_min"),
        (lbfgs, {"l2_min": 0.0}, "config.l2_min"),
        (lbfgs, {"l2_values": 0}, "config.l2_values"),
        (lbfgs, {"iterations": 0}, "config.iterations"),
    ],
)
def test_bad_settings_are_one_line(module, changes, words, tmp_path):
    with pytest.raises(ValueError, match=words) as error:
        probes.run({knn: "knn", lbfgs: "lbfgs"}[module], settings(module, **changes), str(tmp_path))
    assert "\n" not in str(error.value)
