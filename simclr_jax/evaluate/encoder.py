"""From a run to an encoder that turns images into features."""

import os
from collections.abc import Sequence

import numpy as np
from PIL import Image

from simclr_jax.augment import pillow
from simclr_jax.data import feed
from simclr_jax.data.split import Split
from simclr_jax.data.unreadable import Unreadable
from simclr_jax.evaluate.features import Encode, encode_padded
from simclr_jax.evaluate.trained_network import open_run
from simclr_jax.runtime import run_folder

Images = np.ndarray | Sequence[str | os.PathLike | Image.Image | np.ndarray]


class Encoder:
    """A frozen encoder: images in, features out.

    Attributes:
      feature_dim: length of a feature vector.
      image_size: side of the views it was pretrained on, pixels. Other sizes work, further away works worse.
      bits: bit depth of white in image files of 16 bits that do not declare it, as in its pretraining.
    """

    def __init__(self, encode: Encode, *, feature_dim: int, image_size: int, bits: int = 16, batch_size: int = 256):
        self.feature_dim = feature_dim
        self.image_size = image_size
        self.bits = bits
        self._encode = encode
        self._batch_size = batch_size

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Returns float32 features [batch, feature_dim].

        Args:
          images: [batch, height, width, 3], uint8, or float in [0, 1]; see `preprocess` for photos of any size.

        Raises:
          ValueError: another shape, or floats outside [0, 1].
        """
        images = np.asarray(images)
        if images.ndim != 4 or images.shape[-1] != 3:
            raise ValueError(f"images have shape {list(images.shape)}; it must be [batch, height, width, 3]")
        if images.dtype == np.uint8:
            images = images.astype(np.float32) / 255
        else:
            low, high = (float(images.min()), float(images.max())) if images.size else (0.0, 0.0)
            if not np.issubdtype(images.dtype, np.floating) or not (low >= 0 and high <= 1):
                given = f"images are {images.dtype} from {low:g} to {high:g}"
                raise ValueError(f"{given}; they must be uint8, or float between 0 and 1")
            images = images.astype(np.float32)
        # A few images are filled up to the next power of two: one photo is one pass, and few sizes are compiled.
        size = min(self._batch_size, 1 << max(0, len(images) - 1).bit_length())
        parts = [encode_padded(self._encode, images[i : i + size], size) for i in range(0, len(images), size)]
        return np.concatenate(parts) if parts else np.zeros((0, self.feature_dim), np.float32)

    def preprocess(self, images: "Images | str | os.PathLike | Image.Image") -> np.ndarray:
        """Makes of photos what the probes and the command ``features`` give to the network: upright, opaque, the
        central square, resized (bicubic with antialias).

        Files are read as there, to the same bits, and need TensorFlow. Arrays and Pillow's images do not: of a batch of
        one size they are resized as ``npz:`` sets are, of others to 1e-4 of that.

        Args:
          images: paths, images of Pillow or uint8 arrays [height, width, 3], of any sizes; one of these alone; or a
            batch, uint8 [batch, height, width, 3].

        Returns:
          float32 [batch, image_size, image_size, 3] in [0, 1], for a call of the encoder.

        Raises:
          ValueError: a file that cannot be read, or something else than these.

        Example:
          >>> features = encoder(encoder.preprocess(["cat.jpg", "dog.png"]))
        """
        if isinstance(images, np.ndarray) and images.ndim == 4:
            return self._views_of_batch(_checked(images, 4))
        several = [images] if isinstance(images, str | os.PathLike | Image.Image | np.ndarray) else list(images)
        made = np.zeros((len(several), self.image_size, self.image_size, 3), np.float32)
        paths = {place: image for place, image in enumerate(several) if isinstance(image, str | os.PathLike)}
        if paths:
            made[list(paths)] = self._views_of_files([os.fsencode(path) for path in paths.values()])
        for place, image in enumerate(several):
            if place not in paths:
                is_pillows = isinstance(image, Image.Image)
                pixels = pillow.pixels(image, self.bits) if is_pillows else _checked(np.asarray(image), 3)
                made[place] = feed.central_view(pixels, self.image_size)
        return made

    def _views_of_batch(self, images: np.ndarray) -> np.ndarray:
        return self._central_views(Split.whole(images, None))

    def _views_of_files(self, paths: list[bytes]) -> np.ndarray:
        return self._central_views(Split(np.array(paths), None, np.arange(len(paths)), bits=self.bits))

    def _central_views(self, split: Split) -> np.ndarray:
        unreadable = Unreadable(len(split), max_fraction=1.0, named=0)
        size = min(self._batch_size, max(1, len(split)))
        batches = feed.central_views(split, self.image_size, batch_size=size, unreadable=unreadable)
        made = [batch["images"].copy() for batch in batches]
        if unreadable:
            more = f", and {len(unreadable) - 1:,} more" if len(unreadable) > 1 else ""
            raise ValueError(f"cannot be read: {unreadable.names[0]}{more}")
        return np.concatenate(made) if made else np.zeros((0, self.image_size, self.image_size, 3), np.float32)


def _checked(images: np.ndarray, dimensions: int) -> np.ndarray:
    if images.dtype != np.uint8 or images.ndim != dimensions or images.shape[-1] != 3 or 0 in images.shape[-3:-1]:
        wanted = "uint8 [height, width, 3]" + " or a batch, uint8 [batch, height, width, 3]"
        raise ValueError(
            f"an array is {images.dtype} {list(images.shape)}; give paths, Pillow images, or arrays that are {wanted}"
        )
    return images


def load_encoder(run_or_checkpoint: str, step: int | None = None) -> Encoder:
    """Loads a pretrained encoder, frozen, with BatchNorm in evaluation mode.

    Args:
      run_or_checkpoint: RUN, the workdir of a pretraining run, or RUN/checkpoints/STEP.
      step: which checkpoint of RUN; None = the newest.

    Returns:
      A function from images [batch, height, width, 3], uint8 or float in [0, 1], to NumPy features
      h [batch, feature_dim]; its `Encoder.preprocess` makes such images of photos.

    Raises:
      ValueError: there is no run, no such checkpoint, or one of them cannot be read or does not fit the other.

    Example:
      >>> encoder = simclr_jax.load_encoder("runs/quickstart")
      >>> features = encoder(encoder.preprocess("photo.jpg"))
    """
    network = open_run(run_or_checkpoint, step)
    return Encoder(
        network.encode(0),
        feature_dim=network.model.encoder.feature_dim,
        image_size=network.image_size,
        bits=run_folder.read_bits(network.run) or pillow.DEEPEST,
    )
