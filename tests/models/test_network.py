"""What describes a network is declared once: the config, the encoder's arguments and the bounds agree with it."""

import pytest

from configs import default
from simclr_jax.models import Head, Network, create_encoder
from simclr_jax.models.network import KEYS


def test_the_default_config_is_the_default_network():
    config = default.get_config()
    assert Network(**config.model, head=Head(**config.head)) == Network()
    assert sorted(KEYS) == sorted([*(f"model.{key}" for key in config.model), *(f"head.{key}" for key in config.head)])


def test_an_encoder_takes_the_keys_of_a_network_and_no_others():
    made = create_encoder("resnet18", width=2, cifar_stem=True, norm="group", dtype="bfloat16", remat=True)
    wanted = Network(encoder="resnet18", width=2, cifar_stem=True, norm="group", dtype="bfloat16", remat=True)
    assert made.network == wanted and create_encoder("resnet50").network == Network()
    with pytest.raises(TypeError, match="widht"):
        create_encoder("resnet18", widht=2)


def test_a_key_without_a_meaning_is_none():
    for key in KEYS:
        section, name = key.split(".")
        assert f"\n      {name}: " in {"model": Network, "head": Head}[section].__doc__, key


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Network(width=17), "width 17 must be at most 16: the papers' widest has 4"),
        (lambda: Head(layers=17), "head layers 17 must be at most 16: the papers have 2 and 3"),
        (lambda: Head(dim=10**6), "head dim 1000000 must be at most 65,536"),
    ],
)
def test_what_nobody_means_is_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()
