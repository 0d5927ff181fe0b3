"""What describes a network is declared once: the config, the encoder's arguments and the bounds agree with it."""

import inspect

import pytest

from simclr_jax.configs import default
from simclr_jax.models import ENCODERS, Head, Network, create_encoder, create_model
from simclr_jax.models.network import KEYS
from simclr_jax.runtime.config import INIT_FROM, network_of


def test_the_default_config_is_the_default_network():
    config = default.get_config()
    assert network_of(config) == Network()
    keys = [*(f"model.{key}" for key in config.model), *(f"head.{key}" for key in config.head)]
    assert sorted(KEYS) == sorted(set(keys) - {INIT_FROM})


def test_an_encoder_takes_the_keys_of_a_network_and_no_others():
    made = create_encoder("resnet18", width=2, cifar_stem=True, norm="group", dtype="bfloat16", remat=True)
    wanted = Network(encoder="resnet18", width=2, cifar_stem=True, norm="group", dtype="bfloat16", remat=True)
    assert made.network == wanted and create_encoder("resnet50").network == Network()
    with pytest.raises(TypeError, match="widht"):
        create_encoder("resnet18", widht=2)


def test_a_key_without_a_meaning_is_none():
    for key in KEYS:
        section, name = key.split(".")
        assert f"\n  {name}: " in inspect.getdoc({"model": Network, "head": Head}[section]), key


def test_an_encoder_like_none_of_ours_is_told_which_there_are():
    with pytest.raises(ValueError) as error:
        create_encoder("vit")
    assert str(error.value).startswith("model.encoder 'vit' is not registered; register your own first: ")
    assert str(error.value).endswith(f"--import=FILE.py; else choose one of {', '.join(ENCODERS)}")


def test_without_norms_a_head_has_any_width():
    head = Network(norm="group", head=Head(dim=100, hidden_dim=50, norm=False)).head
    assert (head.dim, head.hidden_dim, head.depth) == (100, 50, 2)
    assert Head("linear", norm=False).depth == 1


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: create_encoder("resnet18", norm="layer"), "unknown norm 'layer'; choose one of: batch, group"),
        (
            lambda: Network(norm="group", head=Head(dim=100)),
            "head dim 100 is not divisible by the 16 .*; use 96 or 112",
        ),
        (lambda: Network(norm="group", head=Head(dim=8)), "head dim 8 .*; use 16$"),
        (
            lambda: create_encoder("resnet51"),
            r"model.encoder 'resnet51' is not one of .*resnet200.*; did you mean resnet\d+\? Or register",
        ),
        (lambda: create_model("resnet18"), "network is 'resnet18'; it must be a simclr_jax.Network: "),
        (lambda: create_encoder("resnet18", pool="valid"), "unknown pool 'valid'; choose one of: same, symmetric"),
        (
            lambda: create_encoder("resnet18", normalize="me"),
            "unknown normalization 'me'; choose one of: none, imagenet, cifar1",
        ),
        (lambda: create_encoder("resnet18", dtype="bf16"), "unknown dtype 'bf16'; choose one of: float32, bfloat16"),
        (lambda: create_encoder("resnet18", width=0), "width 0 must be at least 1"),
        (lambda: create_encoder("resnet50", sk_ratio=1.5), r"sk_ratio 1.5 must be 0 \(off\) to 1"),
        (lambda: create_encoder("resnet50", se_ratio=-0.1), r"se_ratio -0.1 must be 0 \(off\) to 1"),
        (
            lambda: create_encoder("resnet_tiny", sk_ratio=0.5, norm="group"),
            "sk_ratio 0.5 makes layers of 8 channels, which are not divisible by the 16 channels of a norm's group",
        ),
        (lambda: Head(kind="mlp"), "unknown head kind 'mlp'; choose one of: nonlinear, linear, none"),
        (lambda: Network(dtype="float16"), "unknown dtype 'float16'; choose one of: .*did you mean 'bfloat16'"),
        (lambda: Head(layers=0), "head layers 0 must be at least 1"),
        (lambda: Head(dim=0), "head dim 0 must be at least 1"),
        (lambda: Network(width=17), "width 17 must be at most 16: the widest in the papers has 4"),
        (lambda: Head(layers=17), "head layers 17 must be at most 16: the papers use 2 and 3"),
        (lambda: Head(hidden_dim=-1), "head hidden_dim -1 must be 0"),
        (lambda: Head(hidden_dim=10**6), "head hidden_dim 1000000 must be at most 65,536"),
        (
            lambda: Head("linear", hidden_dim=64),
            "head hidden_dim 64 has no effect with kind 'linear', which has no middle",
        ),
        (lambda: Head("none", hidden_dim=64), "head hidden_dim 64 has no effect with kind 'none'"),
        (
            lambda: Head(layers=1, hidden_dim=64),
            "head hidden_dim 64 has no effect with layers 1, .*; leave it 0, or use a",
        ),
        (lambda: Head("none", norm=False), "head norm False has no effect with kind 'none'; leave it True"),
        (lambda: Network(norm="group", head=Head(hidden_dim=100)), "head hidden_dim 100 is not .*; use 96 or 112"),
        (lambda: Network(norm="group", view_batch_norm=True), "view_batch_norm True has no effect with norm 'group'"),
        (lambda: create_encoder("resnet18", view_batch_norm=True), "view_batch_norm=True has no effect on an encoder"),
        (lambda: Head(dim=10**6), "head dim 1000000 must be at most 65,536"),
    ],
)
def test_refuses_what_it_cannot_build(build, message):
    with pytest.raises(ValueError, match=message) as error:
        build()
    assert "\n" not in str(error.value)
