"""``npz:PATH``: uint8 images in one NumPy archive, ``x_SPLIT`` and, where there are labels, ``y_SPLIT``."""

import zipfile
import zlib

import numpy as np
from etils import epath

from simclr_jax.data.split import Split


class Npz:
    """Images ``x_train``, ``x_validation``, ``x_test`` with labels ``y_…``; at least ``x_train`` or another ``x_…``.

    Images are uint8 [n, H, W, 3]; [n, H, W] and [n, H, W, 1] are grey and are repeated to three channels.

    Raises:
      ValueError: no such file, not an archive, no ``x_…`` in it, or arrays of another type, shape or length.
    """

    def __init__(self, path: str):
        self._path = epath.Path(path).expanduser()
        names = _array_names(self._path)
        self.split_names = tuple(name[2:] for name in names if name.startswith("x_"))
        if not self.split_names:
            raise ValueError(f"{path} holds {', '.join(names) or 'nothing'}; images must be named x_train, x_test, …")
        self._labels = {name: self._read_labels(name) for name in self.split_names if f"y_{name}" in names}
        largest = max((int(labels.max(initial=-1)) for labels in self._labels.values()), default=-1)
        self.class_names = tuple(str(label) for label in range(largest + 1))

    def load(self, name: str) -> Split:
        """Reads one split."""
        images = _as_rgb(self._read(f"x_{name}"), f"x_{name} of {self._path}")
        labels = self._labels.get(name)
        if labels is not None and len(labels) != len(images):
            raise ValueError(f"{self._path} has {len(images)} images x_{name} but {len(labels)} labels y_{name}")
        return Split.whole(images, labels)

    def _read_labels(self, name: str) -> np.ndarray:
        labels = self._read(f"y_{name}")
        if labels.dtype.kind not in "iu" or labels.shape[1:] not in ((), (1,)):
            found = f"{labels.dtype} {list(labels.shape)}"
            raise ValueError(
                f"y_{name} of {self._path} is {found}; labels must be class numbers, integers [n] or [n, 1]"
            )
        return labels.reshape(-1).astype(np.int64)

    def _read(self, name: str) -> np.ndarray:
        try:
            with self._path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
                return archive[name]
        except (ValueError, zipfile.BadZipFile, zlib.error) as error:
            raise ValueError(f"{name} of {self._path} cannot be read: {error}") from error


def _array_names(path: epath.Path) -> list[str]:
    if not path.is_file():
        raise ValueError(f"npz:{path} does not exist")
    with path.open("rb") as file:
        if not zipfile.is_zipfile(file):
            raise ValueError(f"npz:{path} is not a NumPy .npz archive; np.savez(path, x_train=…, y_train=…) makes one")
        file.seek(0)
        with np.load(file, allow_pickle=False) as archive:
            return list(archive.files)


def _as_rgb(images: np.ndarray, what: str) -> np.ndarray:
    if images.ndim == 3:
        images = images[..., None]
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] not in (1, 3):
        raise ValueError(f"{what} is {images.dtype} {list(images.shape)}; images must be uint8 [n, height, width, 3]")
    return np.repeat(images, 3, axis=-1) if images.shape[-1] == 1 else images
