"""Features on disk: arrays that map into memory, written once and read by every probe.

FOLDER/features-00000.npy, …  float32 [rows, dim]: the images in their split's order, shard by shard
FOLDER/labels.npy, ids.npy    int64 [images]; -1 where there is no label
FOLDER/names.json             of image files, their paths as seen from the source's folder, in the same order
FOLDER/features.json          what they are of; written last, so that a folder without it is not whole
"""

import contextlib
import dataclasses
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from simclr_jax.runtime import disk

SHARD_BYTES = 2**28  # of a shard's features

_NOTE, _NAMES = "features.json", "names.json"
_TRIES = 10  # to put a folder in its place, where others do the same


@dataclasses.dataclass(frozen=True)
class Features:
    """What a network made of a split's images.

    Attributes:
      shards: float32 [rows, dim] each, mapped into memory where they lie on a local disk.
      labels: int64 [n], -1 where there is no label.
      ids: int64 [n], of the images in their split.
      names: of image files, their paths as seen from the source's folder; None of other images.
    """

    shards: tuple[np.ndarray, ...]
    labels: np.ndarray
    ids: np.ndarray
    names: tuple[str, ...] | None = None

    @classmethod
    def joined(cls, parts: Sequence["Features"]) -> "Features":
        """Returns the features of several splits, one after the other, as they are on disk."""
        if len(parts) == 1:
            return parts[0]
        shards = tuple(shard for part in parts for shard in part.shards)
        labels, ids = (np.concatenate([getattr(part, name) for part in parts]) for name in ("labels", "ids"))
        named = all(part.names is not None for part in parts)
        return cls(shards, labels, ids, tuple(name for part in parts for name in part.names or ()) if named else None)

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        return f"Features({len(self):,} images" + (f", {self.dim:,} numbers each)" if self.shards else ")")

    @property
    def dim(self) -> int:
        """Length of a feature vector."""
        return int(self.shards[0].shape[1])

    def array(self) -> np.ndarray:
        """Returns all features [n, dim], in memory if there are several shards."""
        return self.shards[0] if len(self.shards) == 1 else np.concatenate(self.shards)

    def where(self, mask: np.ndarray) -> "Features":
        """Returns the features of some images, bool [n]; in memory, unless it is all of them."""
        if mask.all():
            return self
        parts = np.split(mask, np.cumsum([len(shard) for shard in self.shards])[:-1])
        shards = tuple(shard[part] for shard, part in zip(self.shards, parts, strict=True) if part.any())
        names = self.names and tuple(itertools.compress(self.names, mask))
        return Features(shards, self.labels[mask], self.ids[mask], names)

    def blocks(self, rows: int) -> Iterator[np.ndarray]:
        """Yields the features in their order, at most ``rows`` at a time."""
        for shard in self.shards:
            for start in range(0, len(shard), rows):
                yield shard[start : start + rows]


class FeatureWriter:
    """Writes features as they are made. Nothing is at ``folder`` until `close`, whoever else writes the same.

    Args:
      folder: where they go. Whole features that are there by then are kept: other readers may have mapped them.
      note: what they are of, for features.json.
      names: {id: name} of images that are files, for names.json.
      shard_bytes: of a shard.
    """

    def __init__(
        self,
        folder: epath.Path,
        note: dict[str, Any],
        *,
        names: Mapping[int, str] | None = None,
        shard_bytes: int = SHARD_BYTES,
    ):
        self._folder, self._note, self._names, self._shard_bytes = folder, note, names, shard_bytes
        self._new = disk.beside(folder)
        self._rows: list[np.ndarray] = []
        self._labels: list[np.ndarray] = []
        self._ids: list[np.ndarray] = []
        self._shards = 0
        self._new.mkdir(parents=True)

    def add(self, features: np.ndarray, labels: np.ndarray, ids: np.ndarray) -> None:
        """Takes in the features [n, dim] of the next n images, their labels and ids."""
        self._rows.append(features)
        self._labels.append(labels)
        self._ids.append(ids)
        if sum(rows.nbytes for rows in self._rows) >= self._shard_bytes:
            self._write_shard()

    def close(self) -> Features:
        """Writes the rest, puts the folder in its place and returns what it holds."""
        if self._rows:
            self._write_shard()
        labels, ids = (np.concatenate(parts).astype(np.int64) for parts in (self._labels, self._ids))
        _save(self._new / "labels.npy", labels)
        _save(self._new / "ids.npy", ids)
        if self._names:
            (self._new / _NAMES).write_text(json.dumps([self._names[number] for number in ids.tolist()], indent=0))
        note = {"images": len(labels), "shards": self._shards, **self._note}
        (self._new / _NOTE).write_text(json.dumps(note, indent=2) + "\n")
        try:
            return self._put_in_place()
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Removes what was written."""
        _remove(self._new)

    def _put_in_place(self) -> Features:
        # Before others can see it: what is mapped stays mapped when its folder is renamed.
        own = read(self._new)
        assert own is not None, "it has just been written"
        for _ in range(_TRIES):
            try:
                self._new.rename(self._folder)
            except OSError as error:  # something is there
                failure = error
            else:
                return own
            if (made := read(self._folder)) is not None:
                return made
            # What is not whole is renamed before it is removed, so that it does not look whole in between.
            aside = disk.beside(self._folder)
            with contextlib.suppress(FileNotFoundError):
                self._folder.rename(aside)
            if read(aside) is not None:  # put there since it was read: it goes back, unless others' is there by now
                with contextlib.suppress(OSError):
                    aside.rename(self._folder)
            _remove(aside)
        raise failure

    def _write_shard(self) -> None:
        _save(self._new / f"features-{self._shards:05d}.npy", np.concatenate(self._rows))
        self._rows, self._shards = [], self._shards + 1


def read(folder: epath.Path) -> Features | None:
    """Returns the features of a folder; None where there are none, or where they are not whole or no features."""
    try:
        note = json.loads(_own(folder / _NOTE).read_text())
        shards = tuple(_load(folder / f"features-{index:05d}.npy") for index in range(note["shards"]))
        labels, ids = (np.array(_load(folder / f"{name}.npy")) for name in ("labels", "ids"))
        names = tuple(json.loads(_own(named).read_text())) if (named := folder / _NAMES).exists() else None
        counts = {
            len(labels),
            len(ids),
            sum(map(len, shards)),
            note["images"],
            *([] if names is None else [len(names)]),
        }
    except (OSError, EOFError, ValueError, KeyError, TypeError, IndexError, RecursionError):
        return None
    numbers = {(part.dtype.name, part.ndim) for part in (labels, ids)} == {("int64", 1)} and labels.min(initial=0) >= -1
    vectors = {(part.dtype.name, part.ndim) for part in shards} == {("float32", 2)}
    whole = (
        len(counts) == 1 and len(labels) > 0 and numbers and vectors and len({part.shape[1] for part in shards}) == 1
    )
    whole = whole and all(isinstance(name, str) for name in names or ())
    return Features(shards, labels, ids, names) if whole else None


def _save(path: epath.Path, array: np.ndarray) -> None:
    with path.open("wb") as file:
        np.save(file, array, allow_pickle=False)


def _own(path: epath.Path) -> epath.Path:
    """Returns a path that is a file; raises ValueError for a pipe or device: the run may be anybody's."""
    if not disk.is_file(path):
        raise ValueError(f"{path} is not a file")
    return path


def _load(path: epath.Path) -> np.ndarray:
    _own(path)
    array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    return array


def _remove(folder: epath.Path) -> None:
    if folder.exists():
        folder.rmtree()
