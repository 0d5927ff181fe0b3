"""Projection heads: representations h to the vectors z that the loss compares.

A head returns all its layers, because which of them a probe reads is a question the second paper asks.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from simclr_jax.models.norms import GROUP_SIZE, NORMS, norm_layer
from simclr_jax.models.resnet import DTYPES, check_known

HEAD_KINDS = ("nonlinear", "linear", "none")

_DENSE_INIT = nn.initializers.normal(0.01)  # Google's code


class ProjectionHead(nn.Module):
    """An MLP with normalisation, of which the layer before the loss is thrown away after pretraining.

    Middle layers keep the width of h and end in a norm and ReLU; the last has `dim` outputs and a norm without
    offset. No dense layer has a bias.

    Attributes:
      kind: "nonlinear", "linear" (one layer, whatever `layers` says) or "none" (the loss sees h itself).
      layers: dense layers of a nonlinear head: 2 in the first paper, 3 in the second.
      dim: length of z.
      dtype: "float32" or "bfloat16", of the matrix products. Parameters, statistics and outputs stay float32.
      axis_name: mapped axis over whose devices BatchNorm takes its statistics; None for each device alone.
      norm: "batch" or "group", see `norms`.

    Raises:
      ValueError: on construction, if a name is unknown, a number below 1, or `dim` no multiple of a group's size.

    Reference:
      Chen et al. 2020, section 4.2; Chen et al. 2020b (arXiv 2006.10029), section 3.2, for 3 layers.
    """

    kind: str = "nonlinear"
    layers: int = 2
    dim: int = 128
    dtype: str = "float32"
    axis_name: str | None = None
    norm: str = "batch"

    def __post_init__(self):
        check_known("head kind", self.kind, HEAD_KINDS)
        check_known("dtype", self.dtype, DTYPES)
        check_known("norm", self.norm, NORMS)
        for name, least in (("layers", self.layers), ("dim", self.dim)):
            if least < 1:
                raise ValueError(f"head {name} {least} must be at least 1; kind 'none' turns the head off")
        if self.norm == "group" and self.kind != "none":
            _check_groups(self.dim)
        super().__post_init__()

    @property
    def depth(self) -> int:
        """Number of layers after h; 0 for kind "none"."""
        return {"nonlinear": self.layers, "linear": 1, "none": 0}[self.kind]

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
        hiddens = [h]
        for layer in range(1, (self.depth if upto is None else upto) + 1):
            last = layer == self.depth
            features = self.dim if last else h.shape[-1]
            hiddens.append(self._layer(hiddens[-1], layer, features, last, train))
        return hiddens

    def _layer(self, x, layer, features, last, train):
        x = nn.Dense(
            features,
            use_bias=False,
            kernel_init=_DENSE_INIT,
            dtype=DTYPES[self.dtype],
            name=f"dense{layer}",
        )(x)
        # The norm returns float32: it computes in it anyway, and z would be rounded to bfloat16 for nothing.
        norm = norm_layer(self.norm, train=train, axis_name=self.axis_name)
        x = norm(use_bias=not last, dtype=jnp.float32, name=f"norm{layer}")(x)
        return x if last else nn.relu(x)


def _check_groups(dim):
    below, above = dim // GROUP_SIZE * GROUP_SIZE, -(-dim // GROUP_SIZE) * GROUP_SIZE
    if dim != below:
        near = f"{below} or {above}" if below else f"{above}"
        raise ValueError(f"head dim {dim} is not divisible by the {GROUP_SIZE} channels of a norm's group; use {near}")
