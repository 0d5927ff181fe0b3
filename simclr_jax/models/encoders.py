"""From a network's description to its encoder."""

from typing import Any

from simclr_jax.models.convnext import ConvNeXt
from simclr_jax.models.network import Network
from simclr_jax.models.resnet import ResNet
from simclr_jax.models.vit import ViT

Encoder = ResNet | ViT | ConvNeXt
_FAMILIES: dict[str, type[Encoder]] = {"ResNet": ResNet, "ViT": ViT, "ConvNeXt": ConvNeXt}


def encoder_of(network: Network, *, axis_name: str | None = None) -> Encoder:
    """Builds the encoder that a `Network` describes; see `create_encoder`."""
    architecture = network.architecture
    return _FAMILIES[architecture.family](architecture, network, axis_name)


def create_encoder(name: str, *, axis_name: str | None = None, **keys: Any) -> Encoder:
    """Builds an encoder by name.

    Args:
      name: a key of `ENCODERS`: "resnet18" to "resnet200", "resnet_tiny", "vit_tiny" to "vit_large", "convnext_atto" to
        "convnext_xlarge".
      axis_name: mapped axis over whose devices BatchNorm computes statistics; None = each device on its own.
      **keys: keys of the config's section `model`, such as cifar_stem=True or patch_size=4. See `Network`.

    Returns:
      A flax module: `variables = m.init(key, images, train=False)` and `m.apply(variables, images, train=False)`
      gives representations h, float32 `[B, m.feature_dim]`, for images `[B, H, W, 3]`, float in [0, 1].

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
