"""What every encoder does with images first: asks whether they are such, and normalises their channels."""

import jax
import jax.numpy as jnp

from simclr_jax.models.network import Network


def normalized(images: jax.Array, network: Network) -> jax.Array:
    """Returns images as an encoder's first layer takes them: each channel less its mean, over its deviation.

    Args:
      images: `[B, H, W, C]`, float in [0, 1].
      network: of C channels; says by what they are normalised.

    Raises:
      ValueError: they are not float `[B, H, W, C]`.
    """
    channels = network.channels
    if images.ndim != 4 or images.shape[-1] != channels or not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(
            f"images {images.dtype} {list(images.shape)} must be float [batch, height, width, {channels}] in [0, 1]; "
            "divide uint8 images by 255"
        )
    if network.normalize == "none":
        return images
    mean, deviation = (jnp.asarray(of_channel, images.dtype) for of_channel in network.mean_and_deviation())
    return (images - mean) / deviation
