"""Weights that a new run begins with: what is taken, adapted, new and left, and what is refused in one line."""

import json
import re

import jax
import numpy as np
import optax
import pytest
from safetensors.numpy import load_file, save_file

import simclr_jax
from simclr_jax.commands import export_weights, pretrain, start_weights
from simclr_jax.evaluate.trained_network import open_run
from simclr_jax.interop import tensors
from simclr_jax.models import Head, Network
from simclr_jax.runtime import console, run_folder
from simclr_jax.runtime.config import flatten, run_config
from simclr_jax.runtime.differences import config_differences, encoder_differences, same_head
from simclr_jax.runtime.key_names import renamed
from simclr_jax.training import optimizers
from simclr_jax.training.trainer import Trainer
from support.runs import write_run
from support.smallest import VIT
from support.tiny_config import SIZE, small, tiny, write_archive

OF_A_VIT = {"model.encoder": VIT, "model.cifar_stem": False}


@pytest.fixture(scope="module", name="source")
def make_source(tmp_path_factory):
    return f"npz:{write_archive(tmp_path_factory.mktemp('data') / 'images.npz')}"


@pytest.fixture(scope="module", name="run")
def make_run(tmp_path_factory, source):
    """A run of random weights, at step 7."""
    return write_run(tmp_path_factory.mktemp("runs") / "RUN", **tiny(source))


@pytest.fixture(scope="module", name="file")
def make_file(tmp_path_factory, run):
    """The run's encoder as others name its tensors: of a ResNet without what this library writes beside them."""
    folder = tmp_path_factory.mktemp("files")
    export_weights.run("torch", str(run), str(folder / "ours.safetensors"))
    ours = load_file(folder / "ours.safetensors")
    more = {"fc.weight": np.zeros((5, 16), np.float32), "fc.bias": np.zeros(5, np.float32)}
    save_file({f"module.encoder.{name}": x for name, x in ours.items()} | more, folder / "theirs.safetensors")
    save_file({name: x for name, x in ours.items() if "bn2" not in name}, folder / "less.safetensors")
    (folder / "text.safetensors").write_text("these are no weights")
    (folder / "pickle.pth").write_bytes(b"\x80\x04.")
    return folder


def begun(source, place, tmp_path, **changes):
    """A trainer, the weights that it is to begin with and its first state."""
    trainer = Trainer.from_config(small(source, **{"model.init_from": str(place), **changes}))
    start = start_weights.read(trainer, str(tmp_path / "NEW"))
    return trainer, start, jax.device_get(trainer.initial_state(start.variables))


def same(a, b):
    return all(jax.tree.leaves(jax.tree.map(np.array_equal, a, b)))


def counted(leaves):
    return f"{len(leaves)} tensors ({sum(np.size(x) for x in leaves):,} numbers)"


def test_a_run_gives_encoder_and_head(source, run, tmp_path):
    for place in (run, run / "checkpoints" / "7"):
        _, start, state = begun(source, place, tmp_path)
        theirs = open_run(str(run)).variables
        assert same(theirs, {"params": state.params, "batch_stats": state.batch_stats})
        assert start.source == f"{run} at step 7" and start.summary == f"loaded {counted(jax.tree.leaves(theirs))}"
        assert sorted(start.names["loaded"]) == sorted(tensors.flat(theirs))
        assert not start.names["adapted"] + start.names["new"] + start.names["left"]


def test_another_head_is_new_as_a_whole(source, run, tmp_path):
    trainer, start, state = begun(source, run, tmp_path, **{"head.dim": 32})  # its first layer would fit
    theirs, random = open_run(str(run)).variables, jax.device_get(trainer.initial_state())
    assert same(theirs["params"]["encoder"], state.params["encoder"])
    assert same(theirs["batch_stats"]["encoder"], state.batch_stats["encoder"])
    assert same(random.params["head"], state.params["head"])
    assert same(random.batch_stats["head"], state.batch_stats["head"])
    left = [*jax.tree.leaves(theirs["params"]["head"]), *jax.tree.leaves(theirs["batch_stats"]["head"])]
    new = [*jax.tree.leaves(state.params["head"]), *jax.tree.leaves(state.batch_stats["head"])]
    assert f"new in the network is the head, {counted(new)}; left in the source {counted(left)}" in start.summary
    assert "params/head/dense1/kernel" in start.names["new"] and "params/head/dense1/kernel" in start.names["left"]


def test_an_optimizer_begins_with_the_weights(source, run, tmp_path, monkeypatch):
    """One may keep parameters, as a moving average does."""
    monkeypatch.setattr(optimizers.OWN, "own", {})
    average = optax.GradientTransformation(lambda params: params, lambda updates, state, params: (updates, state))
    simclr_jax.register_optimizer("average", lambda rate, *, weight_decay, mask: average)
    _, _, state = begun(source, run, tmp_path, **{"optimizer.name": "average"})
    assert same(state.opt_state, state.params) and same(state.params, open_run(str(run)).variables["params"])


@pytest.mark.parametrize(("name", "left"), [("ours", 0), ("theirs", 2)])
def test_a_file_gives_its_encoder_bit_for_bit(source, run, file, tmp_path, name, left):
    path = file / f"{name}.safetensors"
    _, start, state = begun(source, path, tmp_path)
    theirs = open_run(str(run)).variables
    for kind in ("params", "batch_stats"):
        assert same(theirs[kind]["encoder"], getattr(state, kind)["encoder"])
    assert start.source == str(path) and "new in the network is the head, " in start.summary
    norms = sum(name.endswith("num_batches_tracked") for name in load_file(path))
    assert len(start.names["left"]) == left + norms
    assert f"left in the source {left + norms} tensors ({5 * 17 * bool(left) + norms} numbers)" in start.summary


def test_positions_of_a_vit_are_resized_for_images_of_another_size(source, tmp_path):
    run = write_run(tmp_path / "RUN", **tiny(source) | OF_A_VIT | {"augment.image_size": 2 * SIZE})
    _, start, state = begun(source, run, tmp_path, **OF_A_VIT)
    theirs = open_run(str(run)).variables["params"]["encoder"]
    assert theirs.pop("stem_positions").shape == (1, 65, 16)
    assert state.params["encoder"].pop("stem_positions").shape == (1, 17, 16)
    assert same(theirs, state.params["encoder"])
    assert "adapted params/encoder/stem_positions [1, 65, 16] → [1, 17, 16]" in start.summary
    assert start.names["adapted"] == ["params/encoder/stem_positions [1, 65, 16] → [1, 17, 16]"]


def test_timms_weights_are_pretrained_further(source, tmp_path):
    """Names and shapes of timm's, drawn at random; a step, and a probe."""
    network = small(source, **OF_A_VIT).model
    rng = np.random.default_rng(0)
    width, tokens = 16, 1 + (SIZE // 2) ** 2
    shapes = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, tokens, width),
        "norm.weight": (width,),
        "norm.bias": (width,),
    }
    shapes |= {"patch_embed.proj.weight": (width, 3, 2, 2), "patch_embed.proj.bias": (width,)}
    for name, (outputs, inputs) in {
        "attn.qkv": (48, 16),
        "attn.proj": (16, 16),
        "mlp.fc1": (64, 16),
        "mlp.fc2": (16, 64),
    }.items():
        shapes |= {f"blocks.0.{name}.weight": (outputs, inputs), f"blocks.0.{name}.bias": (outputs,)}
    shapes |= {f"blocks.0.norm{n}.{leaf}": (width,) for n in (1, 2) for leaf in ("weight", "bias")}
    shapes |= {"head.weight": (10, width), "head.bias": (10,)}
    path, new = tmp_path / "timm.safetensors", tmp_path / "NEW"
    weights = {name: rng.normal(size=shape).astype(np.float32) / 4 for name, shape in shapes.items()}
    save_file(weights, path)
    assert network.global_pool == "mean"
    with pytest.raises(ValueError, match=r"different \(model.global_pool: 'token' → 'mean'\); set these keys"):
        begun(source, path, tmp_path, **OF_A_VIT)
    changes = {"train.epochs": 1, "train.batch_size": 32, "optimizer.warmup_epochs": 0.0, "model.freeze": 1}
    changes |= OF_A_VIT | {"model.global_pool": "token", "model.init_from": str(path)}
    pretrain.run(small(source, **changes), str(new))
    encoder = open_run(str(new)).variables["params"]["encoder"]
    np.testing.assert_array_equal(encoder["stem_positions"], weights["pos_embed"])
    kernel = weights["blocks.0.mlp.fc1.weight"].T
    assert 0 < np.abs(encoder["block1"]["fc1"]["kernel"] - kernel).max() < 0.1
    found = simclr_jax.open_run(new, progress=False).lbfgs(l2_values=1, batch_size=8)
    assert 0 <= found.top1 <= 1 and found.values["started_from"] == str(path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"model.width": 2},
            r"its encoder is different \(model.width: 1 → 2\); set these keys to its values; of the encoder's 20 "
            r"tensors some do not fit: 20 misshapen: (\S+ is \[[\d, ]+\] instead of \[[\d, ]+\],? ){10}and 10 more$",
        ),
        (
            {"model.encoder": "resnet_tiny"},
            r"\(model.encoder: 'resnet_smallest' → 'resnet_tiny'\); .*: \d+ missing: (\S+, ){9}\S+ and \d+ more",
        ),
        ({"model.cifar_stem": False}, r"\(model.cifar_stem: True → False\); .*: 1 misshapen: "),
        ({"model.normalize": "cifar10"}, r"\(model.normalize: 'none' → 'cifar10'\); set these keys to its values$"),
        ({"model.norm": "group"}, r"\(model.norm: 'batch' → 'group'\); .*: 8 surplus: batch_stats/encoder/stage1"),
        (OF_A_VIT, r"\(model.encoder: 'resnet_smallest' → 'vit_smallest'; model.cifar_stem: True → False; "),
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", ["run", "file"])
def test_weights_of_another_encoder_are_refused(source, run, file, tmp_path, kind, changes, words):
    place = {"run": run, "file": file / "ours.safetensors"}[kind]
    with pytest.raises(ValueError) as told:
        begun(source, place, tmp_path, **changes)
    message = str(told.value)
    assert message.startswith(f"config.model.init_from={place}: ") and "\n" not in message
    assert re.search(words, message), message


def test_a_vit_of_other_patches_is_refused(source, tmp_path):
    run = write_run(tmp_path / "RUN", **tiny(source) | OF_A_VIT)
    other = OF_A_VIT | {"augment.image_size": 16, "model.patch_size": 4, "model.positions": "sincos"}
    with pytest.raises(ValueError, match=r"\(model.patch_size: 2 → 4; model.positions: 'learned' → 'sincos'\); "):
        begun(source, run, tmp_path, **other)


def test_keys_that_mean_nothing_for_an_encoder_are_no_difference():
    assert encoder_differences(Network(pool="same"), Network(pool="symmetric")) == ["model.pool: 'same' → 'symmetric'"]
    assert not encoder_differences(
        Network(cifar_stem=True, pool="same"), Network(cifar_stem=True, pool="symmetric", head=Head(dim=9))
    )
    assert not encoder_differences(Network("vit_tiny"), Network("vit_tiny", patch_size=16, norm="group"))
    assert not same_head(Network("vit_tiny"), Network("vit_tiny", norm="group"))
    assert same_head(Network(head=Head("linear", layers=1)), Network(head=Head("linear", layers=2)))


def test_keys_that_change_how_it_is_computed_may_differ(source, run, tmp_path):
    changes = {"model.dtype": "bfloat16", "model.remat": True, "model.view_batch_norm": True, "model.freeze": 1}
    assert same(begun(source, run, tmp_path, **changes)[2].params, open_run(str(run)).variables["params"])


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("{file}/text.safetensors", "{file}/text.safetensors is not a safetensors file, or is damaged: "),
        ("{file}/pickle.pth", "{file}/pickle.pth is a pickle, which may run code and is not read; if you trust it"),
        ("{file}/none.safetensors", "{file}/none.safetensors is not a file; give a .safetensors file"),
        (
            "{file}/less.safetensors",
            "{file}/less.safetensors is most similar to resnet_smallest, but its tensors do",
        ),
        ("{file}", "{file} is not a run, which has a config.json; give RUN, RUN/checkpoints/STEP or FILE.safetensors"),
        ("{run}/checkpoints/8", "{run} has no checkpoint of step 8; it has those of steps 7"),
        ("{new}", "this is the run's own folder, which has no weights yet; give another place"),
        ("{new}/checkpoints/3", "this is the run's own folder, which has no weights yet; give another place"),
        ("s3://bucket/run", "s3://bucket/run"),
    ],
)
def test_what_is_no_weights_is_one_line_and_nothing_is_written(source, run, file, tmp_path, place, words):
    names = {"file": file, "run": run, "new": tmp_path / "NEW"}
    with pytest.raises(ValueError) as told:
        pretrain.run(small(source, **{"model.init_from": place.format(**names)}), str(tmp_path / "NEW"))
    message = f"config.model.init_from={place}: {words}".format(**names)
    assert str(told.value).startswith(message) and "\n" not in str(told.value)
    assert not any(tmp_path.iterdir())


def test_an_imported_run_says_how_it_is_trained_further(source, run):
    run_folder.imported(str(run)).write_text("{}")
    try:
        with pytest.raises(ValueError, match=f"another --workdir with --config.model.init_from={run}$"):
            pretrain.run(small(source), str(run))
    finally:
        run_folder.imported(str(run)).unlink()


def test_the_screen_tells_counts_and_to_those_who_want_it_names(source, run, tmp_path, capsys):
    _, start, _ = begun(source, run, tmp_path, **{"head.dim": 32})
    start.describe()
    plain = capsys.readouterr().out
    assert plain == f"starting from the weights of {run} at step 7: {start.summary}; --verbose lists them\n"
    with console.using(console.Console(console.Level.DETAILS)):
        start.describe()
    listed = capsys.readouterr().out.replace("\n    ", " ").replace("\n  ", " ")
    assert all(name in listed for names in start.names.values() for name in names)


def test_the_old_name_of_the_key_is_read_in_runs_and_told_elsewhere(source, run, tmp_path):
    stored = small(source).to_dict()
    del stored["model"]["init_from"], stored["model"]["freeze"], stored["optimizer"]["layer_decay"]
    stored["train"]["start_from"] = "runs/a"
    (tmp_path / "config.json").write_text(json.dumps(stored))
    found = run_folder.read_config(str(tmp_path))
    assert found["model"]["init_from"] == "runs/a" and "start_from" not in found["train"]
    now = small(source, **{"model.init_from": "runs/a"})
    assert config_differences(found, now.to_dict()) == [] and run_config(found, "RUN").model.init_from == "runs/a"
    assert flatten(simclr_jax.open_run(tmp_path).config) == flatten(now)
    for hostile in ({"train": {"start_from": 1}}, {"train": 3, "model": 4}, {"train": {"start_from": 1}, "model": []}):
        assert renamed(hostile) == hostile
    with pytest.raises(ValueError) as told:
        simclr_jax.load_config("quickstart", {"train.start_from": "runs/a"})
    assert str(told.value).startswith("config.train.start_from is now config.model.init_from, which also takes FILE.")


def test_the_report_says_from_what_a_run_started(source, run, tmp_path):
    new = write_run(tmp_path / "NEW", **tiny(source) | {"model.init_from": "runs/<b>"})
    page = simclr_jax.commands.report.run([str(new)], out=None, make={}, defaults={})
    text = (new / "report.html").read_text()
    assert page == str(new / "report.html")
    assert "started from runs/&lt;b&gt; (untrained: random weights)" in text
    export_weights.run("torch", str(new), str(tmp_path / "e.safetensors"))
    card = (tmp_path / "e.safetensors.md").read_text()
    assert "pretrained without labels by SimCLR, started from `runs/<b>`: " in card
    assert "The licence of the weights it started from and of the training images may also apply" in card
    assert "`model.init_from=runs/<b>`" in card
