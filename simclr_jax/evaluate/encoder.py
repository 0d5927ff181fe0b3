"""From a run to an encoder that turns images into features."""

import dataclasses
import os
from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image

from simclr_jax.augment import bands, pillow
from simclr_jax.data import feed
from simclr_jax.data.split import Split
from simclr_jax.data.unreadable import Unreadable
from simclr_jax.evaluate.features import Encode, encode_padded
from simclr_jax.evaluate.trained_network import open_run
from simclr_jax.models import feature_dim
from simclr_jax.runtime import run_folder

Images = np.ndarray | Sequence[str | os.PathLike[str] | Image.Image | np.ndarray]


class Encoder:
    """A frozen encoder: turns images into features, the representations h.

    Attributes:
      feature_dim: length of a feature vector.
      image_size: side of the views used in pretraining, pixels. Other sizes work, but less well the more they differ.
      bits: bit depth assumed for uint16 arrays, and for 16-bit image files that do not declare it, as in pretraining.
      channels: of the images; 3 are red, green and blue.
    """

    def __init__(
        self,
        encode: Encode,
        *,
        feature_dim: int,
        image_size: int,
        bits: int = 16,
        channels: int = 3,
        batch_size: int = 256,
    ):
        self.feature_dim = feature_dim
        self.image_size = image_size
        self.bits = bits
        self.channels = channels
        self._encode = encode
        self._batch_size = batch_size

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Returns float32 features [batch, feature_dim].

        Args:
          images: [batch, height, width, channels], uint8, uint16, or float in [0, 1]; see `preprocess` for images of
            any size.

        Raises:
          ValueError: the shape is different, or floats are outside [0, 1].
        """
        images = np.asarray(images)
        if images.ndim != 4 or images.shape[-1] != self.channels:
            mend = "; files go through preprocess() first" if images.dtype.kind in "USO" else ""
            wanted = f"[batch, height, width, {self.channels}]"
            raise ValueError(f"images have shape {list(images.shape)}; it must be {wanted}{mend}")
        if images.dtype in (np.uint8, np.uint16):
            images = bands.scaled(images, self.bits)
        else:
            low, high = (float(images.min()), float(images.max())) if images.size else (0.0, 0.0)
            if not np.issubdtype(images.dtype, np.floating) or not (low >= 0 and high <= 1):
                given = f"images are {images.dtype} from {low:g} to {high:g}"
                raise ValueError(f"{given}; they must be uint8, uint16, or float between 0 and 1")
            images = images.astype(np.float32)
        # A few images are filled up to the next power of two: one photo is one pass, and few sizes are compiled.
        size = min(self._batch_size, 1 << max(0, len(images) - 1).bit_length())
        parts = [encode_padded(self._encode, images[i : i + size], size) for i in range(0, len(images), size)]
        return np.concatenate(parts) if parts else np.zeros((0, self.feature_dim), np.float32)

    def preprocess(self, images: "Images | str | os.PathLike[str] | Image.Image") -> np.ndarray:
        """Prepares photos as the probes and the command ``features`` do: rotated upright, transparency on white, the
        central square, resized (bicubic with antialias).

        For files the result is bit-identical, and TensorFlow is needed. Arrays and Pillow images need no TensorFlow; a
        batch of one size is resized exactly as ``npz:`` data, other sizes agree to 1e-4.

        Args:
          images: paths, Pillow images or arrays [height, width, channels], of any sizes; a single one of these; or a
            batch [batch, height, width, channels]. Arrays are uint8, uint16 or float32 in [0, 1].

        Returns:
          float32 [batch, image_size, image_size, channels] in [0, 1], the input of the encoder.

        Raises:
          ValueError: a file cannot be read, or ``images`` is something else.

        Example:
          >>> features = encoder(encoder.preprocess(["cat.jpg", "dog.png"]))
        """
        if isinstance(images, np.ndarray) and images.ndim == 4:
            return self._views_of_batch(self._checked(images, 4))
        several = [images] if isinstance(images, str | np.ndarray) or not isinstance(images, Iterable) else list(images)
        made = np.zeros((len(several), self.image_size, self.image_size, self.channels), np.float32)
        paths = {place: image for place, image in enumerate(several) if isinstance(image, str | os.PathLike)}
        if paths:
            made[list(paths)] = self._views_of_files([os.fsencode(path) for path in paths.values()])
        for place, image in enumerate(several):
            if place not in paths:
                pixels = self._pixels(image) if isinstance(image, Image.Image) else self._checked(np.asarray(image), 3)
                made[place] = feed.central_view(pixels, self.image_size, self.bits)
        return made

    def _pixels(self, image: Image.Image) -> np.ndarray:
        if self.channels not in (1, 3):
            raise ValueError(f"a Pillow image has no {self.channels} channels; give paths of TIFF, or arrays")
        pixels = pillow.pixels(image, self.bits)
        return pixels if self.channels == 3 else bands.gray(bands.scaled(pixels))

    def _views_of_batch(self, images: np.ndarray) -> np.ndarray:
        return self._central_views(dataclasses.replace(Split.whole(images, None), bits=self.bits))

    def _views_of_files(self, paths: list[bytes]) -> np.ndarray:
        absent = [os.fsdecode(path) for path in paths if b"://" not in path and not os.path.isfile(path)]
        if absent and os.path.isdir(absent[0]):
            raise ValueError(f"{absent[0]} is a folder; give the paths of the files in it")
        if absent:  # before the others are read
            raise ValueError(f"no such file: {_first_of(absent)}")
        ids = np.arange(len(paths))
        return self._central_views(Split(np.array(paths), None, ids, bits=self.bits, channels=self.channels))

    def _central_views(self, split: Split) -> np.ndarray:
        unreadable = Unreadable(len(split), max_fraction=1.0, named=0)
        size = min(self._batch_size, max(1, len(split)))
        batches = feed.central_views(split, self.image_size, batch_size=size, unreadable=unreadable)
        made = [batch["images"].copy() for batch in batches]
        if unreadable:
            raise ValueError(f"cannot be read: {_first_of(unreadable.names)}")
        side = self.image_size
        return np.concatenate(made) if made else np.zeros((0, side, side, self.channels), np.float32)

    def _checked(self, images: np.ndarray, dimensions: int) -> np.ndarray:
        if (
            images.dtype.name not in bands.DTYPES
            or images.ndim != dimensions
            or images.shape[-1] != self.channels
            or 0 in images.shape[-3:-1]
        ):
            one = f"[height, width, {self.channels}]"
            wanted = f"uint8 {one} or a batch, uint8 [batch, height, width, {self.channels}], or uint16 or float32"
            found = f"{images.dtype} {list(images.shape)}"
            raise ValueError(f"an array is {found}; give paths, Pillow images, or arrays that are {wanted}")
        if images.dtype == np.float32:
            bands.check_range(images, "an array")
        return images


def _first_of(names: Sequence[str]) -> str:
    return names[0] + (f", and {len(names) - 1:,} more" if len(names) > 1 else "")


def load_encoder(run_or_checkpoint: str, step: int | None = None) -> Encoder:
    """Loads the pretrained encoder of a run, frozen, with BatchNorm in evaluation mode.

    Args:
      run_or_checkpoint: RUN, the folder of a pretraining run, or RUN/checkpoints/STEP.
      step: step of the checkpoint to load; None = the newest.

    Returns:
      A function from images [batch, height, width, channels], uint8, uint16 or float in [0, 1], to NumPy features
      h [batch, feature_dim]; its `Encoder.preprocess` turns photos into such images.

    Raises:
      ValueError: the run or the checkpoint does not exist, cannot be read, or they do not fit together.

    Example:
      >>> encoder = simclr_jax.load_encoder("runs/quickstart")
      >>> features = encoder(encoder.preprocess("photo.jpg"))
    """
    network = open_run(run_or_checkpoint, step)
    return Encoder(
        network.encode(0),
        feature_dim=feature_dim(network.model.encoder, network.image_size),
        image_size=network.image_size,
        bits=run_folder.read_bits(network.run) or pillow.DEEPEST,
        channels=network.model.encoder.network.channels,
    )
