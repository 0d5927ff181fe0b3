"""Features of frozen networks, computed in batches of one size, so that each network is compiled once."""

from collections.abc import Callable, Iterable, Iterator

import numpy as np

Encode = Callable[[np.ndarray], np.ndarray]  # float32 images [n, H, W, 3] in [0, 1] → float32 features [n, dim]


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
                    f"{bad} of the first {done:,} images have features of the {name} encoder that are not "
                    "finite (NaN or infinite); "
                    "choose an earlier checkpoint: --config.step=…"
                )
        yield batch, made


def encode_padded(encode: Encode, images: np.ndarray, batch_size: int) -> np.ndarray:
    """Encodes up to ``batch_size`` images in a batch of exactly that size."""
    missing = batch_size - len(images)
    padded = np.pad(images, [(0, missing), (0, 0), (0, 0), (0, 0)]) if missing else images
    return encode(padded)[: len(images)]
