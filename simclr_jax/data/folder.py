"""``folder:PATH``: JPEG, PNG, BMP or GIF files, in split and class sub-folders or in a flat pile."""

import numpy as np
from etils import epath

from simclr_jax.data.split import Split

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif")
SPLIT_FOLDERS = {
    "train": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}


class Folder:
    """Image files below a folder, laid out in one of three ways.

    ``PATH/{train,validation,test}/CLASS/*`` (``val`` and ``valid`` also mean validation), ``PATH/CLASS/*`` or
    ``PATH/*``. Without class folders there are no labels. Classes are numbered in the order of their names.

    Raises:
      ValueError: no such folder, no images in it, or a class that the training split does not have.
    """

    def __init__(self, path: str):
        root = epath.Path(path).expanduser()
        if not root.is_dir():
            raise ValueError(f"folder:{path} is not a folder")
        folders = {SPLIT_FOLDERS[child.name]: child for child in _folders(root) if child.name in SPLIT_FOLDERS}
        self._files = {name: _files_by_class(folder) for name, folder in (folders or {"train": root}).items()}
        self._files = {name: files for name, files in self._files.items() if files}
        if not self._files:
            raise ValueError(f"folder:{path} holds no images ({', '.join(SUFFIXES)})")
        self.split_names = tuple(self._files)
        self.class_names = tuple(sorted({label for files in self._files.values() for label in files if label}))
        self._check_classes(path)

    def load(self, name: str) -> Split:
        """Lists the files of one split; they are read when they are needed."""
        number = {label: index for index, label in enumerate(self.class_names)}
        pairs = [(str(file), number.get(label, -1)) for label, files in self._files[name].items() for file in files]
        paths, labels = zip(*pairs, strict=True)
        labelled = any(label >= 0 for label in labels)
        return Split.whole(np.array(paths), np.array(labels, np.int64) if labelled else None)

    def _check_classes(self, path: str):
        trained = self._files.get("train", {})
        for name, files in self._files.items():
            unknown = sorted(set(files) - set(trained) - {""})
            if any(trained) and unknown:
                raise ValueError(
                    f"folder:{path}: {name} has classes that train does not have: {', '.join(unknown[:5])}"
                )


def _folders(folder: epath.Path) -> list[epath.Path]:
    return sorted(child for child in folder.iterdir() if child.is_dir() and not child.name.startswith("."))


def _images(folder: epath.Path, pattern: str) -> list[epath.Path]:
    return sorted(file for file in folder.glob(pattern) if file.suffix.lower() in SUFFIXES)


def _files_by_class(folder: epath.Path) -> dict[str, list[epath.Path]]:
    """Returns {class name: files}; files that lie in no class folder have the class name ""."""
    found = {child.name: _images(child, "**/*") for child in _folders(folder)}
    return {label: files for label, files in ({"": _images(folder, "*")} | found).items() if files}
