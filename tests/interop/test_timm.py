"""timm's networks: with their weights ours compute the same, block by block; and files go out and come back."""

import dataclasses
import re

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import simclr_jax
from simclr_jax.commands import export_weights, import_weights
from simclr_jax.configs import default
from simclr_jax.interop import onnx, pytorch, stablehlo, tensors, torch_names
from simclr_jax.models import ENCODERS, Head, Network, encoder_of
from simclr_jax.models.architectures import ConvNeXtArchitecture, ViTArchitecture
from support.runs import write_run
from support.variables import random_variables

# {name in timm: (settings there, sides of the images)}. A ViT's positions are resized for the second side.
SMALLER = {"img_size": 64, "dynamic_img_size": True}
NAMES = {
    **{f"resnet{depth}": ({}, (64, 76)) for depth in (18, 34, 50, 101, 152, 200)},
    "vit_tiny_patch16_224": (SMALLER, (64, 96)),
    "vit_tiny, patches of 4": (SMALLER | {"name": "vit_tiny_patch16_224", "img_size": 32, "patch_size": 4}, (32, 24)),
    "vit_tiny, mean": (SMALLER | {"name": "vit_tiny_patch16_224", "global_pool": "avg"}, (64, 80)),
    "vit_small_patch16_224": (SMALLER, (64, 48)),
    "vit_small_patch32_224": (SMALLER, (64, 128)),
    "vit_base_patch8_224": (SMALLER | {"img_size": 32}, (32, 48)),
    "vit_base_patch16_224": (SMALLER, (64, 96)),
    "vit_base_patch32_224": (SMALLER, (64, 96)),
    "vit_large_patch16_224": (SMALLER, (64, 80)),
    **{
        f"convnext_{size}": ({}, (64, 76))
        for size in ("atto", "femto", "pico", "nano", "tiny", "small", "base", "large", "xlarge")
    },
}
VIT, CONVNEXT = ViTArchitecture(16, 2, 2, patch_size=4), ConvNeXtArchitecture((1, 1), (8, 16), patch_size=2)
SMALL = {
    "mean": {"encoder": "vit", "normalize": "cifar10"},
    "class token, fixed positions": {"encoder": "vit", "global_pool": "token", "positions": "sincos"},
    "convnext": {"encoder": "convnext", "patch_size": 4, "normalize": "imagenet"},
}


@pytest.fixture(name="small")
def small_encoders(monkeypatch):
    monkeypatch.setitem(ENCODERS, "vit", VIT)
    monkeypatch.setitem(ENCODERS, "convnext", CONVNEXT)


def images(side):
    return np.random.default_rng(side).uniform(size=(1, side, side, 3)).astype(np.float32)


def theirs(name, settings):
    """One of timm's networks with random weights, and what its blocks give, by our names of them."""
    import timm
    import torch

    module = timm.create_model(
        settings.get("name", name), num_classes=0, **{k: v for k, v in settings.items() if k != "name"}
    )
    rng = np.random.default_rng(0)
    with torch.no_grad():
        for tensor in module.state_dict().values():
            if tensor.is_floating_point():
                drawn = rng.normal(size=tensor.shape).astype(np.float32)
                fan_in = max(1, tensor[0].numel())
                values = drawn / np.sqrt(fan_in) if tensor.ndim > 1 else 1 + 0.1 * np.abs(drawn)
                tensor.copy_(torch.from_numpy(np.asarray(values, np.float32)))
    seen = {}

    def keep(name):
        def hook(_, __, output):
            x = output.numpy()
            seen[name] = x.transpose(0, 2, 3, 1) if x.ndim == 4 else x

        return hook

    for path, child in module.named_modules():
        if match := re.fullmatch(r"layer(\d+)\.(\d+)", path):
            child.register_forward_hook(keep(f"stage{match[1]}_block{int(match[2]) + 1}"))
        elif match := re.fullmatch(r"blocks\.(\d+)", path):
            child.register_forward_hook(keep(f"block{int(match[1]) + 1}"))
        elif match := re.fullmatch(r"stages\.(\d+)\.blocks\.(\d+)", path):
            child.register_forward_hook(keep(f"stage{int(match[1]) + 1}_block{int(match[2]) + 1}"))
    return module.eval(), seen


@pytest.mark.parametrize("name", NAMES)
def test_every_block_gives_what_timms_does(name, tmp_path):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: its networks are not compared with")
    pytest.importorskip("timm", reason="timm is not installed: its networks are not compared with")
    settings, sides = NAMES[name]
    module, seen = theirs(name, settings)
    path = str(tmp_path / "theirs.safetensors")
    save_file({key: np.ascontiguousarray(tensor.numpy()) for key, tensor in module.state_dict().items()}, path)
    weights = pytorch.load(path, normalize="none")
    encoder = encoder_of(weights.network)
    for side in sides:
        with torch.no_grad():
            wanted = module(torch.from_numpy(images(side).transpose(0, 3, 1, 2))).numpy()

        @jax.jit
        def ours(variables, x):
            block = re.compile(r"(stage\d+_)?block\d+$").match
            return encoder.apply(
                variables,
                x,
                train=False,
                capture_intermediates=lambda module, _: block(module.name or ""),
                mutable=["intermediates"],
            )

        h, captured = ours(weights.variables, images(side))
        blocks = {of: x["__call__"][0] for of, x in captured["intermediates"].items() if "__call__" in x}
        assert blocks.keys() == seen.keys() and len(seen) > 5
        for of, x in (blocks | {"h": h}).items():
            want = wanted if of == "h" else seen[of]
            assert np.abs(x - want).max() <= 1e-4 * np.abs(want).max(), (of, side)


def test_the_names_are_timms():
    """The first, the last and one of each kind; the shapes are PyTorch's."""
    wanted = {
        "vit_tiny": {
            "cls_token": (1, 1, 192),
            "pos_embed": (1, 17, 192),
            "patch_embed.proj.weight": (192, 3, 16, 16),
            "blocks.0.norm1.weight": (192,),
            "blocks.11.attn.qkv.weight": (576, 192),
            "blocks.3.attn.proj.bias": (192,),
            "blocks.0.mlp.fc1.weight": (768, 192),
            "blocks.11.mlp.fc2.bias": (192,),
            "fc_norm.bias": (192,),
        },
        "convnext_nano": {
            "stem.0.weight": (80, 3, 4, 4),
            "stem.1.bias": (80,),
            "stages.0.blocks.0.conv_dw.weight": (80, 1, 7, 7),
            "stages.2.blocks.7.norm.weight": (320,),
            "stages.1.downsample.0.weight": (80,),
            "stages.3.downsample.1.weight": (640, 320, 2, 2),
            "stages.0.blocks.1.mlp.fc1.weight": (320, 80),
            "stages.3.blocks.1.gamma": (640,),
            "head.norm.weight": (640,),
        },
    }
    for name, some in wanted.items():
        network = Network(encoder=name)
        leaves = tensors.shapes(encoder_of(network), 64)
        ours = {
            torch_names.name_of(leaf, network): torch_names.shape_of_theirs(shape) for leaf, shape in leaves.items()
        }
        assert len(ours) == len(leaves) == {"vit_tiny": 150, "convnext_nano": 14 * 9 + 4 * 4 + 2}[name]
        assert some.items() <= ours.items()
    token = torch_names.name_of("params/norm/scale", Network(encoder="vit_tiny", global_pool="token"))
    assert token == "norm.weight"


def saved(path, side=16, **settings):
    """An encoder with random weights, in a file; its module and variables."""
    network = Network(**settings, head=Head(kind="none", layers=1))
    module = encoder_of(network)
    variables = random_variables(module, images(side))
    pytorch.save(str(path), variables, network, image_size=side)
    return module, variables


@pytest.mark.parametrize("kind", SMALL)
def test_a_round_trip_gives_the_same_bits_and_settings(kind, tmp_path, small):
    module, variables = saved(tmp_path / "e.safetensors", **SMALL[kind])
    weights = pytorch.load(str(tmp_path / "e.safetensors"))
    assert dataclasses.replace(weights.network, patch_size=0) == dataclasses.replace(module.network, patch_size=0)
    assert weights.network.patch == module.network.patch and weights.image_size == 16 and weights.left_out == []
    jax.tree.map(np.testing.assert_array_equal, weights.variables, variables)
    pytorch.save(str(tmp_path / "again.safetensors"), weights.variables, weights.network, image_size=16)
    first, again = (load_file(tmp_path / f"{name}.safetensors") for name in ("e", "again"))
    assert first.keys() == again.keys() and {"pos_embed" in first} == {SMALL[kind]["encoder"] == "vit"}
    jax.tree.map(np.testing.assert_array_equal, first, again)


@pytest.mark.parametrize("kind", SMALL)
def test_a_run_goes_out_and_comes_back(kind, tmp_path, small):
    """Its head has BatchNorm's statistics, and its encoder none."""
    changes = {f"model.{key}": value for key, value in SMALL[kind].items()} | {"augment.image_size": 16}
    run, file, back = write_run(tmp_path / "run", **changes), tmp_path / "e.safetensors", tmp_path / "back"
    export_weights.run("torch", str(run), str(file))
    card = (tmp_path / "e.safetensors.md").read_text()
    assert "running statistics | none" in card and "with BatchNorm" not in card and "timm.create_model(" in card
    assert ("| h is | the class token |" in card) == (SMALL[kind].get("global_pool") == "token")
    import_weights.torch(str(file), str(back), default.get_config())
    one, other = (simclr_jax.load_encoder(str(of)) for of in (run, back))
    assert one.image_size == other.image_size == 16
    np.testing.assert_array_equal(one(images(16)), other(images(16)))
    export_weights.run("onnx", str(run), str(tmp_path / "e.onnx"))
    assert "max-pool" not in (tmp_path / "e.onnx.md").read_text()


@pytest.mark.parametrize("kind", SMALL)
def test_onnx_and_stablehlo_compute_the_same(kind, tmp_path, small):
    pytest.importorskip("onnxruntime")
    module, variables = saved(tmp_path / "e.safetensors", **SMALL[kind])
    x = np.random.default_rng(0).uniform(size=(3, 16, 16, 3)).astype(np.float32)
    wanted = jax.jit(lambda v, x: module.apply(v, x, train=False))(variables, x)
    onnx.save(str(tmp_path / "e.onnx"), module, variables, image_size=16)
    np.testing.assert_allclose(onnx.run(str(tmp_path / "e.onnx"), x), wanted, rtol=1e-4, atol=1e-5)
    stablehlo.save(str(tmp_path / "e.stablehlo"), module, variables, image_size=16)
    read = jax.export.deserialize((tmp_path / "e.stablehlo").read_bytes())
    np.testing.assert_allclose(read.call(x), wanted, rtol=1e-4, atol=1e-5)
    assert {"cpu", "cuda", "tpu"} == {*read.platforms}


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("mean", {"blocks.1.mlp.fc1.bias": None}, "is most similar to vit, .*: 1 missing: blocks.1.mlp.fc1.bias"),
        ("mean", {"norm_pre.weight": (16,)}, "1 surplus: norm_pre.weight"),
        ("mean", {"pos_embed": (1, 16, 16)}, r"pos_embed is \[1, 16, 16\], not that of a square and a class token"),
        ("mean", {"cls_token": None, "pos_embed": (1, 17, 16)}, "1 missing: cls_token"),
        (
            "mean",
            {"patch_embed.proj.weight": (16, 3, 4, 2)},
            r"kernel of \[16, 3, 4, 2\], not \[outputs, C, side, side\]",
        ),
        (
            "mean",
            {"patch_embed.proj.weight": (8, 3, 4, 4)},
            r"2 blocks of tokens of 8 numbers; known: vit_tiny \(12 of 192\)",
        ),
        ("convnext", {"stages.0.blocks.0.mlp.grn.weight": (32,)}, "1 surplus: stages.0.blocks.0.mlp.grn.weight"),
        (
            "convnext",
            {"stages.1.blocks.1.gamma": (16,)},
            r"\[1, 2\] blocks and 8 channels in its stem; known: convnext_atto",
        ),
    ],
)
def test_what_does_not_fit_is_told_in_a_line(kind, changes, message, tmp_path, small):
    saved(tmp_path / "e.safetensors", **SMALL[kind])
    arrays = load_file(tmp_path / "e.safetensors")
    for name, shape in changes.items():
        arrays.pop(name, None)
        if shape is not None:
            arrays[name] = np.zeros(shape, np.float32)
    save_file(arrays, tmp_path / "theirs.safetensors")
    with pytest.raises(ValueError, match=message) as error:
        pytorch.load(str(tmp_path / "theirs.safetensors"), normalize="none")
    assert "\n" not in str(error.value)


def test_heads_of_others_are_left_out_and_a_pool_is_refused(tmp_path, small):
    module, variables = saved(tmp_path / "e.safetensors", **SMALL["mean"])
    arrays = load_file(tmp_path / "e.safetensors")
    others = {"head.weight": np.zeros((5, 16), np.float32), "head.bias": np.zeros(5, np.float32)}
    arrays = {f"module.base_encoder.{name}": array for name, array in (arrays | others).items()}
    save_file(arrays, tmp_path / "theirs.safetensors")
    weights = pytorch.load(str(tmp_path / "theirs.safetensors"), normalize="none")
    assert weights.prefix == "module.base_encoder." and weights.image_size == 16
    assert weights.left_out == ["module.base_encoder.head.bias", "module.base_encoder.head.weight"]
    jax.tree.map(np.testing.assert_array_equal, weights.variables, variables)
    with pytest.raises(ValueError, match="--pool=same is of a ResNet's max-pool, and .* holds a vit; leave it out"):
        pytorch.load(str(tmp_path / "e.safetensors"), pool="same")


def test_dense_layers_that_timm_writes_as_convolutions_are_read_and_written_so(tmp_path):
    network = Network(encoder="convnext_atto", head=Head(kind="none", layers=1))
    shapes = tensors.shapes(encoder_of(network))
    variables = tensors.nested({leaf: np.full(shape, 0.5, np.float32) for leaf, shape in shapes.items()})
    pytorch.save(str(tmp_path / "e.safetensors"), variables, network)
    arrays = load_file(tmp_path / "e.safetensors")
    assert arrays["stages.0.blocks.0.mlp.fc1.weight"].shape == (160, 40, 1, 1)
    for written in (arrays, {name: torch_names.dense(name, x.shape) for name, x in arrays.items()}):
        if written is not arrays:
            written = {name: arrays[name].reshape(shape) for name, shape in written.items()}
        save_file(written, tmp_path / "again.safetensors")
        weights = pytorch.load(str(tmp_path / "again.safetensors"), normalize="none")
        assert tensors.flat(weights.variables).keys() == shapes.keys()
