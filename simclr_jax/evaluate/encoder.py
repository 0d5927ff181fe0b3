"""From a run to an encoder that turns images into features."""

import numpy as np

from simclr_jax.evaluate.features import Encode, encode_padded
from simclr_jax.evaluate.trained_network import open_run


class Encoder:
    """A frozen encoder: images in, features out.

    Attributes:
      feature_dim: length of a feature vector.
      image_size: side of the views it was pretrained on, pixels. Other sizes work, further away works worse.
    """

    def __init__(self, encode: Encode, *, feature_dim: int, image_size: int, batch_size: int = 256):
        self.feature_dim = feature_dim
        self.image_size = image_size
        self._encode = encode
        self._batch_size = batch_size

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Returns float32 features [batch, feature_dim].

        Args:
          images: [batch, height, width, 3], uint8, or float in [0, 1].

        Raises:
          ValueError: another shape, or floats outside [0, 1].
        """
        images = np.asarray(images)
        if images.ndim != 4 or images.shape[-1] != 3:
            raise ValueError(f"images have the shape {list(images.shape)}; it must be [batch, height, width, 3]")
        if images.dtype == np.uint8:
            images = images.astype(np.float32) / 255
        else:
            low, high = (float(images.min()), float(images.max())) if images.size else (0.0, 0.0)
            if not np.issubdtype(images.dtype, np.floating) or not (low >= 0 and high <= 1):
                given = f"images are {images.dtype} from {low:g} to {high:g}"
                raise ValueError(f"{given}; they must be uint8, or float in [0, 1]")
            images = images.astype(np.float32)
        # A few images are filled up to the next power of two: one photo is one pass, and few sizes are compiled.
        size = min(self._batch_size, 1 << max(0, len(images) - 1).bit_length())
        parts = [encode_padded(self._encode, images[i : i + size], size) for i in range(0, len(images), size)]
        return np.concatenate(parts) if parts else np.zeros((0, self.feature_dim), np.float32)


def load_encoder(run_or_checkpoint: str, step: int | None = None) -> Encoder:
    """Loads a pretrained encoder, frozen, with BatchNorm in evaluation mode.

    Args:
      run_or_checkpoint: RUN, the workdir of a pretraining run, or RUN/checkpoints/STEP.
      step: which checkpoint of RUN; None = the newest.

    Returns:
      A function from images [batch, height, width, 3], uint8 or float in [0, 1], to NumPy features
      h [batch, feature_dim].

    Raises:
      ValueError: there is no run, no such checkpoint, or one of them cannot be read or does not fit the other.

    Example:
      >>> encoder = simclr_jax.load_encoder("runs/quickstart")
      >>> features = encoder(images)
    """
    network = open_run(run_or_checkpoint, step)
    return Encoder(network.encode(0), feature_dim=network.model.encoder.feature_dim, image_size=network.image_size)
