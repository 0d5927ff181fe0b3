"""PyTorch state dicts: the same features in PyTorch, the same bits back, and what cannot be known is asked."""

import importlib.util
import json
import pathlib
import pickle

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import simclr_jax
from simclr_jax.commands import export_weights, import_weights
from simclr_jax.configs import default
from simclr_jax.interop import pytorch, torch_names
from simclr_jax.models import ENCODERS, Head, Network, create_encoder
from simclr_jax.models.architectures import ResNetArchitecture
from simclr_jax.models.resnet import ResNet
from support.runs import write_run
from support.samples import assert_one_line
from support.variables import random_variables

ROOT = pathlib.Path(__file__).parents[2]
NETWORKS = {
    "two convolutions": {"encoder": "resnet_tiny"},
    "three, as PyTorch's": {"encoder": "small", "pool": "symmetric", "normalize": "imagenet"},
    "wide": {"encoder": "small", "width": 2},
    "small images": {"encoder": "resnet_tiny", "cifar_stem": True, "normalize": "cifar10"},
}


@pytest.fixture(autouse=True)
def small_bottleneck(monkeypatch):
    monkeypatch.setitem(ENCODERS, "small", ResNetArchitecture(True, (1, 2, 1, 1), base_width=8))


def images(side=32):
    return np.random.default_rng(0).uniform(size=(2, side, side, 3)).astype(np.float32)


def headless(**settings):
    return Network(**settings, head=Head(kind="none", layers=1))


def saved(path, **settings):
    """An encoder with random weights, in a file; its module and variables."""
    network = headless(**settings)
    module = ResNet(network.architecture, network)
    variables = random_variables(module, images())
    pytorch.save(str(path), variables, network)
    return module, variables


def torch_resnet():
    pytest.importorskip("torch", reason="PyTorch is not installed: its networks are not compared with")
    pytest.importorskip("safetensors.torch")
    spec = importlib.util.spec_from_file_location("torch_resnet", ROOT / "docs" / "torch_resnet.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def in_torch(module, batch):
    import torch

    with torch.no_grad():
        return module(torch.from_numpy(batch.transpose(0, 3, 1, 2))).numpy()


@pytest.mark.parametrize(
    ("network", "side"),
    [("two convolutions", 32), ("three, as PyTorch's", 32), ("wide", 34), ("small images", 9)],  # 16 or 17 to pool
)
def test_pytorch_computes_the_same_from_the_file(network, side, tmp_path):
    module, variables = saved(tmp_path / "e.safetensors", **NETWORKS[network])
    theirs = torch_resnet().load(str(tmp_path / "e.safetensors"))
    got = jax.jit(lambda v, x: module.apply(v, x, train=False))(variables, images(side))
    np.testing.assert_allclose(got, in_torch(theirs, images(side)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("network", NETWORKS)
def test_round_trip_gives_the_same_bits_and_settings(network, tmp_path):
    _, variables = saved(tmp_path / "e.safetensors", **NETWORKS[network])
    weights = pytorch.load(str(tmp_path / "e.safetensors"))
    assert weights.network == headless(**NETWORKS[network])
    jax.tree.map(np.testing.assert_array_equal, weights.variables, variables)
    assert [name for name in weights.left_out if "num_batches_tracked" not in name] == []
    pytorch.save(str(tmp_path / "again.safetensors"), weights.variables, weights.network)
    first, again = (load_file(tmp_path / f"{name}.safetensors") for name in ("e", "again"))
    assert first.keys() == again.keys()
    jax.tree.map(np.testing.assert_array_equal, first, again)


def test_the_names_are_torchvisions():
    """The first, the last and one of each kind of torchvision's resnet50; its whole list has 318 names besides fc."""
    module = create_encoder("resnet50")
    leaves = pytorch.tensors.shapes(module)
    names = {torch_names.name_of(leaf, module.network) for leaf in leaves}
    assert len(names) == len(leaves) == 53 * 5
    assert {"conv1.weight", "bn1.running_var", "layer1.0.downsample.0.weight", "layer1.0.downsample.1.bias"} <= names
    assert {"layer3.5.conv3.weight", "layer4.2.bn3.running_mean", "layer2.3.bn2.weight"} <= names


def state(tmp_path, name="resnet_tiny"):
    saved(tmp_path / "plain.safetensors", **(NETWORKS["two convolutions"] | {"encoder": name}))
    return load_file(tmp_path / "plain.safetensors")


def write(tmp_path, arrays, **metadata):
    save_file(arrays, tmp_path / "theirs.safetensors", metadata=metadata or None)
    return str(tmp_path / "theirs.safetensors")


CHILDREN = {"conv1": 0, "bn1": 1, "layer1": 4, "layer2": 5, "layer3": 6, "layer4": 7}
STYLES = {
    "torchvision": (lambda name: name, "", {"fc.weight": (5, 64), "fc.bias": (5,)}),
    "solo-learn": (lambda name: f"backbone.{name}", "backbone.", {"projector.0.weight": (8, 64)}),
    "sthalles": (lambda name: f"backbone.{name}", "backbone.", {"backbone.fc.0.weight": (64, 64)}),
    "Spijkervet, parallel": (
        lambda name: f"module.encoder.{name}",
        "module.encoder.",
        {"module.projector.0.weight": (8, 64)},
    ),
    "lightly": (
        lambda name: f"backbone.{CHILDREN[name.split('.')[0]]}.{name.split('.', 1)[1]}",
        "backbone.",
        {"projection_head.layers.0.weight": (8, 64)},
    ),
}


@pytest.mark.parametrize("style", STYLES)
def test_other_libraries_prefixes_are_read_and_their_heads_named(style, tmp_path):
    renamed, prefix, heads = STYLES[style]
    arrays = state(tmp_path)
    theirs = {renamed(name): array for name, array in arrays.items()}
    theirs |= {name: np.zeros(shape, np.float32) for name, shape in heads.items()}
    weights = pytorch.load(write(tmp_path, theirs), normalize="none")
    assert weights.prefix == prefix and weights.network.pool == "symmetric"
    assert set(heads) <= set(weights.left_out) and len(weights.left_out) + len(
        jax.tree.leaves(weights.variables)
    ) == len(theirs)
    want = pytorch.load(str(tmp_path / "plain.safetensors")).variables
    jax.tree.map(np.testing.assert_array_equal, weights.variables, want)


def test_a_shortcut_that_torchvision_does_not_have_adds_what_it_is_given(tmp_path):
    arrays = {name: array for name, array in state(tmp_path).items() if "layer1.0.downsample" not in name}
    weights = pytorch.load(write(tmp_path, arrays), normalize="none", pool="same")
    variables = weights.variables
    pytorch.save(str(tmp_path / "again.safetensors"), variables, weights.network)
    assert load_file(tmp_path / "again.safetensors").keys() == arrays.keys()
    block = variables["params"]["stage1_block1"], variables["batch_stats"]["stage1_block1"]["shortcut_norm"]
    x = np.random.default_rng(0).normal(size=(7, 16)).astype(np.float32)
    norm = block[0]["shortcut_norm"]
    y = (x @ block[0]["shortcut_conv"]["kernel"][0, 0] - block[1]["mean"]) / np.sqrt(block[1]["var"] + 1e-5)
    np.testing.assert_allclose(y * norm["scale"] + norm["bias"], x, rtol=1e-6)
    want = in_torch(torch_resnet().load(str(tmp_path / "again.safetensors")), images())
    got = ResNet(weights.network.architecture, weights.network).apply(variables, images(), train=False)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


def test_a_run_goes_out_and_comes_back(tmp_path):
    saved(tmp_path / "e.safetensors", **NETWORKS["three, as PyTorch's"])
    import_weights.torch(str(tmp_path / "e.safetensors"), str(tmp_path / "run"), default.get_config())
    export_weights.run("torch", str(tmp_path / "run"), str(tmp_path / "out.safetensors"))
    first, again = (load_file(tmp_path / f"{name}.safetensors") for name in ("e", "out"))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    encoder = simclr_jax.load_encoder(str(tmp_path / "run"))
    module, variables = saved(tmp_path / "f.safetensors", **NETWORKS["three, as PyTorch's"])
    np.testing.assert_allclose(encoder(images()), module.apply(variables, images(), train=False), rtol=1e-4, atol=1e-4)
    assert json.loads((tmp_path / "run" / "config.json").read_text())["model"]["normalize"] == "imagenet"
    with pytest.raises(ValueError, match="out.safetensors already exists"):
        export_weights.run("torch", str(tmp_path / "run"), str(tmp_path / "out.safetensors"))


def test_the_size_of_the_images_and_the_encoder_come_back(tmp_path, monkeypatch):
    monkeypatch.setitem(ENCODERS, "twin", ENCODERS["resnet_tiny"])  # which shapes cannot tell from it
    for encoder, stem, size in (("resnet_tiny", True, 24), ("twin", False, 96)):
        changes = {"model.encoder": encoder, "model.cifar_stem": stem, "augment.image_size": size}
        file, run = tmp_path / f"{size}.safetensors", tmp_path / f"back-{size}"
        export_weights.run("torch", str(write_run(tmp_path / f"run-{size}", **changes)), str(file))
        import_weights.torch(str(file), str(run), default.get_config())
        assert simclr_jax.load_encoder(str(run)).image_size == size
        assert json.loads((run / "config.json").read_text())["model"]["encoder"] == encoder


@pytest.mark.parametrize("size", [0, 10**9, -3, 2.5, "24", True, [24]])
def test_a_size_that_no_images_have_is_refused(size, tmp_path):
    saved(tmp_path / "e.safetensors", **NETWORKS["wide"])
    tensors = load_file(tmp_path / "e.safetensors")
    stated = {"simclr_jax": json.dumps({"image_size": size, "normalize": "none"})}
    save_file(tensors, tmp_path / "e.safetensors", stated)
    with pytest.raises(ValueError, match="states images of .* pixels; a side is 1 to 4,096") as error:
        import_weights.torch(str(tmp_path / "e.safetensors"), str(tmp_path / "run"), default.get_config())
    assert_one_line(error)
    assert not (tmp_path / "run").exists()


ZERO = np.zeros(3, np.float32)


@pytest.mark.parametrize(
    ("changes", "arguments", "message"),
    [
        ({}, {}, "does not say how its training images were normalised; give --normalize"),
        ({}, {"normalize": "mnist"}, "unknown normalization 'mnist'"),
        ({}, {"normalize": "none", "pool": "valid"}, "unknown pool 'valid'; choose one of: same, symmetric"),
        (
            {"layer2.0.bn1.bias": None},
            {"normalize": "none"},
            "most similar to resnet_tiny, .* 1 missing: layer2.0.bn1.bias$",
        ),
        ({"layer2.0.se.weight": ZERO}, {"normalize": "none"}, "1 surplus: layer2.0.se.weight$"),
        (
            {"layer2.0.bn1.bias": ZERO},
            {"normalize": "none"},
            r"1 misshapen: layer2.0.bn1.bias is \[3\] instead of \[32\]",
        ),
        ({"layer1.0.downsample.1.bias": None}, {"normalize": "none"}, "1 missing: layer1.0.downsample.1.bias"),
        (
            {"layer2.1.conv1.weight": ZERO},
            {"normalize": "none"},
            r"has \[1, 2, 1\] blocks of two convolutions; known: r",
        ),
        ({"conv1.weight": np.zeros((16, 3, 7, 7))}, {"normalize": "none"}, "conv1.weight is F64 instead of F32"),
        (
            {"teacher.layer1.0.conv1.weight": ZERO},
            {"normalize": "none"},
            "holds 2 encoders; choose one with --prefix: '', 't",
        ),
        (
            {"layer1.0.conv1.weight": None},
            {"normalize": "none"},
            "holds no encoder with torchvision's or timm's names; it has: bn1",
        ),
    ],
)
def test_what_does_not_fit_is_told_in_a_line(changes, arguments, message, tmp_path):
    arrays = {name: array for name, array in (state(tmp_path) | changes).items() if array is not None}
    with pytest.raises(ValueError, match=message) as error:
        pytorch.load(write(tmp_path, arrays), **arguments)
    assert_one_line(error)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            pickle.dumps({"a": 1}),
            "is a pickle, which may run code and is not read; if you trust it, convert it: .*weights_only=True",
        ),
        (b"PK\x03\x04", "is a pickle"),
        (b"hello, hello", "not a safetensors file, or is damaged"),
        (b"", "not a safetensors file, or is damaged"),
    ],
)
def test_other_files_are_refused(content, message, tmp_path):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        pytorch.load(str(tmp_path / "file"))
    assert_one_line(error)


def test_a_header_of_any_length_is_read(tmp_path):
    """A file begins with the length of its header: with 0x80, as a pickle does, of one in 32."""
    arrays = state(tmp_path)
    for size in range(256):
        path = write(tmp_path, arrays, filler="x" * size)
        if pathlib.Path(path).read_bytes().startswith(b"\x80"):
            break
    else:
        raise AssertionError("no such header was made")
    assert pytorch.load(path, normalize="none").network.encoder == "resnet_tiny"


def test_a_truncated_file_is_refused(tmp_path):
    state(tmp_path)
    path = tmp_path / "plain.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="not a safetensors file, or is damaged"):
        pytorch.load(str(path))


@pytest.mark.parametrize("extra", [{"sk_ratio": 0.1}, {"se_ratio": 0.1}, {"norm": "group"}])
def test_what_pytorchs_resnets_do_not_have_is_not_exported(extra, tmp_path):
    with pytest.raises(ValueError, match=f"model.{next(iter(extra))}=.* is not supported by torchvision's ResNets"):
        pytorch.save(str(tmp_path / "x"), {}, headless(**NETWORKS["wide"], **extra))
    assert not (tmp_path / "x").exists()
