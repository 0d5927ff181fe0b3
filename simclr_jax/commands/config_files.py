"""Configs by their names or files: those that are shipped, and a user's own."""

import difflib
import importlib.util
import os
import pathlib

from ml_collections import ConfigDict

from simclr_jax import configs
from simclr_jax.runtime.config import shown

FOLDER = pathlib.Path(next(iter(configs.__path__)))
_OF_OTHERS = "recipes"  # its folder of published recipes, whose names begin with it: recipes/cifar10_plain_sgd


def names() -> list[str]:
    """Returns the shipped configs that say how to pretrain: "cifar10", "imagefolder", …, "recipes/…"."""
    files = [*sorted(FOLDER.glob("*.py")), *sorted((FOLDER / _OF_OTHERS).glob("*.py"))]
    others = ("__init__", "default")  # which says nothing yet of what to train on
    shipped = [path.relative_to(FOLDER).with_suffix("").as_posix() for path in files if path.stem not in others]
    return [name for name in shipped if "train" in load(name)]  # those of probes have no such section


def path_of(given: str) -> str:
    """Returns the file of a shipped config's name; what is no such name is a file already, there or not."""
    folder, _, name = given.rpartition("/")
    file = FOLDER / f"{given}.py"
    return str(file) if folder in ("", _OF_OTHERS) and name.isidentifier() and file.is_file() else given


def name_of(file: str) -> str:
    """Returns what names a file in --config: the name of a shipped config, or else the file."""
    path, shipped = pathlib.Path(file).resolve(), FOLDER.resolve()
    return path.relative_to(shipped).with_suffix("").as_posix() if path.is_relative_to(shipped) else file


def meant(given: str) -> str:
    """Returns the name or file that was meant by a --config that does not exist, as a question; or which there are."""
    folder = os.path.dirname(given) or "."
    beside = [os.path.join(folder, name) for name in os.listdir(folder)] if os.path.isdir(folder) else []
    files = [name.removeprefix("./") for name in beside if name.endswith(".py") and "__init__" not in name]
    shipped = {pathlib.PurePath(name).name: name for name in reversed(names())}  # of two of one name the shorter
    of_name = difflib.get_close_matches(pathlib.PurePath(given).stem, shipped, n=1)
    near = difflib.get_close_matches(given, [*files, *names()], n=1) or [shipped[name] for name in of_name]
    if near:
        return f"did you mean --config={near[0]}?"
    return f"the shipped configs are {', '.join(names())}; your own config is a file whose name ends in .py"


def load(given: str) -> ConfigDict:
    """Returns a config, by the name of a shipped one or of your own FILE.py, which is run as Python.

    Raises:
      ValueError: it does not exist, or is not a file whose get_config() returns a ConfigDict.
    """
    file = path_of(given)
    if not os.path.isfile(file):
        raise ValueError(f"there is no config {given!r}; {meant(given).replace('--config=', '')}")
    spec = importlib.util.spec_from_file_location(f"config_{pathlib.PurePath(file).stem}", file)
    if spec is None or spec.loader is None:
        raise ValueError(f"{given} is not a config: your own is a file whose name ends in .py")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        config = module.get_config()
    except Exception as error:  # a config is a program, and may raise anything
        raise ValueError(f"{given} cannot be loaded: {type(error).__name__}: {error}") from error
    check(config, f"what get_config() of {given} returns")
    return config


def check(config: object, what: str) -> None:
    """Raises ValueError for a config that is not a ConfigDict."""
    if not isinstance(config, ConfigDict):
        mend = 'simclr_jax.load_config("imagefolder", {"train.epochs": 50}) makes one'
        raise ValueError(f"{what} is {type(config).__name__} {shown(config)}, not a ConfigDict; {mend}")
