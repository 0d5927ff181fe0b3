"""Vision transformers: images to representations h, with timm's layers.

An image is cut into patches, each of which becomes a token; a class token joins them, and every block lets each token
look at all others. h is the mean of the patches' tokens, or the class token.
"""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from simclr_jax.models.architectures import ViTArchitecture
from simclr_jax.models.images import normalized
from simclr_jax.models.network import Network
from simclr_jax.models.parts import NORM, stopped
from simclr_jax.models.patches import PatchProjection

LAYER_NORM_EPSILON = 1e-6  # timm's
_INIT = nn.initializers.truncated_normal(0.02)  # timm's, of dense layers and positions
# Of the patches' projection as one matrix, uniform: Chen et al. 2021 ("MoCo v3"), in their code.
_PATCH_INIT = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform")
_SLOWEST = 10_000.0  # of the sines and cosines; Vaswani et al. 2017, section 3.5


class Attention(nn.Module):
    """Each token becomes a mean of all, weighed by how its query fits their keys; Vaswani et al. 2017, section 3.2."""

    heads: int
    dense: Callable

    @nn.compact
    def __call__(self, x):
        """`[B, tokens, width]` to the same."""
        *leading, width = x.shape
        qkv = self.dense(3 * width, name="qkv")(x).reshape(*leading, 3, self.heads, width // self.heads)
        query, key, value = (qkv[..., part, :, :] for part in range(3))
        return self.dense(width, name="out")(jax.nn.dot_product_attention(query, key, value).reshape(x.shape))


class Block(nn.Module):
    """Attention and an MLP of one hidden layer, each behind a norm and beside a shortcut."""

    heads: int
    dense: Callable
    norm: Callable

    @nn.compact
    def __call__(self, x):
        """`[B, tokens, width]` to the same."""
        width = x.shape[-1]
        x = x + Attention(self.heads, self.dense, name="attention")(self.norm(name="norm1")(x))
        y = self.dense(4 * width, name="fc1")(self.norm(name="norm2")(x))
        return x + self.dense(width, name="fc2")(nn.gelu(y, approximate=False))


class ViT(nn.Module):
    """A vision transformer without its classifier.

    Attributes:
      architecture: of `ENCODERS`, or another one.
      network: how it is built; see there for each setting. Its head is not part of this module.
      axis_name: is not used: LayerNorm normalises each token by itself.
      frozen: the first of `parts`: they get no gradient.

    Reference:
      Dosovitskiy et al. 2021, "An Image is Worth 16x16 Words"; Chen et al. 2021, "An Empirical Study of Training
      Self-Supervised Vision Transformers" (MoCo v3), for fixed positions and a projection of patches that stays random.
    """

    architecture: ViTArchitecture
    network: Network
    axis_name: str | None = None
    frozen: tuple[str, ...] = ()

    @property
    def parts(self) -> tuple[str, ...]:
        """What images pass one after another: "stem", "block1", …, "norm"."""
        return ("stem", *(f"block{index}" for index in range(1, self.architecture.blocks + 1)), "norm")

    @property
    def feature_dim(self) -> int:
        """Length of a representation h."""
        return self.architecture.width

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        """Representations of a batch.

        Args:
          images: `[B, H, W, C]`, float in [0, 1]; sides are multiples of a patch's.
          train: changes nothing: there is neither BatchNorm nor dropout.

        Returns:
          h, float32 `[B, feature_dim]`.

        Raises:
          ValueError: the images are not float `[B, H, W, C]`, or are not cut into whole patches.
        """
        network, width = self.network, self.architecture.width
        dtype, side = jnp.dtype(network.dtype), network.patch
        dense = functools.partial(nn.Dense, kernel_init=_INIT, dtype=dtype)
        norm = functools.partial(nn.LayerNorm, epsilon=LAYER_NORM_EPSILON, use_fast_variance=False)
        x = normalized(images, network).astype(dtype)
        if x.shape[1] % side or x.shape[2] % side or 0 in x.shape[1:3]:
            raise ValueError(f"images of {x.shape[1]} × {x.shape[2]} pixels are not cut into whole patches of {side}")

        x = PatchProjection(width, side, _patch_init, dtype, name="stem_conv")(x)
        if network.freeze_patch_projection:
            x = jax.lax.stop_gradient(x)
        rows, columns = x.shape[1:3]
        tokens = x.reshape(x.shape[0], rows * columns, width)
        class_token = self.param("stem_class_token", nn.initializers.normal(1e-6), (1, 1, width))
        tokens = jnp.concatenate([jnp.broadcast_to(class_token, (x.shape[0], 1, width)).astype(dtype), tokens], axis=1)
        tokens = stopped(tokens + self._positions(rows, columns).astype(dtype), "stem", self.frozen)
        block = nn.remat(Block) if network.remat else Block
        for index in range(1, self.architecture.blocks + 1):
            name = f"block{index}"
            tokens = block(self.architecture.heads, dense, functools.partial(norm, dtype=dtype), name=name)(tokens)
            tokens = stopped(tokens, name, self.frozen)
        # In float32: a bfloat16 sum over the tokens would lose the low bits that the average is made of.
        tokens = tokens.astype(jnp.float32)
        h = tokens[:, 0] if network.global_pool == "token" else jnp.mean(tokens[:, 1:], axis=1)
        return stopped(norm(dtype=jnp.float32, name=NORM)(h), NORM, self.frozen)

    def _positions(self, rows, columns):
        """[1, 1 + rows · columns, width], the class token's first."""
        if self.network.positions == "sincos":
            return jnp.asarray(fixed_positions(rows, columns, self.architecture.width))
        shape = (1, 1 + rows * columns, self.architecture.width)
        if self.has_variable("params", "stem_positions"):  # images may have another size than those of the training
            return resized_positions(self.get_variable("params", "stem_positions"), rows, columns)
        return self.param("stem_positions", _INIT, shape)


def _patch_init(key, shape, dtype):
    rows, columns, channels, width = shape
    return _PATCH_INIT(key, (rows * columns * channels, width), dtype).reshape(shape)


def fixed_positions(rows: int, columns: int, width: int) -> np.ndarray:
    """Returns positions that are not learned, float32 [1, 1 + rows · columns, width]: zeros for the class token.

    A quarter of a token's numbers are sines of its row, at wavelengths that rise to 10,000, a quarter cosines; the
    others are those of its column. As in MoCo v3's code.
    """
    rates = _SLOWEST ** -(np.arange(width // 4) / (width // 4))
    row, column = (place.reshape(-1, 1) * rates for place in np.mgrid[:rows, :columns])
    found = np.concatenate([np.sin(row), np.cos(row), np.sin(column), np.cos(column)], axis=1)
    return np.concatenate([np.zeros((1, width)), found])[None].astype(np.float32)


def resized_positions(positions: jax.Array, rows: int, columns: int) -> jax.Array:
    """Returns learned positions [1, 1 + side², width] for another grid, bicubic with antialias as timm does."""
    side = round((positions.shape[1] - 1) ** 0.5)
    if (rows, columns) == (side, side):
        return positions
    grid = positions[:, 1:].reshape(1, side, side, -1)
    grid = jax.image.resize(grid, (1, rows, columns, grid.shape[-1]), "cubic")
    return jnp.concatenate([positions[:, :1], grid.reshape(1, rows * columns, -1)], axis=1)
