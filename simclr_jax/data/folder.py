"""``folder:PATH``: image files, in split and class sub-folders or in a flat pile."""

import collections
import os
import zlib
from collections.abc import Mapping, Sequence

import numpy as np
from etils import epath

from simclr_jax.data import label_file, layout, walk
from simclr_jax.data.channels import check_files
from simclr_jax.data.layout import Description, listed
from simclr_jax.data.split import Split

_CSV = "csv:"
_Files = dict[str, dict[str, list[str]]]  # {split: {class: paths}}; images of the class "" have no label


class Folder:
    """Image files below a folder, laid out in one of three ways.

    ``PATH/{train,validation,test}/CLASS/*`` in the spellings that `layout` knows, ``PATH/CLASS/*`` or ``PATH/*``.
    Without class folders there are no labels. Classes are numbered in the order of their names. Names that begin with
    a dot are passed over, and so are pipes and devices, and what lies beside split folders.

    Args:
      path: PATH.
      labels: "" takes folders for classes where that is clear, "folders" always, "none" never; "csv:FILE" reads a
        table as `label_file` does, FILE as seen from PATH or else from here.
      splits: the names that the user gives to train, validation and test; a folder called so is that split.
      channels: that the images are decoded to.

    Attributes:
      root: PATH.
      split_names, class_names: as of every source.
      empty_folders: the split and class folders that hold no image, as seen from PATH.
      passed_over: {what: how many} of what is no image, as in `walk.Found`.
      beside: {folder: how many} of images that lie beside the split folders.

    Raises:
      ValueError: no such folder, one that cannot be listed, no images in it, folders of which it cannot be told what
        they are, a class that the training split does not have, or a table that does not fit the images.
    """

    def __init__(self, path: str, *, labels: str = "", splits: Sequence[str] = ("train", "", ""), channels: int = 3):
        self._channels = channels
        self.root = epath.Path(path).expanduser()
        if not self.root.is_dir():
            raise ValueError(f"folder:{path} is not a folder")
        try:
            found = walk.walk(self.root)
        except OSError as error:
            raise ValueError(f"folder:{path} cannot be listed: {error}") from error
        if not found.images:
            other = f": {_kinds(found.passed_over)}" if found.passed_over else ""
            raise ValueError(f"folder:{path} holds no images ({', '.join(walk.SUFFIXES)}){other}")
        counts = collections.Counter()
        for folders, names in found.images:
            counts[folders] += len(names)
        tables = [table for table in found.tables if table.count("/") < 2]
        self._layout = layout.read(
            str(self.root), counts, labels=labels, named=splits, table=next(iter(tables), "FILE")
        )
        self._files, self.beside = _place(self.root, found, self._layout)
        self.empty_folders = _empty(found, len(self._layout.top) + (2 if self._layout.splits else 1))
        self._labels_key, self._tables, self._table, self._table_note = labels, tables, None, ""
        if labels.startswith(_CSV):
            self._read_table(labels.removeprefix(_CSV))
            if labels.removeprefix(_CSV) in found.tables:
                found.passed_over[".csv"] -= 1
        self.passed_over = {what: count for what, count in found.passed_over.most_common() if count}
        self.split_names = tuple(self._files)
        self.class_names = tuple(sorted({label for files in self._files.values() for label in files if label}))
        _check_classes(path, self._files)

    def load(self, name: str) -> Split:
        """Lists the files of one split, which are read when they are needed; a few are looked at for their channels."""
        number = {label: index for index, label in enumerate(self.class_names)}
        pairs = [(path, number.get(label, -1)) for label, files in self._files[name].items() for path in files]
        paths, labels = zip(*pairs, strict=True)
        check_files(paths, self._channels)
        encoded = [os.fsencode(path) for path in paths]
        above = len(os.fsencode(f"{self.root}/"))
        names = np.array([path[above:] for path in encoded])
        numbers = np.array(labels, np.int64) if self.labelled(name) else None
        return Split.whole(np.array(encoded), numbers, names, channels=self._channels)

    def labelled(self, name: str) -> bool:
        """Whether any image of a split has a label."""
        return any(self._files[name])

    def fingerprint(self) -> str:
        """Returns a checksum of the files' names, classes and, on this machine's disks, sizes and times."""
        found = zlib.crc32(self._table.content if self._table else self._labels_key.replace("folders", "").encode())
        for split, classes in self._files.items():
            for path in (path for paths in classes.values() for path in paths):
                try:
                    entry = os.stat(path)
                    size_and_time = entry.st_size, entry.st_mtime_ns
                except OSError:  # a link to nowhere
                    size_and_time = ()
                found = zlib.crc32(os.fsencode(f"{split} {path} {size_and_time}\n"), found)
        return f"folder {found:08x}"

    def describe(self) -> Description:
        """Returns what the folders were understood to be, and what is left out."""
        counts = {split: sum(map(len, classes.values())) for split, classes in self._files.items()}
        stored = {split: f"{name}/" for name, split in self._layout.splits.items() if split != name}
        text = layout.understood(counts, self.class_names, stored)
        bare = sum(len(classes.get("", ())) for classes in self._files.values())
        if self.class_names and bare:
            text += f"; {bare:,} images without a label"
        if self._layout.top:
            text += f"; read from {'/'.join((str(self.root), *self._layout.top))}"
        if self._table:
            text += f"; labels from {self._table_note}"
        elif self._tables and not self.class_names:
            table = self._tables[0]
            text += f"; {listed([table])} may hold labels: {layout.flag('labels', _CSV + table)}"
        left_out = [
            self.beside and f"outside the splits: {listed(self.beside)} images",
            self.passed_over and f"not images: {_kinds(self.passed_over)}",
            self.empty_folders and f"folders without images: {listed(self.empty_folders)}",
        ]
        return Description(text, "; ".join(filter(None, left_out)))

    def _read_table(self, file: str) -> None:
        """Gives the images the labels of a table."""
        path = next((p for p in (self.root / file, epath.Path(file).expanduser()) if p.is_file()), None)
        if path is None:
            raise ValueError(
                f"data.labels=csv:{file}: this file exists neither in {self.root} nor in the current folder"
            )
        self._table = label_file.read(path)
        of_split = [
            (split, path) for split, classes in self._files.items() for paths in classes.values() for path in paths
        ]
        meant = layout.split_of(path.stem)  # train.csv speaks of the images in train
        labels, missing = label_file.match(
            self._table,
            [image.removeprefix(f"{self.root}/") for _, image in of_split],
            str(path),
            preferred={index for index, (split, _) in enumerate(of_split) if split == meant},
        )
        files: _Files = {split: {} for split in self._files}
        for (split, image), label in zip(of_split, labels, strict=True):
            files[split].setdefault(label, []).append(image)
        self._files = files
        columns, unused = self._table.columns, self._table.unused
        self._table_note = f"{path}, columns {listed(columns)}" + (f", not {listed(unused)}" if unused else "")
        if missing:
            self._table_note += f", {missing:,} of its rows name images that do not exist"


def _place(root: epath.Path, found: walk.Found, read: layout.Layout) -> tuple[_Files, collections.Counter[str]]:
    """Returns the images by split and class, and how many lie in which folders beside the splits."""
    files, beside = {}, collections.Counter()
    for folders, names in found.images:
        if folders not in read.place:
            beside["/".join(folders[: len(read.top) + 1]) or "PATH itself"] += len(names)
            continue
        split, label = read.place[folders]
        where = "/".join((str(root), *folders, ""))
        files.setdefault(split, {}).setdefault(label, []).extend(where + name for name in names)
    return files, beside


def _empty(found: walk.Found, depth: int) -> tuple[str, ...]:
    """Returns the folders without images down to a depth, the outermost alone."""
    full = {folders[:depth] for folders, _ in found.images for depth in range(len(folders) + 1)}
    return tuple(
        "/".join(folders)
        for folders in found.folders
        if len(folders) <= depth and folders not in full and folders[:-1] in full
    )


def _kinds(passed_over: Mapping[str, int]) -> str:
    """Returns as text what is passed over, by suffix."""
    kinds = {f"{suffix or 'no suffix'}": count for suffix, count in passed_over.items()}
    text = listed([f"{count:,} × {kind}" for kind, count in kinds.items()])
    other = [suffix for suffix in passed_over if suffix in walk.OTHER_IMAGES]
    return text + (f" (convert {listed(other)} to JPEG or PNG to use them)" if other else "")


def _check_classes(path: str, files: _Files) -> None:
    """Raises ValueError for a class that train does not have, where it has any."""
    trained = sorted(set(files.get("train", {})) - {""})
    for name, classes in files.items():
        unknown = sorted(set(classes) - set(trained) - {""})
        if trained and unknown:
            alike = [label for label in trained if label.casefold() in {other.casefold() for other in unknown}]
            letters = f"; train has {listed(alike)}: use the same spelling" if alike else ""
            raise ValueError(
                f"folder:{path}: {name} has classes that the training split does not have: {listed(unknown)}{letters}"
            )
