"""Configs by their names or files: those that are shipped, and a user's own."""

import difflib
import importlib.util
import os
import pathlib

from ml_collections import ConfigDict

from simclr_jax import configs
from simclr_jax.runtime.config import shown

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


def load(given: str) -> ConfigDict:
    """Returns the config of a shipped one's name or of a FILE.py, which is run.

    Raises:
      ValueError: there is none, or it is not a file whose get_config() returns a ConfigDict.
    """
    file = path_of(given)
    if not os.path.isfile(file):
        raise ValueError(f"there is no config {given!r}; {meant(given).replace('--config=', '')}")
    spec = importlib.util.spec_from_file_location(f"config_{pathlib.PurePath(file).stem}", file)
    if spec is None or spec.loader is None:
        raise ValueError(f"{given} is no config: a file of your own ends in .py")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        config = module.get_config()
    except Exception as error:  # a config is a program, and may raise anything
        raise ValueError(f"{given} cannot be loaded: {type(error).__name__}: {error}") from error
    check(config, f"what get_config() of {given} returns")
    return config


def check(config: object, what: str) -> None:
    """Raises ValueError for a config that is no ConfigDict."""
    if not isinstance(config, ConfigDict):
        mend = 'simclr_jax.load_config("imagefolder", {"train.epochs": 50}) makes one'
        raise ValueError(f"{what} is {type(config).__name__} {shown(config)}, no ConfigDict; {mend}")
