"""What probes read of a run: features that are computed once, of the right network, layer and images."""

import dataclasses
import importlib
import json
import shutil

import jax
import numpy as np
import pytest

from simclr_jax.commands import features as export_features
from simclr_jax.commands import pretrain, probes
from simclr_jax.configs import features as features_config
from simclr_jax.configs import linear
from simclr_jax.data import sources
from simclr_jax.evaluate import probed_run, results
from simclr_jax.runtime import checkpoint
from support.runs import write_run
from support.tiny_config import CLASSES, SIZE, small, tiny, write_archive


@pytest.fixture(scope="module", name="archive")
def make_archive(tmp_path_factory):
    return write_archive(tmp_path_factory.mktemp("data") / "images.npz")


@pytest.fixture(scope="module", name="finished")
def make_run(tmp_path_factory, archive):
    workdir = tmp_path_factory.mktemp("runs") / "run"
    pretrain.run(small(f"npz:{archive}", **{"train.epochs": 2, "augment.placement": "device"}), str(workdir))
    return workdir


@pytest.fixture(name="run")
def copy_run(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


def subject(run, **changes):
    config = features_config.get_config()
    config.update_from_flattened_dict({"batch_size": 16, **changes})
    return probed_run.ProbedRun(config, str(run))


def folders(run):
    return {path.parent: path.stat().st_mtime_ns for path in (run / "features").rglob("features.json")}


def test_features_are_those_of_the_checkpoint_and_of_its_beginning(run, archive):
    found = subject(run)
    made = found.features("test")
    with np.load(archive) as arrays:
        images, labels = arrays["x_test"] / np.float32(255), arrays["y_test"]
    _, _, variables = checkpoint.load_variables(str(run))
    begin = found.network.model.init(jax.random.key(0), images[:1], train=False)
    for network, weights in (("pretrained", variables), ("untrained", begin)):
        expected = found.network.model.apply(weights, images, train=False)[0]
        np.testing.assert_allclose(made[network].array(), expected, rtol=1e-3, atol=1e-4)
        np.testing.assert_array_equal(made[network].labels, labels)
    np.testing.assert_array_equal(made["pretrained"].ids, np.arange(24))


def test_the_middle_layer_of_a_head_has_its_own_width(archive, tmp_path):
    head = {"head.hidden_dim": 24, "head.norm": False, "head.dim": 5}
    run = write_run(tmp_path / "run", **{**tiny(f"npz:{archive}"), **head})
    variables = checkpoint.load_variables(str(run))[2]
    h, middle, z = (subject(run).features("test", layer=layer)["pretrained"].array() for layer in range(3))
    dense1, dense2 = (variables["params"]["head"][f"dense{layer}"] for layer in (1, 2))
    np.testing.assert_allclose(middle, np.maximum(h @ dense1["kernel"] + dense1["bias"], 0), rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(z, middle @ dense2["kernel"] + dense2["bias"], rtol=1e-3, atol=1e-3)
    assert middle.shape[1] == 24 and z.shape[1] == 5


def test_features_are_computed_once(run, monkeypatch):
    before = {role: subject(run).features(role) for role in sources.ROLES}
    kept = folders(run)
    monkeypatch.setattr(probed_run.ProbedRun, "extract", lambda *_: pytest.fail("computed again"))
    for role, networks in before.items():
        for network, again in subject(run).features(role).items():
            np.testing.assert_array_equal(again.array(), networks[network].array())
    assert folders(run) == kept and len(kept) == 6


def other_weights(found):
    variables = jax.tree.map(lambda x: x + 1, found.network.variables)
    found.network = dataclasses.replace(found.network, variables=variables)


def other_splits(found, **changes):
    found.splits = dataclasses.replace(found.splits, **changes)


@pytest.mark.parametrize(
    "change",
    [
        other_weights,
        lambda found: setattr(found, "layer", 1),
        lambda found: other_splits(found, limit=20),
        lambda found: other_splits(found, seed=1),
        lambda found: found.network.config.augment.update({"image_size": SIZE + 1}),
        lambda found: found.network.config.model.update({"dtype": "bfloat16"}),
    ],
)
def test_features_of_anything_else_are_computed_anew(run, change, monkeypatch):
    subject(run).features("train", networks=("pretrained",))
    asked = []
    monkeypatch.setattr(
        probed_run.ProbedRun, "extract", lambda self, role, layer, missing: asked.append(sorted(missing))
    )
    changed = subject(run)
    changed.features("train", networks=("pretrained",))
    assert not asked
    changed = subject(run)
    change(changed)
    changed.features("train", networks=("pretrained",))
    assert asked == [["pretrained"]]


def test_images_that_changed_have_another_fingerprint(tmp_path, archive):
    def fingerprint(name, role="train"):
        return sources.Splits(sources.open_source(name), holdout_fraction=0.2).fingerprint(role)

    copy = shutil.copy(archive, tmp_path / "copy.npz")
    before = fingerprint(f"npz:{copy}")
    assert fingerprint(f"npz:{copy}") == before
    with np.load(copy) as arrays:
        changed = dict(arrays)
    changed["x_train"] = np.concatenate([changed["x_train"]] * 2)
    changed["y_train"] = np.concatenate([changed["y_train"]] * 2)
    np.savez(copy, **changed)
    assert fingerprint(f"npz:{copy}") != before

    picture = tmp_path / "pile" / "train" / "1.png"
    picture.parent.mkdir(parents=True)
    picture.write_bytes(b"one")
    (picture.parent / "2.png").write_bytes(b"two")
    before = fingerprint(f"folder:{tmp_path / 'pile'}")
    assert fingerprint(f"folder:{tmp_path / 'pile'}") == before
    picture.write_bytes(b"three")
    assert fingerprint(f"folder:{tmp_path / 'pile'}") != before

    assert fingerprint("textures") == fingerprint("textures") != fingerprint("textures", "test")


def test_images_are_found_by_their_ids(run, archive):
    with np.load(archive) as arrays:
        images = arrays["x_test"]
    found = subject(run).images("test", np.array([5, 2, 23]))
    np.testing.assert_allclose(found, images[[5, 2, 23]] / 255, atol=1e-6)


def test_the_features_command_writes_what_numpy_reads(run, tmp_path):
    config = features_config.get_config()
    config.layer = -1
    export_features.run(config, str(run), str(tmp_path / "out"))
    for role, images in {"train": 32, "validation": 8, "test": 24}.items():
        z = np.load(tmp_path / "out" / role / "features-00000.npy", mmap_mode="r", allow_pickle=False)
        assert z.shape == (images, 128) and z.dtype == np.float32
        assert len(np.load(tmp_path / "out" / role / "ids.npy")) == images
    assert not (run / "features").exists()
    with pytest.raises(ValueError, match="already exists; give a new folder"):
        export_features.run(config, str(run), str(tmp_path / "out"))


def test_several_seeds_give_a_mean_and_a_deviation(run, capsys):
    results = []
    for changes in ({"seed": 3}, {"seed": 4}, {"seed": 3, "seeds": 2}):
        config = linear.get_config()
        config.update_from_flattened_dict({"epochs": 1, "batch_size": 16, "learning_rates": (0.3,), **changes})
        results.append(probes.run("linear", config, str(run)))
    one, other, both = (result["top1"] for result in results)
    assert both == pytest.approx((one + other) / 2)
    assert results[2]["top1_deviation"] == pytest.approx(abs(one - other) / np.sqrt(2))
    assert "top1_deviation" not in results[0]
    assert (run / "eval" / "linear_confusion.png").read_bytes().startswith(b"\x89PNG")
    assert "most often mistaken for" in capsys.readouterr().out
    per_class = json.loads((run / "eval" / "linear.json").read_text())["per_class"]
    assert sum(of["images"] for of in per_class.values()) == 24 and len(per_class) == CLASSES


def test_the_deviation_is_that_of_a_sample_by_hand():
    found = results.over_seeds([{"top1": 0.1, "top5": 0.5}, {"top1": 0.2, "top5": 0.5}, {"top1": 0.6, "top5": 0.5}])
    squares = (0.1 - 0.3) ** 2 + (0.2 - 0.3) ** 2 + (0.6 - 0.3) ** 2
    assert found == pytest.approx(
        {"top1": 0.3, "top5": 0.5, "top1_deviation": (squares / 2) ** 0.5, "top5_deviation": 0.0}
    )
    assert results.over_seeds([{"top1": 0.1}]) == {"top1": 0.1}


def test_images_without_a_usable_label_are_left_out_and_counted():
    labels = {"train": np.array([0, 2, -1]), "validation": np.array([2, 0]), "test": np.array([1, -1, 2, 1, 3])}
    masks, lines = probed_run.usable(labels, ("a", "b\n", "c", "d"), "S")
    assert {role: mask.tolist() for role, mask in masks.items()} == {
        "train": [True, True, False],
        "validation": [True, True],
        "test": [False, False, True, False, False],
    }
    assert lines == [
        "1 of 3 train images of S have no label: skipped",
        "1 of 5 test images of S have no label: skipped",
        "3 of 5 test images of S are of classes that train has no images of (b\\n, d): skipped",
    ]


@pytest.mark.parametrize("found", [[-1, -1], [1, -1], []])
def test_a_role_of_which_no_image_is_left_is_refused(found):
    with pytest.raises(ValueError, match="none is left; choose another split: .*config.data.test_split=NAME") as error:
        probed_run.usable({"train": np.array([0]), "test": np.array(found, int)}, ("a", "b"), "S")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["eval", "features"])
def test_nothing_is_written_through_a_link(run, tmp_path, name):
    (tmp_path / "elsewhere").mkdir()
    shutil.rmtree(run / name, ignore_errors=True)
    (run / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="link"):
        probes.run("linear", importlib.import_module("simclr_jax.configs.linear").get_config(), str(run))
    assert not list((tmp_path / "elsewhere").iterdir())
