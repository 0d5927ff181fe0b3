"""The model that is pretrained: an encoder and the head on top of it."""

import flax.linen as nn
import jax

from simclr_jax.models.encoders import encoder_of
from simclr_jax.models.heads import ProjectionHead
from simclr_jax.models.network import Network


class SimCLR(nn.Module):
    """Images to the layers of the head; parameters and statistics live under "encoder" and "head".

    Attributes:
      encoder: a `ResNet`, a `ViT` or a `ConvNeXt`.
      head: a `ProjectionHead`.
      view_batch_norm: whether training passes each of the two views by itself, see `Network`.
    """

    encoder: nn.Module
    head: nn.Module
    view_batch_norm: bool = False

    def __call__(self, images: jax.Array, train: bool) -> list[jax.Array]:
        """Returns `[h, ..., z]`, each float32 `[B, features]`, for images `[B, H, W, C]`, float in [0, 1]."""
        return self.head(self.encoder(images, train), train)


def create_model(network: Network, *, axis_name: str | None = None) -> SimCLR:
    """Builds the model, encoder and projection head, that a `Network` describes.

    Args:
      network: the settings of encoder and projection head.
      axis_name: mapped axis over whose devices BatchNorm computes statistics; None = each device on its own.

    Raises:
      ValueError: it is not a `Network`, or nothing of it is trained.
    """
    if not isinstance(network, Network):
        raise ValueError(f"network is {network!r}; it must be a simclr_jax.Network: Network(encoder='resnet18')")
    encoder = encoder_of(network, axis_name=axis_name)
    if network.freeze and encoder.frozen == encoder.parts and not network.head.depth:
        raise ValueError(
            f"model.freeze={network.freeze} freezes the whole encoder, and head.kind=none leaves nothing else to "
            "train; freeze fewer parts"
        )
    return SimCLR(encoder, ProjectionHead(network, axis_name), network.view_batch_norm)
