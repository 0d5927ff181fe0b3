"""What every encoder does with images first: asks whether they are such, and normalises their colours."""

import jax
import jax.numpy as jnp

from simclr_jax.models.network import NORMALIZATIONS


def normalized(images: jax.Array, normalization: str) -> jax.Array:
    """Returns images as an encoder's first layer takes them.

    Args:
      images: `[B, H, W, 3]`, float in [0, 1].
      normalization: a key of `NORMALIZATIONS`, whose mean is subtracted and by whose deviation they are divided.

    Raises:
      ValueError: they are not float `[B, H, W, 3]`.
    """
    if images.ndim != 4 or images.shape[-1] != 3 or not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(
            f"images {images.dtype} {list(images.shape)} must be float [batch, height, width, 3] in [0, 1]; "
            "divide uint8 images by 255"
        )
    if normalization == "none":
        return images
    mean, deviation = (jnp.asarray(of_colour, images.dtype) for of_colour in NORMALIZATIONS[normalization])
    return (images - mean) / deviation
