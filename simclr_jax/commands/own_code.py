"""A user's own code: --import=FILE.py runs it as Python, so that what it registers is known to the command.

Only a user's flag runs a file. What a run or a config stores never does.
"""

import importlib.util
import pathlib
import sys
import traceback
from collections.abc import Sequence

HELP = "FILE.py: your own code, run as Python first, which registers encoders, losses and the like; may be repeated"

imported: dict[pathlib.Path, str] = {}  # the files that this process has run, and how the user gave them


def run(files: Sequence[str]) -> None:
    """Runs files as Python, in their order, each once; they may import what lies beside them.

    Raises:
      ValueError: a file does not exist, or fails.
    """
    for given in files:
        path = pathlib.Path(given).expanduser().resolve()
        if path in imported:
            continue
        if not path.is_file():
            meant = f"; did you mean --import={given}.py?" if path.with_name(f"{path.name}.py").is_file() else ""
            raise ValueError(f"--import={given}: there is no such file{meant}")
        name = f"import_{len(imported)}_{path.stem}"
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None or spec.loader is None:
            raise ValueError(f"--import={given}: give a Python file, whose name ends in .py")
        if (folder := str(path.parent)) not in sys.path:
            sys.path.append(folder)
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # where dataclasses, and so flax modules, look for it
        try:
            spec.loader.exec_module(module)
        except (Exception, SystemExit) as error:  # it is a program, and may raise anything
            raise ValueError(f"--import={given} cannot be run: {_reason(error, path)}") from error
        imported[path] = given


def _reason(error: BaseException, path: pathlib.Path) -> str:
    """One line, with the file's own line where it failed."""
    places = traceback.extract_tb(error.__traceback__)
    lines = [place.lineno for place in places if place.filename == str(path)]
    where = f" (line {lines[-1]})" if lines else ""
    ours = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
    return f"{ours}{' '.join(str(error).split())}{where}"
