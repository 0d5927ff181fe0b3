"""Command lines: what the user typed becomes a checked config, and what went wrong becomes one line."""

import argparse
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from logging import getLogger
from types import ModuleType
from typing import Any, NoReturn

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from simclr_jax.data import process
from simclr_jax.runtime import launcher, preemption

_PREFIX = "--config."
_TRACEBACK = "Error whilst parsing config file:\n\nTraceback"
_LONGEST_LINE = 2000  # characters of an error; a value that it shows may be of any length
_INTERRUPTED = 130  # the shell's code for a program that Ctrl-C stopped


def launch(
    main: Callable[..., object],
    *,
    known: ConfigDict | None,
    arguments: Sequence[str],
    what: str = "The run: configs/NAME.py. Any key: --config.section.key=value",
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
    # Here, because they import jax, which `settle_process` comes before.
    from simclr_jax.runtime import processes
    from simclr_jax.runtime.config import check_key, flatten

    instead = instead or {}
    logging.set_verbosity(logging.ERROR)  # while the config is loaded: what is wrong with it is said in one line
    for module, defined in flags.FLAGS.flags_by_module_dict().items():
        for flag in defined if module.startswith("simclr_jax.commands.") else ():  # else --help would not list it
            flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)

    def parse(argv: list[str]) -> list[str]:
        try:
            if known is not None:
                for argument in argv:  # the flag parser would name only the last part of an unknown key
                    if argument.startswith(_PREFIX):
                        check_key(argument.removeprefix(_PREFIX).split("=")[0], flatten(known))
                config_flags.DEFINE_config_file("config", config, what)  # here, because it loads the default at once
            return flags.FLAGS(argv)
        except (flags.Error, ValueError) as error:
            # ml_collections writes a traceback into the messages of some errors: its last line is the message.
            head, marker, lines = str(error).partition(_TRACEBACK)
            return _stop(ValueError(f"{head}{lines.strip().splitlines()[-1]}") if marker else error)
        except Exception as error:  # a config is a program, and may raise anything when it is loaded
            place = traceback.extract_tb(error.__traceback__)[-1]
            told = isinstance(error, SyntaxError) or "ml_collections" in place.filename
            where = "" if told else f" ({place.filename}, line {place.lineno})"
            return _stop(ValueError(f"--config cannot be loaded: {type(error).__name__}: {error}{where}"))

    def drive(argv: list[str]) -> None:
        with processes.ProcessGroup() as group:
            try:
                if argv[1:]:
                    raise ValueError(f"{argv[1]!r} is no flag; flags begin with --, see --help")
                given = [] if known is None else [_config(known)]
                other = [run for name, run in instead.items() if flags.FLAGS[name].value]
                missing = [name for name in arguments if flags.FLAGS[name].value in (None, "")]
                if missing and not other:
                    raise ValueError(f"--{missing[0]} is missing: {flags.FLAGS[missing[0]].help}")
                if not flags.FLAGS["verbosity"].present:
                    logging.set_verbosity(logging.WARNING)
                if flags.FLAGS.verbosity < logging.INFO:
                    _quiet()
                found = launcher.find(*([flags.FLAGS[name].value for name in several] or [None] * 3))
                if found and found.count and not several:
                    raise ValueError(
                        f"this command runs in one process, and {found.launcher} started {found.count}; start one"
                    )
                group.join(found if several else None)
                if other:
                    other[0](*given)
                else:
                    main(*given, **{name: flags.FLAGS[name].value for name in arguments})
            except (ValueError, ArithmeticError, OSError) as error:
                _stop(error)
            except preemption.Stopped as stopped:
                print(stopped, file=sys.stderr)
                sys.exit(preemption.STOPPED)
            except KeyboardInterrupt:
                print("interrupted; the same command goes on from the last checkpoint", file=sys.stderr)
                sys.exit(_INTERRUPTED)

    app.run(drive, flags_parser=parse)


def launch_on_run(
    run: Callable[..., object], config: ModuleType, arguments: Sequence[str] = (), *, out: bool = False
) -> None:
    """Runs ``run(config, workdir, **arguments)``, what is done with a RUN, from flags; as :func:`launch`.

    Args:
      run: the driver.
      config: a module of configs/, of which --config.key changes the values.
      arguments: names of further flags, which the calling program defines.
      out: whether the driver also takes ``out``, the folder that it writes to instead of RUN, or None.
    """
    if out:
        flags.DEFINE_string("out", None, "A folder for results and features, for a RUN that cannot be written.")

    def driver(*given: Any, **named: Any) -> None:
        run(*given, **named, **({"out": flags.FLAGS.out} if out else {}))

    flags.DEFINE_string("workdir", None, "RUN, the folder of a pretraining run.")
    what = f"How. Any key: --config.key=value; {config.__name__.replace('.', '/')}.py has them all"
    launch(driver, known=config.get_config(), arguments=["workdir", *arguments], what=what, config=config.__file__)


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


def settle_process() -> None:
    """Makes the settings of the whole process. Programs do so before they import jax or TensorFlow, the library never.

    Both read the environment when they are imported, and jax sets a log level of its own there. TensorFlow's notes, on
    the machine and of each damaged JPEG, are noise beside the one line that tells a failure, and without oneDNN its
    arithmetic does not depend on the processor. TFDS uses what TensorFlow calls deprecated, line after line.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    getLogger("tensorflow").setLevel("ERROR")
    process.own()


def _quiet() -> None:
    """Leaves a failure to be told in the one line: Orbax logs pages of tracebacks of it, through absl and asyncio."""
    for name in ("absl", "asyncio"):
        getLogger(name).setLevel("CRITICAL")


def _config(known: ConfigDict) -> ConfigDict:
    """Returns what --config loaded; raises ValueError where it is missing, no config, or has other keys."""
    from simclr_jax.runtime.config import check_keys

    flag = flags.FLAGS["config"]
    path = flag.config_filename if flag.present or flag.default else None
    if not path:
        raise ValueError("--config=configs/NAME.py is missing; --config=configs/quickstart.py needs no data")
    if not os.path.exists(path):
        raise ValueError(f"--config={path} does not exist")
    config = flag.value
    if not isinstance(config, ConfigDict):
        fault = f"its get_config() returns {type(config).__name__}, not a ConfigDict"
        try:
            getattr(config, "keys", None)
        except OSError as error:  # of the loading; ml_collections keeps it until an attribute is asked for
            fault = str(error.__cause__ or error)
        raise ValueError(f"--config={path} cannot be loaded: {fault}")
    check_keys(config, known)
    return config


def _stop(error: Exception) -> NoReturn:
    logging.debug("", exc_info=error)
    line = " ".join(str(error).split())
    if len(line) > _LONGEST_LINE:
        line = f"{line[: _LONGEST_LINE // 2]} … {line[-_LONGEST_LINE // 2 :]}"
    # File names and configs may be anybody's, and a terminal would obey what they hold of control characters.
    sys.exit("error: " + "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line))
