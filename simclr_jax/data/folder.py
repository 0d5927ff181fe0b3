"""``folder:PATH``: JPEG, PNG, WebP, BMP, GIF or TIFF files, in split and class sub-folders or in a flat pile."""

import collections
import contextlib
import os
import stat
import zlib
from typing import NamedTuple

import numpy as np
from etils import epath

from simclr_jax.data.split import Split

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff")
SPLIT_FOLDERS = {
    "train": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}

NO_FILE = "pipe, socket or device"  # reading one may never end
MOST_DEPTH = 64  # folders within folders
MOST_LINKS = 2**16  # linked folders that are entered: links into one another make as many paths as they like


class Folder:
    """Image files below a folder, laid out in one of three ways.

    ``PATH/{train,validation,test}/CLASS/*`` (``val`` and ``valid`` also mean validation), ``PATH/CLASS/*`` or
    ``PATH/*``. Without class folders there are no labels. Classes are numbered in the order of their names. Names
    that begin with a dot are passed over, and so are pipes and devices, and what lies beside split folders.

    Attributes:
      split_names, class_names: as of every source.
      empty_folders: the split and class folders that hold no image.
      passed_over: {suffix: how many} of the files that are no images by their names; and of what is no file, by kind.
      beside: images that lie beside split folders.

    Raises:
      ValueError: no such folder, one that cannot be listed, no images in it, folders that may be splits or classes,
        or a class that the training split does not have.
    """

    def __init__(self, path: str):
        root = epath.Path(path).expanduser()
        if not root.is_dir():
            raise ValueError(f"folder:{path} is not a folder")
        tree = _Tree([], [], collections.Counter(), [])
        try:
            _walk(root, (), tree, (os.path.realpath(root),))
        except OSError as error:
            raise ValueError(f"folder:{path} cannot be listed: {error}") from error
        self._root = root
        self._files = _by_split_and_class(root, tree.images)
        # Folders without images where there should be a split's or a class's, the outermost alone.
        full = {folders[:depth] for folders, _ in tree.images for depth in range(3)}
        depth = 2 if any((name,) in full for name in SPLIT_FOLDERS) else 1  # of class folders
        self.empty_folders = tuple(
            f"{root}/{'/'.join(folders)}"
            for folders in tree.folders
            if len(folders) <= depth and folders not in full and folders[:-1] in full
        )
        self.passed_over = dict(tree.passed_over.most_common())
        self.beside = len(tree.images) - sum(len(paths) for split in self._files.values() for paths in split.values())
        if not self._files:
            raise ValueError(f"folder:{path} holds no images ({', '.join(SUFFIXES)})")
        self.split_names = tuple(self._files)
        self.class_names = tuple(sorted({label for files in self._files.values() for label in files if label}))
        trained = self._files.get("train", {})
        for name, files in self._files.items():
            unknown = sorted(set(files) - set(trained) - {""})
            if any(trained) and unknown:
                raise ValueError(
                    f"folder:{path}: {name} has classes that train does not have: {', '.join(unknown[:5])}"
                )

    def load(self, name: str) -> Split:
        """Lists the files of one split; they are read when they are needed."""
        number = {label: index for index, label in enumerate(self.class_names)}
        pairs = [(path, number.get(label, -1)) for label, files in self._files[name].items() for path in files]
        paths, labels = zip(*pairs, strict=True)
        encoded = [os.fsencode(path) for path in paths]
        above = len(os.fsencode(f"{self._root}/"))
        names = np.array([path[above:] for path in encoded])
        return Split.whole(np.array(encoded), np.array(labels, np.int64) if self.labelled(name) else None, names)

    def labelled(self, name: str) -> bool:
        """Whether any image of a split has a label."""
        return any(self._files[name])

    def fingerprint(self) -> str:
        """Returns a checksum of the files' names, classes and, on this machine's disks, sizes and times."""
        found = 0
        for split, classes in self._files.items():
            for path in (path for paths in classes.values() for path in paths):
                try:
                    entry = os.stat(path)
                    size_and_time = entry.st_size, entry.st_mtime_ns
                except OSError:  # in an object store, or a link to nowhere
                    size_and_time = ()
                found = zlib.crc32(os.fsencode(f"{split} {path} {size_and_time}\n"), found)
        return f"folder {found:08x}"


class _Tree(NamedTuple):
    """What lies below a folder; the folders on the way to it, from there on, as a tuple of names."""

    images: list[tuple[tuple[str, ...], str]]  # (folders on the way, path)
    folders: list[tuple[str, ...]]
    passed_over: collections.Counter[str]
    links: list[str]  # to folders, that were entered


def _by_split_and_class(root: epath.Path, images: list[tuple[tuple[str, ...], str]]) -> dict[str, dict[str, list[str]]]:
    """Returns {split: {class: paths}}; an image that lies in no class folder has the class ""."""
    splits = {folders[0] for folders, _ in images if folders} & SPLIT_FOLDERS.keys()
    if splits:
        twice = sorted(splits & {"val", "valid", "validation"})
        if len(twice) > 1:
            raise ValueError(
                f"folder:{root} has more than one folder of validation images: {', '.join(twice)}; keep one"
            )
        placed = [folders for folders, _ in images]
        beside = sorted({"/".join(folders[:1]) or "images" for folders in placed if not splits & {*folders[:1]}})
        if beside and all(len(folders) == 1 for folders in placed if splits & {*folders[:1]}):
            raise ValueError(
                f"folder:{root} has {', '.join(sorted(splits))} beside {', '.join(beside[:5])}: if these are classes, "
                f"put all of them into {root}/train; if not, move what is no split elsewhere"
            )
        images = [(folders, path) for folders, path in images if folders and folders[0] in splits]
    else:
        images = [(("train", *folders), path) for folders, path in images]
    found = collections.defaultdict(lambda: collections.defaultdict(list))
    for (split, *classes), path in images:
        found[SPLIT_FOLDERS[split]][classes[0] if classes else ""].append(path)
    return found


def _walk(folder: epath.Path, inside: tuple[str, ...], tree: _Tree, above: tuple[str, ...]) -> None:
    """Takes in what lies in a folder at any depth, by name; enters linked folders too, but none that leads back.

    ``above`` holds the real paths of the folder and of those on the way to it.
    """
    if len(inside) > MOST_DEPTH or len(tree.links) > MOST_LINKS:
        what = (
            f"{MOST_LINKS:,} links to folders" if len(inside) <= MOST_DEPTH else f"{MOST_DEPTH} folders in each other"
        )
        raise ValueError(f"{folder}: there are more than {what}; images lie in PATH/SPLIT/CLASS")
    special = set()  # names of pipes, sockets, devices and links to them; an object store has none
    if os.path.isdir(folder):
        with os.scandir(folder) as entries:  # which knows a file without asking the disk for each
            for entry in entries:
                if entry.is_file(follow_symlinks=False):
                    continue
                with contextlib.suppress(OSError):  # a link to nowhere: it is named when it is read
                    mode = entry.stat().st_mode
                    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                        special.add(entry.name)
    for child in sorted(folder.iterdir(), key=lambda child: child.name):
        name = child.name
        if name.startswith("."):
            continue
        if name in special:
            tree.passed_over[NO_FILE] += 1
        elif name.lower().endswith(SUFFIXES):
            tree.images.append((inside, f"{folder}/{name}"))
        elif not child.is_dir():
            tree.passed_over[os.path.splitext(name)[1].lower()] += 1
        elif (real := os.path.realpath(child)) not in above:
            tree.links.extend([name] * os.path.islink(child))
            tree.folders.append((*inside, name))
            _walk(child, (*inside, name), tree, (*above, real))
