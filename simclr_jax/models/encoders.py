"""From a network's description to its encoder."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn

from simclr_jax.models import own, parts
from simclr_jax.models.architectures import REGISTERED
from simclr_jax.models.convnext import ConvNeXt
from simclr_jax.models.network import Network
from simclr_jax.models.own import OwnEncoder
from simclr_jax.models.resnet import ResNet
from simclr_jax.models.vit import ViT

Encoder = ResNet | ViT | ConvNeXt | OwnEncoder
_FAMILIES: dict[str, type[Encoder]] = {"ResNet": ResNet, "ViT": ViT, "ConvNeXt": ConvNeXt, "own": OwnEncoder}


def register_encoder(name: str, factory: Callable[..., Any]) -> None:
    """Makes an encoder of your own known by a name that `config.model.encoder` may hold.

    Whatever opens a run of it needs it registered too: from Python by this call, on the command line by
    --import=FILE.py, a file that makes this call. One that is defined and registered again, as by a notebook's cell
    that is run again, replaces the first.

    Args:
      name: a word of letters, digits, _ and -, such as "my_net".
      factory: called as ``factory(dtype=…, axis_name=…)``; returns a `flax.linen.Module` (an NNX class becomes one by
        `flax.nnx.bridge.to_linen`). dtype is float32 or bfloat16, as model.dtype; axis_name is the mapped axis over
        whose devices BatchNorm takes its statistics in training, None = each device on its own.

        The module is called as ``module(images, train=…)`` with float32 images `[B, H, W, C]` in [0, 1], normalised
        where model.normalize asks for it, and returns representations h, float `[B, d]`; d may depend on H and W.
        Parameters named "kernel" get weight decay, see optimizer.exclude. Whatever else it keeps, in "batch_stats" or
        other collections, must be float, and is carried as running statistics are: changed in training alone, averaged
        over devices, saved. It is given no random numbers after its parameters are made: no dropout.

    Raises:
      ValueError: the name is not such a word, is one of the library's, or that of another function; or the factory
        cannot be called. Whether the module keeps this contract is checked when it is first used.

    Example:
      >>> class MyNet(nn.Module):
      ...     @nn.compact
      ...     def __call__(self, images, train):
      ...         x = nn.relu(nn.Conv(64, (3, 3), strides=2)(images))
      ...         return x.mean((1, 2))
      >>> simclr_jax.register_encoder("my_net", lambda dtype, axis_name: MyNet())
      >>> config = simclr_jax.load_config("cifar10", {"model.encoder": "my_net"})
    """
    REGISTERED.register(name, factory)


def encoder_of(network: Network, *, axis_name: str | None = None) -> Encoder:
    """Builds the encoder that a `Network` describes; see `create_encoder`."""
    architecture = network.architecture
    encoder = _FAMILIES[architecture.family](architecture, network, axis_name)
    return encoder.clone(frozen=parts.first(encoder, network.freeze)) if network.freeze else encoder


def feature_dim(encoder: nn.Module, image_size: int) -> int:
    """Returns the length of a representation h of images of a size, pixels, on which that of others may depend.

    Raises:
      ValueError: a registered encoder cannot be used with such images.
    """
    return own.feature_dim(encoder, image_size) if isinstance(encoder, OwnEncoder) else int(encoder.feature_dim)


def check_encoder(encoder: nn.Module, image_size: int) -> None:
    """Traces a registered encoder in training and evaluation, for images of a size, pixels; does nothing with others.

    Raises:
      ValueError: it breaks the contract of `register_encoder`.
    """
    if isinstance(encoder, OwnEncoder):
        own.check(encoder, image_size)


def create_encoder(name: str, *, axis_name: str | None = None, **keys: Any) -> Encoder:
    """Builds an encoder by name.

    Args:
      name: a key of `ENCODERS`: "resnet18" to "resnet200", "resnet_tiny", "vit_tiny" to "vit_large", "convnext_atto" to
        "convnext_xlarge"; or a name of `register_encoder`.
      axis_name: mapped axis over whose devices BatchNorm computes statistics; None = each device on its own.
      **keys: keys of the config's section `model`, such as cifar_stem=True or patch_size=4. See `Network`.

    Returns:
      A flax module: `variables = m.init(key, images, train=False)` and `m.apply(variables, images, train=False)`
      gives representations h, float32 `[B, m.feature_dim]`, for images `[B, H, W, C]`, float in [0, 1].

    Raises:
      ValueError: a name is unknown, a number is out of range, a key does not apply to this encoder, or channels are not
        divisible into a norm's groups.

    Example:
      >>> encoder = create_encoder("resnet18", cifar_stem=True)
    """
    network = Network(encoder=name, **keys)
    if network.view_batch_norm:
        raise ValueError("view_batch_norm=True has no effect on an encoder, which knows no views; leave it out")
    return encoder_of(network, axis_name=axis_name)
