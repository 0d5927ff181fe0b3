"""Checksums: whether arrays, and the files of a folder, are still what was written."""

import json
import os
import stat
import zlib
from typing import Any

import jax
import numpy as np
from etils import epath

from simclr_jax.runtime import run_folder

_FILES = "files.json"  # {path in the folder: [bytes, CRC-32]}


def on_host(tree: Any) -> Any:
    """Returns a tree that is whole on each device as NumPy arrays, which may share its memory."""
    return jax.device_get(jax.tree.map(lambda x: x.addressable_data(0) if isinstance(x, jax.Array) else x, tree))


def of_arrays(tree: Any) -> dict[str, int]:
    """Returns {path: CRC-32} of the arrays of a tree, whether their containers are named or not."""
    found = {}
    for path, array in jax.tree_util.tree_leaves_with_path(on_host(tree)):
        array = np.asarray(array)
        name = "/".join(str(getattr(key, "name", getattr(key, "key", getattr(key, "idx", key)))) for key in path)
        kind = zlib.crc32(f"{array.dtype}{array.shape}".encode())
        found[name] = zlib.crc32(np.ascontiguousarray(array).view(np.uint8).reshape(-1), kind)
    return found


def compare(found: dict[str, int], wanted: dict[str, int]) -> None:
    """Raises ValueError where two results of `of_arrays` differ."""
    wrong = sorted(name for name in {*found, *wanted} if found.get(name) != wanted.get(name))
    if wrong:
        raise ValueError(f"{len(wrong)} of {len(found)} arrays are not what was written, {wrong[0]} the first")


def note_files(path: epath.Path) -> None:
    """Writes down what the files of a folder hold, in a file of its own there."""
    noted = {name: _content(path / name) for name in files(path) if name != _FILES}
    run_folder.replace_text(path / _FILES, json.dumps(noted))


def check_files(path: epath.Path) -> None:
    """Raises ValueError where a file is not as noted. A process that was killed may not have come to note them."""
    there = set(files(path))
    noted = json.loads((path / _FILES).read_text()) if _FILES in there else {}
    for name, content in noted.items():
        if name not in there or _content(path / name) != content:
            raise ValueError(f"its file {name} is not what was written")


def _content(file: epath.Path) -> list[int]:
    content = file.read_bytes()
    return [len(content), zlib.crc32(content)]


def files(path: epath.Path, inside: str = "") -> list[str]:
    """Returns the names of all files in a folder, at any depth; raises ValueError for links, pipes and devices."""
    found = []
    for child in path.iterdir():
        mode = os.lstat(child).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise ValueError(f"its {inside}{child.name} is neither a file nor a folder")
        found += files(child, f"{inside}{child.name}/") if child.is_dir() else [inside + child.name]
    return found
