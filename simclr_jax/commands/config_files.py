"""Configs by their names or files: those that are shipped, and a user's own."""

import difflib
import os
import pathlib

from simclr_jax import configs

FOLDER = pathlib.Path(next(iter(configs.__path__)))
# Of commands on a RUN, or where other configs start: none of them says how to pretrain.
_OTHERS = {"__init__", "default", "probe", "diagnose", "features", "finetune", "knn", "lbfgs", "linear"} | {
    "linear_augmented",
    "pictures",
}


def names() -> list[str]:
    """Returns the shipped configs that say how to pretrain: "cifar10", "imagefolder", …"""
    return sorted(path.stem for path in FOLDER.glob("*.py") if path.stem not in _OTHERS)


def path_of(given: str) -> str:
    """Returns the file of a shipped config's name; what is no such name is a file already, there or not."""
    file = FOLDER / f"{given}.py"
    return str(file) if given.isidentifier() and file.is_file() else given


def meant(given: str) -> str:
    """Returns the name or file that was meant by a --config that does not exist, as a question; or which there are."""
    folder = os.path.dirname(given) or "."
    beside = [os.path.join(folder, name) for name in os.listdir(folder)] if os.path.isdir(folder) else []
    files = [name.removeprefix("./") for name in beside if name.endswith(".py") and "__init__" not in name]
    of_name = difflib.get_close_matches(pathlib.PurePath(given).stem, names(), n=1)
    near = difflib.get_close_matches(given, files, n=1) or of_name
    if near:
        return f"did you mean --config={near[0]}?"
    return f"the shipped configs are {', '.join(names())}; your own config is a file whose name ends in .py"
