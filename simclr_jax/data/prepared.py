"""What a prepared TFDS set tells of itself, read as data before TFDS reads it and imports every class named there.

FOLDER/[CONFIG/]VERSION/features.json      its features, each with its class
FOLDER/[CONFIG/]VERSION/dataset_info.json  its splits and files; may hold features as well
FOLDER/.config/metadata.json               the config that is read where none is asked for

A set may be anybody's, or lie in anybody's run.
"""

import contextlib
import json
import os
import re
from collections.abc import Container, Iterator
from typing import Any

from etils import epath

MOST_BYTES = 2**26  # of a JSON file; ImageNet's take 30 thousand
_CLASS = ("pythonClassName", "python_class_name", "type")  # the last one up to TFDS 4.3
_NAMES_FILE = ("names_file", "labels")  # of ClassLabel and LabeledImage: a path, which TFDS itself never writes


def check(folder: epath.Path, classes: Container[str]) -> None:
    """Raises ValueError unless all versions of a set name these classes alone, no file elsewhere, and hold only files.

    Args:
      folder: of the set, DATA_DIR/NAME. Where there is none, there is nothing to check.
      classes: full names of Python classes.
    """
    for version in _versions(folder):
        _check_files(version)
        features, info = version / "features.json", version / "dataset_info.json"
        for path, described in ((features, _read(features)), (info, _read(info).get("features"))):
            for key, value in _texts(described):
                if key in _CLASS and value not in classes:
                    raise ValueError(
                        f"{path} names the class {_shown(value)}, whose code would have to be run; only data "
                        "sets made of "
                        "tensorflow_datasets' own features are read: prepare it again with these"
                    )
                if key in _NAMES_FILE:
                    raise ValueError(
                        f"{path} names the file {_shown(value)}, which is not read; prepare the "
                        "data set again, with its class names"
                    )
    path = folder / ".config" / "metadata.json"
    config = _read(path).get("default_config_name") or "none"
    if not (isinstance(config, str) and re.fullmatch(r"[\w+.-]+", config) and config.strip(".")):
        raise ValueError(f"{path} names the config {_shown(config)}, which is not the name of a folder")


def _versions(folder: epath.Path) -> Iterator[epath.Path]:
    """Yields all folders that TFDS may take for a version."""
    children = [child for child in folder.iterdir() if child.is_dir()] if folder.is_dir() else []
    for child in [*children, *(below for config in children for below in config.iterdir())]:
        if re.match(r"\d", child.name) and child.is_dir():
            yield child


def _check_files(version: epath.Path) -> None:
    """Raises ValueError for a pipe or device, reading which may never end."""
    if os.path.isdir(version):
        with os.scandir(version) as entries:
            for entry in entries:
                if not entry.is_file() and not entry.is_dir() and os.path.exists(entry):
                    raise ValueError(f"{entry.path} is not a file but a pipe or device, which may never end")


def _read(path: epath.Path) -> dict[str, Any]:
    """Returns the JSON object of a file, {} where there is no file."""
    if not path.exists():
        return {}
    if os.path.exists(path) and not os.path.isfile(path):  # epath takes pipes and devices for files
        raise ValueError(f"{path} is not a file")
    if path.stat().length > MOST_BYTES:
        raise ValueError(f"{path} is too large, more than {MOST_BYTES:,} bytes")
    try:
        found = json.loads(path.read_text())
    except (ValueError, RecursionError, OSError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} does not hold a JSON object")
    return found


def _texts(described: Any) -> Iterator[tuple[str, str]]:
    """Yields (key, value) of all texts at any depth, and in the JSON that texts hold, which TFDS reads too."""
    left = [described]
    while left:
        value = left.pop()
        if isinstance(value, list):
            left += value
        for key, child in value.items() if isinstance(value, dict) else ():
            if isinstance(child, str):
                yield key, child
                if child.lstrip()[:1] in ("{", "["):
                    with contextlib.suppress(ValueError):  # no JSON, for TFDS neither
                        left.append(json.loads(child))
            else:
                left.append(child)


def _shown(value: Any) -> str:
    return ascii(value)[:200]
