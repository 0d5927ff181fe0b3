"""Encoders as StableHLO, by jax.export: a file that jax runs on CPUs, GPUs and TPUs, without this library.

Convolutions that `models.cpu_convolution` writes for a CPU differ from jax's only where they are differentiated, or
where an image has fewer pixels than the kernel has taps: nothing of the machine that exports is in the file, and where
there are several ways, the file has the choice.
"""

import pathlib
from typing import Any

import jax
import jax.numpy as jnp
from jax import export

from simclr_jax.models import Encoder

PLATFORMS = ("cpu", "cuda", "tpu")


def save(path: str, encoder: Encoder, variables: dict[str, Any], *, image_size: int) -> None:
    """Writes images → h as a program with its weights in it, BatchNorm in evaluation mode, for any number of images.

    Args:
      path: the file.
      encoder: computes in its own dtype, as it does here.
      variables: {"params", "batch_stats"}.
      image_size: side of the images, pixels; the program takes float32 [batch, image_size, image_size, C] in [0, 1].
    """
    (batch,) = export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((batch, image_size, image_size, encoder.network.channels), jnp.float32)

    def h(images):
        return encoder.apply(variables, images, train=False)

    exported = export.export(jax.jit(h), platforms=PLATFORMS)(images)
    pathlib.Path(path).write_bytes(exported.serialize())
