"""Which files below a folder are images: by their suffixes, without one by their first bytes. Opens no other file."""

import collections
import dataclasses
import os
import re
import stat

from etils import epath

from simclr_jax.data.layout import Folders

SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".pjpeg", ".pjp", ".mpo", ".png", ".apng", ".bmp", ".gif", ".webp"),
    *(".tif", ".tiff", ".avif", ".avifs", ".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
    *(".ppm", ".pgm", ".pbm", ".pnm"),
)
OTHER_IMAGES = {  # of formats that are not decoded: they can be converted
    *(".heic", ".heif", ".hif", ".jxl", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2"),
    *(".tga", ".ico", ".psd", ".svg", ".dcm", ".exr", ".qoi", ".pfm"),
}
NO_FILE = "pipe, socket or device"  # reading one may never end
HIDDEN = "name starting with a dot"
MOST_DEPTH = 64  # folders within folders
MOST_LINKS = 2**16  # linked folders that are entered: links into one another make as many paths as they like

_ENDINGS = frozenset(suffix[1:] for suffix in SUFFIXES)
_FOLDER, _FILE, _OTHER = range(3)
_PLAIN_FILE = _FILE, False
_FOREIGN_FOLDERS = ("@eaDir", "__MACOSX", "#recycle", "$RECYCLE.BIN", "System Volume Information")  # of systems
_FIRST_BYTES = 16
_STARTS = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n|GIF8[79]a|BM.{4}\0{4}|RIFF.{4}WEBP|II[*+]\0|MM\0[*+]|.{4}ftypavi[fs]|\0\0\0\x0cjP  "
    rb"|\xff\x4f\xff\x51|P[1-6]\s[#\d]",
    re.DOTALL,
)


@dataclasses.dataclass
class Found:
    """What lies below a folder; the folders on the way to it, from there on, are a tuple of names.

    Attributes:
      images: (folders on the way, names of the files), in the order of their paths, part by part.
      folders: all of them.
      tables: CSV files, as paths from the folder on.
      passed_over: {what it is: how many} of what is no image: suffixes, "NAME/" of folders that systems make for
        themselves, `HIDDEN`, `NO_FILE`.
    """

    images: list[tuple[Folders, list[str]]] = dataclasses.field(default_factory=list)
    folders: list[Folders] = dataclasses.field(default_factory=list)
    tables: list[str] = dataclasses.field(default_factory=list)
    passed_over: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    links: int = 0  # to folders, that were entered


def walk(root: epath.Path) -> Found:
    """Looks through a folder at any depth, by name; enters linked folders too, but none that leads back.

    Raises:
      OSError: a folder that cannot be listed.
      ValueError: folders that are too deep, or too many links to folders.
    """
    found = Found()
    _enter(root, (), found, (os.path.realpath(root),))
    return found


def _enter(folder: epath.Path, inside: Folders, found: Found, above: tuple[str, ...]) -> None:
    """Takes in what lies in a folder; ``above`` holds the real paths of it and of those on the way to it."""
    if len(inside) > MOST_DEPTH or found.links > MOST_LINKS:
        what = f"{MOST_LINKS:,} links to folders" if found.links > MOST_LINKS else f"{MOST_DEPTH} nested folders"
        raise ValueError(f"{folder} has more than {what}; put images in PATH/SPLIT/CLASS")
    names, others = _entries(folder)
    part: list[str] = []  # images up to the next folder
    for name in names:
        kind, is_link = others.get(name, _PLAIN_FILE)
        if kind == _FOLDER:
            if name.startswith(".") or name in _FOREIGN_FOLDERS:
                found.passed_over[f"{name}/"] += 1
            elif (real := os.path.realpath(folder / name) if is_link else os.path.join(above[-1], name)) not in above:
                if part:
                    found.images.append((inside, part))
                    part = []
                found.links += is_link
                found.folders.append((*inside, name))
                _enter(folder / name, (*inside, name), found, (*above, real))
            continue
        stem, _, ending = name.rpartition(".")
        if ending.lower() in _ENDINGS and stem and kind == _FILE and name[0] != ".":
            part.append(name)
        elif name.startswith("."):
            found.passed_over[HIDDEN] += 1
        elif kind == _OTHER:
            found.passed_over[NO_FILE] += 1
        elif not (stem and ending) and _begins_as_image(folder / name):
            part.append(name)
        else:
            found.passed_over[f".{ending.lower()}" if stem and ending else ""] += 1
            if ending.lower() == "csv":
                found.tables.append("/".join((*inside, name)))
    if part:
        found.images.append((inside, part))


def _entries(folder: epath.Path) -> tuple[list[str], dict[str, tuple[int, bool]]]:
    """Returns the names in a folder, in order, and {name: (kind, whether it is a link)} of all but plain files.

    Asks the disk for links alone.
    """
    names, others = [], {}
    with os.scandir(folder) as entries:
        for entry in entries:
            names.append(entry.name)
            if entry.is_file(follow_symlinks=False):
                continue
            if entry.is_dir(follow_symlinks=False):
                others[entry.name] = _FOLDER, False
            else:
                others[entry.name] = _kind(entry), entry.is_symlink()
    return sorted(names), others


def _kind(entry: os.DirEntry[str]) -> int:
    """Returns what a link leads to; one to nowhere is a file, which is named when it is read."""
    try:
        mode = entry.stat().st_mode
    except OSError:
        return _FILE
    return _FOLDER if stat.S_ISDIR(mode) else _FILE if stat.S_ISREG(mode) else _OTHER


def _begins_as_image(path: epath.Path) -> bool:
    """Whether a file begins as images do that can be decoded."""
    try:
        with path.open("rb") as file:
            return bool(_STARTS.match(file.read(_FIRST_BYTES)))
    except OSError:  # a link to nowhere, or somebody else's
        return False
