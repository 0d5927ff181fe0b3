"""What the user typed: read, and where it cannot be, said in the words of this program; --help and --version."""

import ast
import difflib
import os
import pathlib
import re
import shlex
import sys
import textwrap
import traceback
from collections.abc import Sequence
from importlib import metadata
from typing import Any, NoReturn

from absl import flags
from ml_collections import ConfigDict, config_flags

import simclr_jax
from simclr_jax.commands import config_files
from simclr_jax.runtime.config import check_keys, check_type, flatten
from simclr_jax.runtime.key_names import check_key, nearest_key

PREFIX = "config."
_TRACEBACK = "Error whilst parsing config file:\n\nTraceback"
_DASHES = "-–—−"  # the last three are what becomes of a hyphen in documents that a command was copied from
_ASSIGNED = re.compile(r" +config\.([\w.]+) = .+?(?:  # (.*))?$")


def parse(argv: Sequence[str], known: ConfigDict | None, *, what: str, config: str | None) -> list[str]:
    """Reads flags; returns what is none. Answers --help and --version, and ends the program then.

    Args:
      argv: the program and its arguments.
      known: a config with every key there is; None for a program without --config.
      what: what --config says, for --help.
      config: the file of a --config that is not given.

    Raises:
      ValueError: a flag, a key or a value that cannot be, or a config that cannot be loaded.
    """
    asked = {_name(argument) for argument in argv[1:]}
    if "version" in asked:
        print(version())
        sys.exit()
    if asked & {"help", "h", "?", "helpshort", "helpfull"}:
        print(_help(known, what, config))
        sys.exit()
    try:
        if known is not None:
            for argument in argv[1:]:  # the flag parser would name only the last part of an unknown key
                if _name(argument).startswith(PREFIX) and argument[0] == "-":
                    check_key(_name(argument).removeprefix(PREFIX), flatten(known))
            config_flags.DEFINE_config_file("config", config, what)  # here, because it loads the default at once
            argv = _with_files(argv)
        return flags.FLAGS(list(argv))
    except flags.UnrecognizedFlagError as error:
        _refuse_flag(error.flagname, argv, known)
    except (flags.Error, ValueError) as error:
        _refuse_value(str(error), known)
    except Exception as error:  # a config is a program, and may raise anything when it is loaded
        place = traceback.extract_tb(error.__traceback__)[-1]
        told = isinstance(error, SyntaxError) or "ml_collections" in place.filename
        where = "" if told else f" ({place.filename}, line {place.lineno})"
        raise ValueError(f"--config cannot be loaded: {type(error).__name__}: {error}{where}") from error


def check_rest(rest: Sequence[str], known: ConfigDict | None) -> None:
    """Raises ValueError where something was typed that is no flag; ``rest`` begins with the program."""
    for argument in rest[1:]:
        raise ValueError(f"{argument!r} is not a flag; {_meant(argument, known) or 'flags begin with --, see --help'}")


def config(known: ConfigDict) -> ConfigDict:
    """Returns what --config loaded; raises ValueError where it is missing, no config, or has other keys."""
    flag = flags.FLAGS["config"]
    path = flag.config_filename if flag.present or flag.default else None
    if not path:
        raise ValueError(_NO_CONFIG)
    if not os.path.exists(path):
        raise ValueError(f"--config={path} does not exist; {config_files.meant(path)}")
    found = flag.value
    if not isinstance(found, ConfigDict):
        fault = f"its get_config() returns {type(found).__name__}, not a ConfigDict"
        try:
            getattr(found, "keys", None)
        except OSError as error:  # of the loading; ml_collections keeps it until an attribute is asked for
            fault = str(error.__cause__ or error)
        raise ValueError(f"--config={path} cannot be loaded: {fault}")
    check_keys(found, known)
    return found


def written(name: str) -> tuple[str, str]:
    """Returns how a flag is typed, "--workdir=RUN", and what it means; its help is "RUN: what it means"."""
    flag = flags.FLAGS[name]
    if flag.boolean:
        return f"--[no]{name}", flag.help
    value, _, meaning = flag.help.partition(";\n")[0].partition(": ")  # absl adds a line to flags that may be repeated
    return f"--{name}={value}", meaning


def version() -> str:
    """Returns what --version answers."""
    return f"simclr_jax {simclr_jax.__version__}, jax {metadata.version('jax')}"


_NO_CONFIG = "--config=NAME is required: a shipped config or your own FILE.py; --config=quickstart needs no data"


def _with_files(argv: Sequence[str]) -> list[str]:
    """Returns arguments in which the name of a shipped config, --config=NAME, is its file."""
    named = list(argv)
    for place, argument in enumerate(argv):
        name, equals, value = argument.partition("=")
        if name in ("--config", "-config") and equals:
            named[place] = f"{name}={_file_of(value)}"
        elif place and argv[place - 1] in ("--config", "-config"):
            named[place] = _file_of(argument)
    return named


def _file_of(given: str) -> str:
    """Returns a config's file. One that there is not is told here: a key behind it would fail first, in other words."""
    file = config_files.path_of(given)
    if given and not os.path.exists(file.partition(":")[0]):
        raise ValueError(f"--config={given} does not exist; {config_files.meant(given)}")
    return file


def _name(argument: str) -> str:
    """Returns the name of a flag as it was typed: "config" of --config=x."""
    return argument.lstrip(_DASHES).split("=")[0] if argument[:1] in set(_DASHES) else ""


def _own_flags() -> list[str]:
    """Returns the names of the flags that this program defines itself."""
    modules = [name for name in flags.FLAGS.flags_by_module_dict() if name.startswith("simclr_jax.commands.")]
    modules.sort(key=lambda name: name.endswith(".launch"))  # what all commands have comes last
    ours = [flag for module in modules for flag in flags.FLAGS.flags_by_module_dict()[module]]
    return [flag.name for flag in ours if flag.name.split(".")[0] != "config"]


def _meant(argument: str, known: ConfigDict | None) -> str:
    """Returns "did you mean --workdir=x?" for an argument that is no flag; "" where nothing is near."""
    name, equals, value = argument.lstrip(_DASHES).partition("=")
    names = [*_own_flags(), *["config"] * (known is not None)]
    key = name.replace("-", "_").removeprefix(PREFIX)
    if not equals and (flag := _flag_of(name, known)):
        found = flag
    elif near := difflib.get_close_matches(key, names, n=1, cutoff=0.65):
        found = near[0] + equals + value
    elif known is not None and (near := nearest_key(key, list(flatten(known)))):
        found = PREFIX + near + equals + value
    else:
        return ""
    return f"did you mean {shlex.quote(f'--{found}')}?"


def _flag_of(word: str, known: ConfigDict | None) -> str:
    """Returns the flag whose value a word is: a config, a run or a folder of photos; or ""."""
    if known is not None and (word.endswith(".py") or ("train" in known and word in config_files.names())):
        return f"config={word}"
    if os.path.isfile(os.path.join(word, "config.json")) and "workdir" in _own_flags():
        return f"workdir={word}"
    if os.path.isdir(word) and known is not None and "data.source" in flatten(known):
        return f"{PREFIX}data.source=folder:{word}"
    return ""


def _refuse_flag(name: str, argv: Sequence[str], known: ConfigDict | None) -> NoReturn:
    """Raises ValueError for a flag that there is not, or a key without --config."""
    if name.startswith(PREFIX) and known is None:
        raise ValueError(f"--{name} is not a flag: this command has no config; see --help")
    if name.startswith(PREFIX):  # it is a key, so that it is --config that is missing: not given, or given otherwise
        others = [argument for argument in argv[1:] if not _name(argument).startswith(PREFIX)]
        wrong = next((other for other in others if "--config=" in _meant(other, known)), None)
        if not wrong:
            raise ValueError(_NO_CONFIG)
        raise ValueError(f"{wrong!r} is not a flag; {_meant(wrong, known)}")
    argument = next((argument for argument in argv[1:] if _name(argument) == name), f"--{name}")
    raise ValueError(f"--{name} is not a flag; {_meant(argument, known) or 'see --help'}")


def _refuse_value(message: str, known: ConfigDict | None) -> NoReturn:
    """Raises ValueError in the words of this program where a value is not of its flag's type."""
    # ml_collections writes a traceback into the messages of some errors: its last line is the message.
    head, marker, lines = message.partition(_TRACEBACK)
    if marker:
        raise ValueError(f"{head}{lines.strip().splitlines()[-1]}")
    found = re.match(r"flag --([\w.]+)=(.*?): ", message, re.DOTALL)
    name, text = found.groups() if found else ("", "")
    if known is not None and name.removeprefix(PREFIX) in flatten(known):
        example = flatten(known)[name.removeprefix(PREFIX)]
        check_text(name, text, example)
    elif name in flags.FLAGS and flags.FLAGS[name].flag_type() == "int":
        check_text(f"--{name}", text, flags.FLAGS[name].default or 1)
    raise ValueError(message)


def check_text(name: str, text: str, example: Any) -> None:
    """Raises ValueError for a text that is not of its example's type."""
    try:
        whole = int(float(text)) if isinstance(example, int) and float(text).is_integer() else None
    except (ValueError, OverflowError):
        whole = None
    if isinstance(example, int) and whole is not None and str(whole) == text:
        return  # of the right type; what is wrong with it is something else
    try:
        check_type(name.removeprefix(PREFIX), text, example)
    except ValueError as error:
        line = str(error) if name.startswith(PREFIX) else str(error).replace(PREFIX, "", 1)
        raise ValueError(line if whole is None else f"{line}; write {whole}") from None


def _help(known: ConfigDict | None, what: str, config: str | None) -> str:
    """Returns what --help answers: the program's words, its flags, and the keys of its config with their comments."""
    lines = [(sys.modules["__main__"].__doc__ or "").strip(), "", "flags:"]
    lines += [f"  --config={what}"] if known is not None else []
    for name in _own_flags():
        default = flags.FLAGS[name].default
        lines.append(": ".join(["  " + written(name)[0], written(name)[1]]))
        lines[-1] += "" if default in (None, False, True, []) else f" (default: {default})"
    lines.append("  --version: print the version")
    if known is not None:
        if "train" in known:
            lines += ["", textwrap.fill(f"shipped configs: {', '.join(config_files.names())}", 118)]
        file = pathlib.Path(config or config_files.FOLDER / "default.py")
        said = comments(file)
        lines += ["", f"config keys, with their values in the config {file.stem}:"]
        for key, value in flatten(known).items():
            setting = f"  --config.{key}={value}"
            lines.append(f"{setting:52}  {said.get(key, '')}".rstrip())
    return "\n".join(lines)


def comments(file: pathlib.Path) -> dict[str, str]:
    """Returns {key: the comment behind it} of a file of configs/ and, for other keys, of those that it starts from."""
    text = file.read_text(encoding="utf-8")
    found, above = {}, []
    for line in text.splitlines():
        if assigned := _ASSIGNED.match(line):
            found[assigned[1]] = assigned[2] or " ".join(above)
        above = [*above, line.strip("# ")] if line.strip().startswith("#") else []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.module == "simclr_jax.configs":
            for name in node.names:
                found = comments(file.with_name(f"{name.name}.py")) | {k: c for k, c in found.items() if c}
    return found
