"""Command lines: what the user typed becomes a checked config, and what went wrong becomes one line."""

import argparse
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from logging import getLogger
from typing import Any, NoReturn

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from simclr_jax.runtime import launcher, preemption, processes
from simclr_jax.runtime.config import check_key, check_keys, flatten

_PREFIX = "--config."
_TRACEBACK = "Error whilst parsing config file:\n\nTraceback"
_LONGEST_LINE = 2000  # characters of an error; a value that it shows may be of any length
_INTERRUPTED = 130  # the shell's code for a program that Ctrl-C stopped


def launch(
    main: Callable[..., object],
    *,
    known: ConfigDict | None,
    arguments: Sequence[str],
    what: str = "",
    config: str | None = None,
    several: Sequence[str] = (),
    instead: dict[str, Callable[[ConfigDict], object]] | None = None,
) -> None:
    """Runs ``main(config, **arguments)`` from flags: --config, and ``arguments``, which the calling program defines.

    A ValueError, ArithmeticError or OSError ends the program with its message and exit code 1; ``--verbosity=1`` adds
    the traceback. A run that was told to stop, and has saved everything, ends with exit code 75.

    Args:
      main: the driver.
      known: a config with every key there is; None for a driver without one, which is called as ``main(**arguments)``.
      arguments: names of further flags; one without a value is refused.
      what: what --config says, for --help.
      config: the file of a --config that is not given.
      several: names of the flags that tell of several processes, for a driver that runs in them.
      instead: drivers that take the config alone, by the flags that ask for them in the place of ``main``.
    """
    logging.set_verbosity(logging.ERROR)  # while the config is loaded: what is wrong with it is said in one line
    getLogger("tensorflow").setLevel("ERROR")  # TFDS uses what TensorFlow calls deprecated, line after line

    def parse(argv: list[str]) -> list[str]:
        try:
            if known is not None:
                _check_overrides(argv, known)
                config_flags.DEFINE_config_file("config", config, what)  # here, because it loads the default at once
            return flags.FLAGS(argv)
        except (flags.Error, ValueError) as error:
            return _stop(_without_traceback(error))
        except Exception as error:  # a config is a program, and may raise anything when it is loaded
            return _stop(_not_loaded(error))

    def drive(argv: list[str]) -> None:
        with processes.ProcessGroup() as group:
            attempt(argv, group)

    def attempt(argv: list[str], group: processes.ProcessGroup) -> None:
        try:
            if argv[1:]:
                raise ValueError(f"{argv[1]!r} is no flag; flags begin with --, see --help")
            given = [] if known is None else [_config(known)]
            other = [run for name, run in (instead or {}).items() if flags.FLAGS[name].value]
            driver, values = (other[0], {}) if other else (main, {name: _value(name) for name in arguments})
            _set_verbosity()
            group.join(_processes(several))
            driver(*given, **values)
        except (ValueError, ArithmeticError, OSError) as error:
            _stop(error)
        except preemption.Stopped as stopped:
            print(stopped, file=sys.stderr)
            sys.exit(preemption.STOPPED)
        except KeyboardInterrupt:
            print("interrupted; the same command goes on from the last checkpoint", file=sys.stderr)
            sys.exit(_INTERRUPTED)

    app.run(drive, flags_parser=parse)


def run(main: Callable[..., object], **arguments: Any) -> None:
    """Runs a driver that has no config; what went wrong ends the program in one line, as in :func:`launch`."""
    _quiet()
    try:
        main(**arguments)
    except (ValueError, ArithmeticError, OSError) as error:
        _stop(error)


class Parser(argparse.ArgumentParser):
    """Reads a command line without a config; what is wrong with it ends the program in one line."""

    def error(self, message: str) -> NoReturn:
        """Ends the program."""
        _stop(ValueError(f"{message}; see {self.prog} --help"))


def _set_verbosity() -> None:
    """Leaves a failure to be told in the one line: Orbax logs pages of tracebacks of it, through absl and asyncio."""
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)
    if flags.FLAGS.verbosity < logging.INFO:
        _quiet()


def _quiet() -> None:
    for name in ("absl", "asyncio"):
        getLogger(name).setLevel("CRITICAL")


def _value(name: str) -> Any:
    flag = flags.FLAGS[name]
    if flag.value in (None, ""):
        raise ValueError(f"--{name} is missing: {flag.help}")
    return flag.value


def _processes(several: Sequence[str]) -> launcher.Processes | None:
    """Returns the processes of the run; refuses more than one where the driver is for one."""
    if several:
        return launcher.find(*(flags.FLAGS[name].value for name in several))
    found = launcher.find(None, None, None)
    if found and found.count:
        raise ValueError(f"this command runs in one process, and {found.launcher} started {found.count}; start one")
    return None


def _check_overrides(argv: list[str], known: ConfigDict) -> None:
    """Names an unknown key in full; the flag parser would name only its last part."""
    known_keys = flatten(known)
    for argument in argv:
        key = argument.removeprefix(_PREFIX).split("=")[0]
        if argument.startswith(_PREFIX):
            check_key(key, known_keys)


def _config(known: ConfigDict) -> ConfigDict:
    flag = flags.FLAGS["config"]
    path = flag.config_filename if flag.present or flag.default else None
    if not path:
        raise ValueError("--config=configs/NAME.py is missing; --config=configs/quickstart.py needs no data")
    if not os.path.exists(path):
        raise ValueError(f"--config={path} does not exist")
    config = flag.value
    if not isinstance(config, ConfigDict):
        raise ValueError(f"--config={path} cannot be loaded: {_fault_of(config)}")
    check_keys(config, known)
    return config


def _fault_of(config: Any) -> str:
    """Why a loaded config is none; ml_collections keeps an OSError of the loading until an attribute is asked for."""
    try:
        getattr(config, "keys", None)
    except OSError as error:
        return str(error.__cause__ or error)
    return f"its get_config() returns {type(config).__name__}, not a ConfigDict"


def _not_loaded(error: Exception) -> ValueError:
    place = traceback.extract_tb(error.__traceback__)[-1]
    told = isinstance(error, SyntaxError) or "ml_collections" in place.filename
    where = "" if told else f" ({place.filename}, line {place.lineno})"
    return ValueError(f"--config cannot be loaded: {type(error).__name__}: {error}{where}")


def _without_traceback(error: Exception) -> Exception:
    """An error without the traceback that ml_collections writes into the messages of some."""
    head, marker, lines = str(error).partition(_TRACEBACK)
    return ValueError(f"{head}{lines.strip().splitlines()[-1]}") if marker else error


def _stop(error: Exception) -> NoReturn:
    logging.debug("", exc_info=error)
    line = " ".join(str(error).split())
    if len(line) > _LONGEST_LINE:
        line = f"{line[: _LONGEST_LINE // 2]} … {line[-_LONGEST_LINE // 2 :]}"
    # File names and configs may be anybody's, and a terminal would obey what they hold of control characters.
    sys.exit("error: " + "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line))
