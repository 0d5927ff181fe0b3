"""Projection heads: representations h to the vectors z that the loss compares.

A head returns all its layers, because which of them a probe reads is a question the second paper asks.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from simclr_jax.models.network import Network
from simclr_jax.models.norms import norm_layer

_DENSE_INIT = nn.initializers.normal(0.01)  # Google's code


class ProjectionHead(nn.Module):
    """An MLP, by default with normalisation, which is thrown away after pretraining.

    Middle layers, of the width of h or of `head.hidden_dim`, end in a norm and ReLU; the last has `dim` outputs and a
    norm without offset. No dense layer has a bias. Without `head.norm` all dense layers have one, and no norm.

    Attributes:
      network: what it is the head of; its section `head`, its dtype and its norm are read. Parameters, statistics and
        outputs stay float32 whatever the dtype.
      axis_name: mapped axis over whose devices BatchNorm takes its statistics; None for each device alone.

    Reference:
      Chen et al. 2020, section 4.2; Chen et al. 2020b (arXiv 2006.10029), section 3.2, for 3 layers.
    """

    network: Network
    axis_name: str | None = None

    @property
    def depth(self) -> int:
        """Number of layers after h; 0 for kind "none"."""
        return self.network.head.depth

    @nn.compact
    def __call__(self, h: jax.Array, train: bool, upto: int | None = None) -> list[jax.Array]:
        """The layers of the head, so that a probe may read any of them.

        Args:
          h: representations, float32 `[B, feature_dim]`.
          train: True normalises by the batch and moves the running statistics, False uses the running ones.
          upto: the last layer that is computed; None = z.

        Returns:
          `[h, layer 1 after ReLU, ..., z]`, all float32, z `[B, dim]`; only `[h]` if the kind is "none".
        """
        head, norm = self.network.head, norm_layer(self.network.norm, train=train, axis_name=self.axis_name)
        hiddens = [h]
        for layer in range(1, (self.depth if upto is None else upto) + 1):
            last = layer == self.depth
            features = head.dim if last else head.hidden_dim or h.shape[-1]
            x = nn.Dense(
                features,
                use_bias=not head.norm,
                kernel_init=_DENSE_INIT,
                dtype=jnp.dtype(self.network.dtype),
                name=f"dense{layer}",
            )(hiddens[-1])
            if head.norm:
                # It returns float32: it computes in it anyway, and z would be rounded to bfloat16 for nothing.
                x = norm(use_bias=not last, dtype=jnp.float32, name=f"norm{layer}")(x)
            x = x.astype(jnp.float32)
            hiddens.append(x if last else nn.relu(x))
        return hiddens
