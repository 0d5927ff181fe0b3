"""How large encoders and their h are, beside what was published. Nothing is allocated."""

import functools

import jax
import jax.numpy as jnp
import pytest

from simclr_jax.models import create_encoder


def count_parameters(name, **keywords):
    module = create_encoder(name, **keywords)
    shapes = jax.eval_shape(functools.partial(module.init, train=False), jax.random.key(0), jnp.ones((1, 32, 32, 3)))
    return sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))


@pytest.mark.parametrize(
    ("name", "width", "cifar_stem", "parameters"),
    [
        # Counted in Google's code.
        ("resnet18", 1, False, 11_180_736),
        ("resnet18", 1, True, 11_173_056),
        ("resnet50", 1, False, 23_508_032),
        ("resnet50", 1, True, 23_500_352),
        ("resnet50", 2, False, 93_907_072),
        ("resnet50", 4, False, 375_378_176),
        # torchvision's (200: timm's) less its classifier; the 34 has a projection more, 64·64 + 2·64.
        ("resnet34", 1, False, 21_797_672 - 513_000 + 4_224),
        ("resnet101", 1, False, 44_549_160 - 2_049_000),
        ("resnet152", 1, False, 60_192_808 - 2_049_000),
        ("resnet200", 1, False, 64_673_832 - 2_049_000),
    ],
)
def test_parameter_counts_are_the_published_ones(name, width, cifar_stem, parameters):
    assert count_parameters(name, width=width, cifar_stem=cifar_stem) == parameters


def test_parameters_of_selective_kernels_are_googles():
    assert count_parameters("resnet50", sk_ratio=0.0625) == 35_215_584


@pytest.mark.parametrize(
    ("depth", "width", "sk_ratio", "millions"),
    [(50, 2, 0.0625, 140), (101, 2, 0.0625, 257), (152, 3, 0.0625, 795)],  # Chen et al. 2020b, table 1
)
def test_parameters_of_the_second_paper(depth, width, sk_ratio, millions):
    assert abs(count_parameters(f"resnet{depth}", width=width, sk_ratio=sk_ratio) / 1e6 - millions) < 1


@pytest.mark.parametrize(
    ("name", "width", "feature_dim"),
    [("resnet_tiny", 1, 64), ("resnet_tiny", 3, 192), ("resnet34", 1, 512), ("resnet50", 1, 2048)],
)
@pytest.mark.parametrize("cifar_stem", (True, False))
def test_feature_dim_is_the_length_of_h(name, width, feature_dim, cifar_stem):
    module = create_encoder(name, width=width, cifar_stem=cifar_stem)
    h, _ = jax.eval_shape(
        functools.partial(module.init_with_output, train=False), jax.random.key(0), jnp.ones((3, 16, 16, 3))
    )
    assert h.shape == (3, feature_dim) and module.feature_dim == feature_dim
