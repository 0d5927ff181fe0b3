"""Whether arrays, and the files of a folder, are still what was written: checksums; and of what form arrays are."""

import json
import os
import stat
import zlib
from typing import Any

import jax
import numpy as np
from etils import epath

from simclr_jax.runtime import disk

_FILES = "files.json"  # {path in the folder: [bytes, CRC-32]}


class Damaged(ValueError):
    """What lies on a disk that answers is, by proof, not what was written."""


def on_host(tree: Any) -> Any:
    """Returns a tree that is whole on each device as NumPy arrays, which may share its memory."""
    return jax.device_get(jax.tree.map(lambda x: x.addressable_data(0) if isinstance(x, jax.Array) else x, tree))


def of_arrays(tree: Any) -> dict[str, int]:
    """Returns {path: CRC-32} of the arrays of a tree, whether their containers are named or not."""
    found = {}
    for path, array in jax.tree_util.tree_leaves_with_path(on_host(tree)):
        array = np.asarray(array)
        kind = zlib.crc32(f"{array.dtype}{array.shape}".encode())
        found[_name(path)] = zlib.crc32(np.ascontiguousarray(array).view(np.uint8).reshape(-1), kind)
    return found


def differing(found: dict[str, int], noted: dict[str, int]) -> list[str]:
    """Returns the names by which two results of `of_arrays` differ, sorted."""
    return sorted(name for name in {*found, *noted} if found.get(name) != noted.get(name))


def form_differences(have: Any, want: Any) -> list[str]:
    """Returns a line for each array by whose type or shape two trees differ, those of optimisers last.

    Args:
      have, want: trees of arrays, or of what has their dtype and shape; of what kind their containers are is the same.
    """
    have, want = forms(have), forms(want)
    wrong = {
        name: f"is {have[name]} instead of {want[name]}" for name in have.keys() & want if have[name] != want[name]
    }
    wrong |= {name: f"is unexpected, {have[name]}" for name in have.keys() - want}
    wrong |= {name: f"is missing, {want[name]}" for name in want.keys() - have}
    return [f"{name} {wrong[name]}" for name in sorted(wrong, key=lambda name: ("opt_state" in name, name))]


def forms(tree: Any) -> dict[str, str]:
    """Returns {path: type and shape} of the arrays of a tree, or of what has their dtype and shape."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {_name(path): f"{getattr(x, 'dtype', type(x).__name__)} {list(np.shape(x))}" for path, x in leaves}


def _name(path: tuple[Any, ...]) -> str:
    return "/".join(str(getattr(key, "name", getattr(key, "key", getattr(key, "idx", key)))) for key in path)


def note_files(path: epath.Path) -> None:
    """Writes down what the files of a folder hold, in a file of its own there."""
    noted = {name: _content(path / name) for name in files(path) if name != _FILES}
    disk.replace_text(path / _FILES, json.dumps(noted))


def check_files(path: epath.Path) -> bool:
    """Compares the files of a folder with what was noted of them.

    Returns:
      Whether it was: a process that was killed may not have come to note them.

    Raises:
      Damaged: a file is not as noted.
      OSError: the disk does not give one.
    """
    there = set(files(path))
    noted = read_json(path / _FILES) if _FILES in there else {}
    for name, content in noted.items():
        if name not in there or _content(path / name) != content:
            raise Damaged(f"its file {name} is not what was written")
    return bool(noted)


def read_json(file: epath.Path) -> dict[str, Any]:
    """Returns the object that a file holds; raises Damaged where it is gone or holds none, OSError of a disk."""
    try:
        found = json.loads(file.read_bytes())
    except (FileNotFoundError, IsADirectoryError):
        raise Damaged(f"it has no {file.name}") from None
    except (ValueError, RecursionError) as error:
        raise Damaged(f"its {file.name} is not JSON") from error
    if not isinstance(found, dict):
        raise Damaged(f"its {file.name} holds {type(found).__name__}, not an object")
    return found


def read_all(path: epath.Path) -> None:
    """Reads every file of a folder; raises OSError where the disk does not give one."""
    for name in files(path):
        _content(path / name)


def _content(file: epath.Path) -> list[int]:
    content = file.read_bytes()
    return [len(content), zlib.crc32(content)]


def files(path: epath.Path, inside: str = "") -> list[str]:
    """Returns the names of all files in a folder, at any depth; raises Damaged for links, pipes and devices."""
    found = []
    for child in path.iterdir():
        mode = os.lstat(child).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise Damaged(f"its {inside}{child.name} is neither a file nor a folder")
        found += files(child, f"{inside}{child.name}/") if child.is_dir() else [inside + child.name]
    return found
