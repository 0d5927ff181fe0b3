"""The model that is pretrained: an encoder and the head on top of it."""

import flax.linen as nn
import jax

from simclr_jax.models.heads import ProjectionHead
from simclr_jax.models.resnet import create_encoder


class SimCLR(nn.Module):
    """Images to the layers of the head; parameters and statistics live under "encoder" and "head".

    Attributes:
      encoder: from `create_encoder`.
      head: a `ProjectionHead`.
    """

    encoder: nn.Module
    head: nn.Module

    def __call__(self, images: jax.Array, train: bool) -> list[jax.Array]:
        """Returns `[h, ..., z]`, each float32 `[B, features]`, for images `[B, H, W, 3]`, float in [0, 1]."""
        return self.head(self.encoder(images, train), train)


def create_model(
    *,
    encoder: str,
    width: int,
    cifar_stem: bool,
    dtype: str,
    head_kind: str,
    head_layers: int,
    head_dim: int,
    sk_ratio: float = 0.0,
    se_ratio: float = 0.0,
    pool: str = "same",
    normalize: str = "none",
    norm: str = "batch",
    remat: bool = False,
    axis_name: str | None = None,
) -> SimCLR:
    """Returns the model that these settings describe.

    Args:
      encoder, width, cifar_stem: see `create_encoder`.
      dtype: of the computation, for both.
      head_kind, head_layers, head_dim: see `ProjectionHead`.
      sk_ratio, se_ratio, pool, normalize: see `create_encoder`.
      norm: of both, see `norms`.
      remat: see `create_encoder`.
      axis_name: mapped axis over whose devices BatchNorm takes its statistics; None for each device alone.

    Raises:
      ValueError: a setting is unknown or out of range.
    """
    return SimCLR(
        encoder=create_encoder(
            encoder,
            width=width,
            cifar_stem=cifar_stem,
            sk_ratio=sk_ratio,
            se_ratio=se_ratio,
            pool=pool,
            normalize=normalize,
            norm=norm,
            dtype=dtype,
            remat=remat,
            axis_name=axis_name,
        ),
        head=ProjectionHead(head_kind, head_layers, head_dim, dtype, axis_name, norm),
    )
