"""``npz:PATH``: images in one NumPy archive, ``x_SPLIT`` and, where there are labels, ``y_SPLIT``.

An archive may be anybody's: what it declares is checked before memory is asked for, and pickles are never opened.
"""

import collections
import contextlib
import math
import os
import zipfile
from collections.abc import Iterator, Sequence
from typing import BinaryIO

import numpy as np
import psutil
from etils import epath

from simclr_jax.data import layout
from simclr_jax.data.channels import fitted
from simclr_jax.data.layout import Description
from simclr_jax.data.split import Split

MOST_CLASSES = 2**20  # labels are class numbers from 0 on: one of 10¹⁸ would make as many names
_NAMED = 10  # arrays that are named in a message
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


class Npz:
    """Images ``x_train``, ``x_validation``, ``x_test`` with labels ``y_…``; at least ``x_train`` or another ``x_…``.

    Images are uint8 [n, H, W, 3]; [n, H, W] and [n, H, W, 1] are grey and are repeated to three channels. Other types
    and numbers of channels: `channels.fitted`. Labels are class numbers, -1 where there is none. Splits have the
    spellings of `layout`: ``x_val`` is validation.

    Args:
      path: PATH.
      splits: the names that the user gives to train, validation and test; an array called so keeps that name.
      channels: of the images.

    Raises:
      ValueError: no such file, not an archive, no ``x_…`` in it, two of one split, ``y_…`` without ``x_…``, or arrays
        of another type, shape or length.
    """

    def __init__(self, path: str, *, splits: Sequence[str] = ("train", "", ""), channels: int = 3):
        self._channels = channels
        self._path = epath.Path(path).expanduser()
        if not self._path.is_file():
            raise ValueError(f"npz:{self._path} does not exist")
        if os.path.exists(self._path) and not os.path.isfile(self._path):  # epath takes pipes and devices for files
            raise ValueError(f"npz:{self._path} is not a file but a pipe or device, which may never end")
        no_archive = f"npz:{self._path} is not a NumPy .npz archive; np.savez(path, x_train=…, y_train=…) makes one"
        try:
            with self._path.open("rb") as file, zipfile.ZipFile(file) as archive:
                members = archive.namelist()
        except OSError as error:
            raise ValueError(f"npz:{self._path} cannot be read: {error}") from error
        except Exception as error:
            raise ValueError(no_archive) from error
        names = [name.removesuffix(".npy") for name in members]
        twice = [name for name, count in collections.Counter(names).items() if count > 1]
        if twice:
            raise ValueError(f"npz:{self._path} holds {_shown(twice[0])} more than once; keep only one of them")
        self._images, targets = _by_split(names, "x_", splits, self._path), _by_split(names, "y_", splits, self._path)
        self.split_names = tuple(self._images)
        if not self.split_names:
            some = ", ".join(map(_shown, names[:_NAMED])) + " and others" * (len(names) > _NAMED)
            raise ValueError(f"{path} holds {some or 'nothing'}; images must be named x_train, x_test, …")
        if alone := [array for split, array in targets.items() if split not in self._images]:
            raise ValueError(
                f"npz:{self._path} holds {_shown(alone[0])} but no images x_{_shown(alone[0][2:])}; add them or "
                "rename the labels"
            )
        self._others = [name for name in names if name not in {*self._images.values(), *targets.values()}]
        self._labels, self._targets = {}, targets
        for name, array in targets.items():
            labels, what = self._read(array), f"{array} of {self._path}"
            if labels.dtype.kind not in "iu" or labels.ndim not in (1, 2) or labels.shape[1:] not in ((), (1,)):
                found = f"{labels.dtype} {list(labels.shape)}"
                raise ValueError(f"{what} is {found}; labels must be class numbers, integers [n] or [n, 1]")
            low, high = int(labels.min(initial=0)), int(labels.max(initial=0))
            if low < -1 or high >= MOST_CLASSES:
                raise ValueError(
                    f"{what} has labels from {low} to {high}; number the classes 0, 1, 2, …, below "
                    f"{MOST_CLASSES:,}, with -1 for no label"
                )
            self._labels[name] = labels.reshape(-1).astype(np.int64)
        largest = max((int(labels.max(initial=-1)) for labels in self._labels.values()), default=-1)
        self.class_names = tuple(str(label) for label in range(largest + 1))

    def load(self, name: str) -> Split:
        """Reads one split."""
        array = self._images[name]
        images = fitted(self._read(array), self._channels, f"{array} of {self._path}")
        labels = self._labels.get(name)
        if labels is not None and len(labels) != len(images):
            raise ValueError(
                f"{self._path} has {len(images)} images {array} but {len(labels)} labels {self._targets[name]}"
            )
        return Split.whole(images, labels)

    def labelled(self, name: str) -> bool:
        """Whether any image of a split has a label."""
        return name in self._labels and bool((self._labels[name] >= 0).any())

    def fingerprint(self) -> str:
        """Returns the archive's size and time."""
        stat = self._path.stat()
        return f"npz {stat.length} {stat.mtime}"

    def describe(self) -> Description:
        """Returns the sizes of the splits, the classes, and the arrays that are neither images nor labels."""
        sizes = {split: next(iter(self._shape(array)), 0) for split, array in self._images.items()}
        stored = {split: array for split, array in self._images.items() if array != f"x_{split}"}
        bare = sum(int((labels < 0).sum()) for labels in self._labels.values())
        text = layout.understood(sizes, self.class_names, stored)
        text += f"; {bare:,} images without a label" if bare else ""
        return Description(text, f"arrays that are not used: {layout.listed(self._others)}" if self._others else "")

    def _shape(self, name: str) -> tuple[int, ...]:
        """Returns the shape that an array's header declares, if as much follows it."""
        with self._named_in_errors(name), self._path.open("rb") as file:
            return self._header(file, name)[0]

    def _read(self, name: str) -> np.ndarray:
        """Reads one array, if what its header declares is what there is of it, and fits into memory."""
        with self._named_in_errors(name), self._path.open("rb") as file:
            shape, dtype = self._header(file, name)
            size = math.prod(shape) * dtype.itemsize
            if size > psutil.virtual_memory().total:
                raise ValueError(f"{dtype} {list(shape)} takes {size / 2**30:,.1f} GiB, more than this machine has")
            file.seek(0)
            with np.load(file, allow_pickle=False) as arrays:
                array = arrays[name]
                return array.astype(array.dtype.newbyteorder("="), copy=False)

    def _header(self, file: BinaryIO, name: str) -> tuple[tuple[int, ...], np.dtype]:
        """Returns shape and type of an array; raises ValueError where it is none of numbers, or other bytes follow."""
        with zipfile.ZipFile(file) as archive:
            member = archive.getinfo(f"{name}.npy")
            with archive.open(member) as array:
                version = np.lib.format.read_magic(array)
                if version not in _HEADERS:
                    raise ValueError(f"version {version} of NumPy's format holds structures, not plain numbers")
                shape, _, dtype = _HEADERS[version](array)
                follow = member.file_size - array.tell()
        if dtype.hasobject:
            raise ValueError("it holds Python objects (a pickle), which are never loaded; save plain numbers instead")
        size = math.prod(shape) * dtype.itemsize
        if min(shape, default=0) < 0 or size != follow:
            raise ValueError(f"its header declares {dtype} {list(shape)}, {size:,} bytes, but {follow:,} follow")
        return shape, dtype

    @contextlib.contextmanager
    def _named_in_errors(self, name: str) -> Iterator[None]:
        """Makes a ValueError of what goes wrong: zipfile and its decompressors raise many kinds on damaged files."""
        try:
            yield
        except Exception as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
            raise ValueError(f"{name} of {self._path} cannot be read: {reason}") from error


def _by_split(names: Sequence[str], prefix: str, named: Sequence[str], path: epath.Path) -> dict[str, str]:
    """Returns {split: array} of the arrays whose names begin so."""
    found: dict[str, str] = {}
    for array in (name for name in names if name.lower().startswith(prefix)):
        name = array[len(prefix) :]
        split = name if name in named else layout.split_of(name) or name
        if split in found:
            others = [each for each in (name, found[split][len(prefix) :]) if each != split]
            mend = f", or choose one: {layout.flag(f'{split}_split', others[0])}" if others else ""
            both = f"{_shown(found[split])} and {_shown(array)}"
            raise ValueError(f"npz:{path} holds {both}, which both mean {split}; keep one{mend}")
        found[split] = array
    return found


def _shown(name: str) -> str:
    return name if name.isidentifier() and len(name) < 100 else ascii(name[:100])
