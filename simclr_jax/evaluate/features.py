"""Features of a frozen encoder, computed once."""

from collections.abc import Callable, Iterable, Iterator

import numpy as np

Encode = Callable[[np.ndarray], np.ndarray]  # float32 images [n, H, W, 3] in [0, 1] → float32 features [n, dim]


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
        images = as_unit_floats(images)
        # A few images are filled up to the next power of two: one photo is one pass, and few sizes are compiled.
        size = min(self._batch_size, 1 << max(0, len(images) - 1).bit_length())
        parts = [encode_padded(self._encode, images[i : i + size], size) for i in range(0, len(images), size)]
        return np.concatenate(parts) if parts else np.zeros((0, self.feature_dim), np.float32)


def extract(
    networks: dict[str, Encode], batches: Iterable[dict[str, np.ndarray]], batch_size: int
) -> Iterator[tuple[dict[str, np.ndarray], dict[str, np.ndarray]]]:
    """Computes the features that several networks give to a whole split, in one pass over its images.

    Args:
      networks: by name.
      batches: {"images", …} in batches of at most ``batch_size``.
      batch_size: every call of a network gets this many images, so that it is compiled once.

    Yields:
      Each batch, and {name: float32 features [n, dim]} of it.

    Raises:
      ValueError: features that are not finite.
    """
    done = 0
    for batch in batches:
        made = {name: encode_padded(encode, batch["images"], batch_size) for name, encode in networks.items()}
        done += len(batch["images"])
        for name, features in made.items():
            if bad := int((~np.isfinite(features).all(1)).sum()):
                raise ValueError(
                    f"{bad} of the first {done:,} images have features that are not finite, of the {name} encoder; "
                    "choose an earlier checkpoint: --config.step=…"
                )
        yield batch, made


def encode_padded(encode: Encode, images: np.ndarray, batch_size: int) -> np.ndarray:
    """Encodes up to ``batch_size`` images in a batch of exactly that size."""
    missing = batch_size - len(images)
    padded = np.pad(images, [(0, missing), (0, 0), (0, 0), (0, 0)]) if missing else images
    return encode(padded)[: len(images)]


def as_unit_floats(images: np.ndarray) -> np.ndarray:
    """Returns float32 images in [0, 1]; see :class:`Encoder` for what is raised."""
    images = np.asarray(images)
    if images.ndim != 4 or images.shape[-1] != 3:
        raise ValueError(f"images have the shape {list(images.shape)}; it must be [batch, height, width, 3]")
    if images.dtype == np.uint8:
        return images.astype(np.float32) / 255
    low, high = (float(images.min()), float(images.max())) if images.size else (0.0, 0.0)
    if not np.issubdtype(images.dtype, np.floating) or not (low >= 0 and high <= 1):
        raise ValueError(f"images are {images.dtype} from {low:g} to {high:g}; they must be uint8, or float in [0, 1]")
    return images.astype(np.float32)
