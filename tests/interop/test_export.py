"""Exported files: other programs compute what the encoder computes, and a file that is not whole is not there."""

import dataclasses
import hashlib
import importlib.util
import re
import subprocess
import sys

import jax
import numpy as np
import pytest
from jax import export

import simclr_jax
from simclr_jax import __main__
from simclr_jax.commands import export_weights
from simclr_jax.interop import card, onnx, stablehlo
from simclr_jax.models import ENCODERS, create_encoder
from simclr_jax.models.architectures import ResNetArchitecture
from simclr_jax.runtime import run_folder
from support import smallest
from support.runs import write_run
from support.samples import assert_one_line
from support.variables import random_variables

SIZE = 33  # odd, and so is what the stem's max-pool is given: 17


def images(count, side=SIZE):
    return np.random.default_rng(count).uniform(size=(count, side, side, 3)).astype(np.float32)


def assert_close(found, wanted):
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


@pytest.fixture(scope="module", name="run")
def make_run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("exported") / "run", **{"augment.image_size": SIZE})


@pytest.fixture(scope="module", name="encoder")
def load_encoder(run):
    return simclr_jax.load_encoder(str(run))


NETWORKS = {
    "bottlenecks, odd sides": ({}, SIZE),
    "bottlenecks, as PyTorch's": ({"pool": "symmetric", "normalize": "imagenet"}, 36),
    "two convolutions, small images": ({"name": "resnet_tiny", "cifar_stem": True, "normalize": "cifar10"}, 9),
    "selective kernels, excitation": ({"sk_ratio": 0.0625, "se_ratio": 0.25}, 32),
    "selective kernels of two convolutions": ({"name": "resnet_tiny", "sk_ratio": 0.0625}, 20),
    "group norm, wide": ({"norm": "group", "width": 2, "sk_ratio": 1.0}, 20),
}


def epsilon_counts(path, leaf):
    """Variances so small that what is added to them is seen, and scales that undo it."""
    return leaf * {"var": 1e-4, "scale": 1e-2}.get(path[-1].key, 1.0)


@pytest.mark.parametrize("network", NETWORKS)
def test_onnxruntime_computes_the_same_from_the_graph(network, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: graphs are not run")
    monkeypatch.setitem(ENCODERS, "small", ResNetArchitecture(True, (1, 2, 1), base_width=16))
    settings, side = NETWORKS[network]
    encoder = create_encoder(**({"name": "small"} | settings))
    x = images(3, side)
    variables = random_variables(encoder, x)
    if encoder.network.norm == "batch":
        variables = jax.tree_util.tree_map_with_path(epsilon_counts, variables)
    onnx.save(str(tmp_path / "e.onnx"), encoder, variables, image_size=side)
    wanted = jax.jit(lambda v, x: encoder.apply(v, x, train=False))(variables, x)
    assert_close(onnx.run(str(tmp_path / "e.onnx"), x), wanted)
    assert_close(onnx.run(str(tmp_path / "e.onnx"), x[:1]), wanted[:1])


def test_the_graph_has_a_place_for_every_variable_and_names_for_every_layer(tmp_path):
    package = pytest.importorskip("onnx", reason="onnx is not installed")
    encoder = create_encoder("resnet_tiny")
    variables = random_variables(encoder, images(1))
    onnx.save(str(tmp_path / "e.onnx"), encoder, variables, image_size=SIZE)
    graph = package.load(str(tmp_path / "e.onnx")).graph
    assert {"stem_conv", "stage1_block1/conv1", "stage3_block1/shortcut_norm"} <= {node.name for node in graph.node}
    leaves = jax.tree_util.tree_leaves_with_path(variables)
    names = {jax.tree_util.keystr(path[1:], simple=True, separator="/") for path, _ in leaves}
    assert names == {constant.name for constant in graph.initializer}
    variables["params"]["stage1_block1"]["conv9"] = {"kernel": np.zeros((1, 1, 16, 16), np.float32)}
    with pytest.raises(ValueError, match="1 variables are not used by the ONNX graph, .* params/stage1_block1/conv9"):
        onnx.save(str(tmp_path / "f.onnx"), encoder, variables, image_size=SIZE)
    assert not (tmp_path / "f.onnx").exists()


def test_a_run_becomes_an_onnx_file(run, encoder, tmp_path, capsys):
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: graphs are not run")
    export_weights.run("onnx", str(run / "checkpoints" / "7"), str(tmp_path / "e.onnx"))
    session = onnxruntime.InferenceSession(str(tmp_path / "e.onnx"), providers=["CPUExecutionProvider"])
    for count in (1, 7):
        (h,) = session.run(["h"], {"images": images(count)})
        assert_close(h, encoder(images(count)))
    assert re.search(r"tested with onnxruntime: features agree to \de-0[67]|\d\.\de-0[67]", capsys.readouterr().out)


ALONE = """
import sys
sys.modules.update(dict.fromkeys(["simclr_jax", "flax", "tensorflow", "configs"]))
import numpy as np
from jax import export
encoder = export.deserialize(open(sys.argv[1], "rb").read())
assert encoder.platforms == ("cpu", "cuda", "tpu")
with np.load(sys.argv[2]) as images:
    np.savez(sys.argv[3], **{name: encoder.call(images[name]) for name in images})
"""


def test_a_run_becomes_a_program_that_jax_runs_without_this_library(run, encoder, tmp_path):
    export_weights.run("stablehlo", str(run), str(tmp_path / "e.stablehlo"))
    np.savez(tmp_path / "images.npz", one=images(1), seven=images(7))
    paths = [str(tmp_path / name) for name in ("e.stablehlo", "images.npz", "h.npz")]
    subprocess.run([sys.executable, "-c", ALONE, *paths], check=True, cwd=tmp_path)
    with np.load(tmp_path / "h.npz") as found:
        assert_close(found["one"], encoder(images(1)))
        assert_close(found["seven"], encoder(images(7)))


def program(path):
    """The text of a StableHLO file, without the places in the source that its lines come from."""
    text = export.deserialize(path.read_bytes()).mlir_module()
    return re.sub(r" loc\(.*?\)(?=[,) ]|$)|^#loc.*\n", "", text, flags=re.MULTILINE)


def test_a_program_is_the_same_on_every_platform(tmp_path):
    small = create_encoder("resnet_tiny", normalize="imagenet")
    variables = random_variables(small, images(1))
    stablehlo.save(str(tmp_path / "any"), small, variables, image_size=SIZE)
    text = program(tmp_path / "any")
    # jax lowers a convolution for each of the platforms; a CPU's own forms would be products in loops.
    assert text.count("stablehlo.convolution") == 10 * len(stablehlo.PLATFORMS)
    assert "stablehlo.dot_general" not in text and "stablehlo.while" not in text
    assert set(re.findall(r"custom_call @(\w+)", text)) == {"shape_assertion"}  # that there is at least one image
    made = export.deserialize((tmp_path / "any").read_bytes())
    assert [str(x.shape) for x in (*made.in_avals, *made.out_avals)] == [f"(batch, {SIZE}, {SIZE}, 3)", "(batch, 64)"]


def test_stages_of_few_pixels_are_in_a_program_for_any_number_of_images_too(tmp_path):
    """A CPU has another form for them."""
    small = create_encoder(smallest.NAME)
    variables = random_variables(small, images(1, 8))
    stablehlo.save(str(tmp_path / "any"), small, variables, image_size=8)  # a stage of 2×2 pixels
    made = export.deserialize((tmp_path / "any").read_bytes())
    for count in (1, 5):
        assert_close(made.call(images(count, 8)), small.apply(variables, images(count, 8), train=False))
    assert "stablehlo.dot_general" in program(tmp_path / "any")


@pytest.mark.parametrize("kind", export_weights.FORMATS)
def test_the_card_is_of_the_file(kind, run, tmp_path, monkeypatch):
    monkeypatch.setattr(export_weights, "_try", lambda *_: None)
    if kind == "onnx":
        pytest.importorskip("onnx", reason="onnx is not installed")
    out = tmp_path / f"e{card.FORMATS[kind].suffix}"
    export_weights.run(kind, str(run), str(out), license="CC0-1.0")
    text = (tmp_path / f"{out.name}.md").read_text()
    assert hashlib.sha256(out.read_bytes()).hexdigest() in text and f"{out.stat().st_size:,}" in text
    for words in ("resnet_tiny, width 1", "| parameters | 79,600 |", "step 7", "`CC0-1.0`", "`loss.temperature=0.1`"):
        assert words in text
    assert "Not probed" in text and card.FORMATS[kind].title in text
    assert sorted(path.name for path in tmp_path.iterdir()) == [out.name, f"{out.name}.md"]
    assert out.stat().st_mode & 0o444 == 0o444  # for whoever may read the card


def test_what_is_trained_in_bfloat16_is_exact_in_onnx(tmp_path):
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: graphs are not run")
    run = write_run(tmp_path / "run", **{"augment.image_size": SIZE, "model.dtype": "bfloat16"})
    for kind in ("onnx", "stablehlo"):
        export_weights.run(kind, str(run), str(tmp_path / f"e.{kind}"))
    assert "computes in | float32, while this library computes in bfloat16 |" in (tmp_path / "e.onnx.md").read_text()
    assert "computes in | bfloat16 |" in (tmp_path / "e.stablehlo.md").read_text()
    assert "xbf16>" in program(tmp_path / "e.stablehlo")


def test_the_command_exports(run, tmp_path, capsys, monkeypatch):
    def command(*arguments):
        monkeypatch.setattr(sys, "argv", ["simclr_jax", "export", *arguments])
        __main__.main()

    command("torch", str(run), f"--out={tmp_path}/e.safetensors", "--license=MIT")
    assert "e.safetensors.md, says how to load it" in capsys.readouterr().out
    assert "`MIT`" in (tmp_path / "e.safetensors.md").read_text()
    for arguments, line in (
        (["caffe", str(run), "--out=x"], "invalid choice: 'caffe'"),
        (["torch", str(run)], "--out"),
        (["torch", "nowhere", f"--out={tmp_path}/f.safetensors"], "nowhere is not a run"),
    ):
        with pytest.raises(SystemExit, match=f"^error: .*{line}"):
            command(*arguments)


def left(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def exists(folder, run):
    (folder / "e.safetensors").write_text("mine")


def card_exists(folder, run):
    (folder / "e.safetensors.md").write_text("mine")


def damaged(folder, run):
    victim = max((run / "checkpoints").rglob("*"), key=lambda path: path.stat().st_size if path.is_file() else 0)
    victim.write_bytes(victim.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("spoil", "kind", "changes", "message"),
    [
        (exists, "torch", {}, "e.safetensors already exists; give a new file name"),
        (card_exists, "torch", {}, "e.safetensors.md already exists; give a new file name"),
        (damaged, "onnx", {}, "7 is damaged: "),
        (None, "torch", {"run": "nowhere"}, "nowhere is not a run"),
        (None, "onnx", {"out": "no/e.onnx"}, "the folder .*no does not exist; create it"),
        (None, "onnx", {"out": ""}, "--out= is not the name of a file"),
        (
            None,
            "torch",
            {"out": "e.pt"},
            "has the wrong suffix for .*; give --out=e.safetensors$",
        ),
        (None, "torch", {"out": "weights"}, "give --out=weights.safetensors$"),
        (None, "onnx", {"out": "e.safetensors"}, "give --out=e.onnx$"),
        (None, "stablehlo", {"out": "e.onnx"}, "give --out=e.stablehlo$"),
        (None, "torch", {"out": "gs://bucket/e.safetensors"}, "object stores and URLs are not supported"),
    ],
)
def test_bad_input_is_told_in_a_line_and_nothing_is_written(spoil, kind, changes, message, run, tmp_path, monkeypatch):
    if spoil is damaged:
        run = write_run(tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    if spoil:
        spoil(tmp_path, run)
    before = left(tmp_path)
    with pytest.raises(ValueError, match=message) as error:
        export_weights.run(kind, **({"run": str(run), "out": f"e{card.FORMATS[kind].suffix}"} | changes))
    assert_one_line(error)
    assert left(tmp_path) == before


def test_networks_that_pytorch_has_not_are_refused(tmp_path):
    run = write_run(tmp_path / "run", **{"model.norm": "group"})
    with pytest.raises(ValueError, match="model.norm=group is not supported by torchvision's ResNets"):
        export_weights.run("torch", str(run), str(tmp_path / "e.safetensors"))
    assert not left(tmp_path)


def test_packages_that_are_missing_are_named(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    if importlib.util.find_spec("onnx"):
        export_weights.run("onnx", str(run), str(tmp_path / "e.onnx"))
        assert "onnxruntime is not installed, so the file was not tested; to test it: pip" in capsys.readouterr().out
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ValueError, match=r"needs the package onnx, .* pip install 'simclr_jax\[onnx\]'"):
        export_weights.run("onnx", str(run), str(tmp_path / "f.onnx"))
    assert not {"f.onnx", "f.onnx.new", "f.onnx.md"} & left(tmp_path).keys()


def test_a_file_that_gives_other_features_is_not_left(run, tmp_path, monkeypatch):
    pytest.importorskip("onnx", reason="onnx is not installed")
    for wrong in (lambda found: found * (1 + 2e-4), lambda found: found * np.nan):
        monkeypatch.setattr(onnx, "run", lambda path, images, wrong=wrong: wrong(_right(run, images)))
        with pytest.raises(
            ValueError, match="the file's features in onnxruntime differ from the encoder's by .* of the largest"
        ):
            export_weights.run("onnx", str(run), str(tmp_path / "e.onnx"))
        assert not left(tmp_path)


def test_a_dead_network_is_exported(tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: graphs are not run")
    read = export_weights.open_run
    monkeypatch.setattr(export_weights, "open_run", lambda run: _dead(read(run)))
    export_weights.run("onnx", str(write_run(tmp_path / "run", **{"augment.image_size": 8})), str(tmp_path / "e.onnx"))
    assert not onnx.run(str(tmp_path / "e.onnx"), images(2, 8)).any()


def _dead(trained):
    """Offsets that no ReLU lets through."""
    variables = jax.tree_util.tree_map_with_path(
        lambda path, x: x - 1e6 if path[-1].key == "bias" else x, trained.variables
    )
    return dataclasses.replace(trained, variables=variables)


def _right(run, x):
    return simclr_jax.load_encoder(str(run))(x)


def test_weights_that_a_file_cannot_hold_are_refused(run, tmp_path, monkeypatch):
    monkeypatch.setattr(export_weights, "_MOST_BYTES", 300_000)
    with pytest.raises(
        ValueError, match="the weights take 0 MiB, and a file of this kind holds at most 0; export torch"
    ):
        export_weights.run("stablehlo", str(run), str(tmp_path / "e.stablehlo"))
    assert not left(tmp_path)


def stop(error, at):
    """What raises an error when it is called for the n-th time, and does nothing before."""
    calls = []

    def stopped(*_):
        calls.append(1)
        if len(calls) == at:
            raise error

    return stopped


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")], ids=type)
def test_an_export_that_is_broken_off_leaves_neither_file(error, run, tmp_path, monkeypatch):
    paths = type(run_folder.folder("x"))
    move = paths.replace
    for owner, name, at in ((card, "render", 1), (paths, "replace", 1), (paths, "replace", 2)):
        with monkeypatch.context() as patched:
            stopped = stop(error, at)
            patched.setattr(owner, name, lambda *values, stopped=stopped: stopped() or move(*values))
            with pytest.raises((KeyboardInterrupt, ValueError), match="^$|cannot be written: No space left"):
                export_weights.run("torch", str(run), str(tmp_path / "e.safetensors"))
        assert not left(tmp_path), (name, at)
    (tmp_path / "e.safetensors.new").write_text("of one that was killed")
    export_weights.run("torch", str(run), str(tmp_path / "e.safetensors"))
    assert left(tmp_path).keys() == {"e.safetensors", "e.safetensors.md"}
