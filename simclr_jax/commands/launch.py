"""Starts a command: what the user typed becomes its config and arguments, and what goes wrong becomes one line."""

import argparse
import functools
import sys
from collections.abc import Callable, Sequence
from logging import getLogger
from types import ModuleType
from typing import Any, NoReturn

from absl import app, flags, logging
from ml_collections import ConfigDict

from simclr_jax.commands import command_line, failures, own_code
from simclr_jax.runtime import compile_cache, console, devices, disk, launcher, preemption, processes
from simclr_jax.runtime.console import say

_INTERRUPTED = 130  # the shell's code for a program that Ctrl-C stopped


def launch(
    main: Callable[..., object],
    *,
    known: ConfigDict | None,
    arguments: Sequence[str],
    what: str = "NAME: a shipped config or your own FILE.py (run as Python); any key: --config.section.key=value",
    config: str | None = None,
    several: Sequence[str] = (),
    instead: dict[str, tuple[Callable[..., object], Sequence[str]]] | None = None,
) -> None:
    """Runs ``main(config, **arguments)`` from flags: --config, and ``arguments``, which the calling program defines.

    A ValueError, ArithmeticError or OSError ends the program with its message and exit code 1; ``--verbose`` adds the
    traceback. A run that was told to stop, and has saved everything, ends with exit code 75.

    Args:
      main: the driver.
      known: a config with every key there is; None for a driver without one, which is called as ``main(**arguments)``.
      arguments: names of further flags; one without a value is refused.
      what: what --config says, for --help.
      config: the file of a --config that is not given.
      several: names of the flags that tell of several processes, for a driver that runs in them.
      instead: drivers that take the place of ``main``, by the flags that ask for them, and the names of the flags that
        belong to each: it is called as ``driver(config, **flags)``.
    """
    logging.set_verbosity(logging.ERROR)  # while the config is loaded: what is wrong with it is said in one line
    flags.DEFINE_multi_string("import", [], own_code.HELP)
    flags.DEFINE_bool("quiet", False, _QUIET)
    flags.DEFINE_bool("verbose", False, _VERBOSE)
    flags.DEFINE_enum("log", "text", ["text", "json"], _LOG)

    def parse(argv: list[str]) -> list[str]:
        try:
            return command_line.parse(argv, known, what=what, config=config)
        except ValueError as error:
            failures.stop(error)

    def drive(rest: list[str]) -> None:
        with failures.told(_less_memory(known, instead or {})), processes.ProcessGroup() as group:
            try:
                console.use(_console(flags.FLAGS.quiet, flags.FLAGS.verbose, flags.FLAGS.log))
                if flags.FLAGS.verbosity < logging.INFO:  # else it was asked what the libraries below log
                    _leave_failures_to_us()
                call = _chosen(rest, main, known, arguments, instead or {})
                group.join(_processes(several))
                devices.check_platform()
                own_code.run(flags.FLAGS["import"].value)  # now, because it may use the devices
                call()
            except failures.ONE_LINE as error:
                failures.stop(error)
            except preemption.Stopped as stopped:
                console.event("stopped", console.Level.RESULTS, text=str(stopped), exit_code=preemption.STOPPED)
                print(stopped, file=sys.stderr)
                sys.exit(preemption.STOPPED)
            except KeyboardInterrupt:
                interrupted = "interrupted; the same command resumes from the last checkpoint"
                console.event("stopped", console.Level.RESULTS, text=interrupted, exit_code=_INTERRUPTED)
                print(interrupted, file=sys.stderr)
                sys.exit(_INTERRUPTED)

    app.run(drive, flags_parser=parse)


def _chosen(
    rest: list[str],
    main: Callable[..., object],
    known: ConfigDict | None,
    arguments: Sequence[str],
    instead: dict[str, tuple[Callable[..., object], Sequence[str]]],
) -> Callable[[], object]:
    """Returns what the flags ask for, with what they give it; raises ValueError where something is missing or stray."""
    command_line.check_rest(rest, known)
    given = [] if known is None else [command_line.config(known)]
    for name in ("workdir", "out"):  # at once, before the data are looked through
        places = flags.FLAGS[name].value if name in flags.FLAGS else None
        for place in places if isinstance(places, list) else [places or ""]:
            disk.check_on_disk(place)
    for name, (driver, own) in instead.items():
        if flags.FLAGS[name].value:
            return functools.partial(driver, *given, **{flag: flags.FLAGS[flag].value for flag in own})
        if stray := next((flag for flag in own if flags.FLAGS[flag].present), None):
            raise ValueError(f"--{stray} only works with --{name}; add --{name}, or leave out --{stray}")
    values = {name: flags.FLAGS[name].value for name in arguments}
    for name, value in values.items():
        if value in (None, ""):
            raise ValueError(" is required: ".join(command_line.written(name)))
    return functools.partial(main, *given, **values)


def _processes(several: Sequence[str]) -> launcher.Processes | None:
    """Returns the processes of the run; raises ValueError where there are some and the command runs in one."""
    found = launcher.find(*([flags.FLAGS[name].value for name in several] or [None] * 3))
    if several or not found:
        return found
    if found.count:
        raise ValueError(
            f"this command runs in one process, but {found.launcher} started {found.count}; start only one"
        )
    return None


def _less_memory(known: ConfigDict | None, instead: dict[str, Any]) -> str:
    """Returns what takes less memory, in words."""
    if "plan" in instead:
        return (
            "add --plan to the command to see what a step needs and find settings that fit, such as "
            "--config.model.remat=True, train.microbatch_size or a smaller train.batch_size"
        )
    has_batch = known is not None and "batch_size" in known
    return "use a smaller --config.batch_size" if has_batch else "use a machine with more memory"


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
        flags.DEFINE_string("out", None, "FOLDER: where to save results and features if the run's folder is read-only")

    def driver(*given: Any, **named: Any) -> None:
        keep_compiled()
        run(*given, **named, **({"out": flags.FLAGS.out} if out else {}))

    flags.DEFINE_string("workdir", None, "RUN: the folder of a pretraining run")
    what = "FILE.py: a config file (run as Python) instead of the values below; any key: --config.key=value"
    launch(driver, known=config.get_config(), arguments=["workdir", *arguments], what=what, config=config.__file__)


def keep_compiled() -> None:
    """Keeps what a driver compiles for the next start. It takes the devices, which some drivers leave to others."""
    if without := compile_cache.keep():
        say(without)


def run(
    main: Callable[..., object],
    *,
    quiet: bool = False,
    verbose: bool = False,
    log: str = "text",
    imports: Sequence[str] = (),
    **arguments: Any,
) -> None:
    """Runs a driver that has no config; what went wrong ends the program in one line, as in :func:`launch`."""
    logging.use_absl_handler()
    with failures.told(_less_memory(None, {})):
        try:
            console.use(_console(quiet, verbose, log))
            _leave_failures_to_us()
            disk.check_on_disk(arguments.get("out", ""))
            devices.check_platform()
            own_code.run(imports)
            main(**arguments)
        except failures.ONE_LINE as error:
            failures.stop(error)


class Parser(argparse.ArgumentParser):
    """Reads a command line without a config; what is wrong with it ends the program in one line."""

    def __init__(self, *names: Any, **options: Any):
        super().__init__(*names, **options)
        self.add_argument(
            "--import", action="append", dest="imports", default=[], metavar="FILE.py", help=own_code.HELP
        )
        self.add_argument("--quiet", action="store_true", help=_QUIET)
        self.add_argument("--verbose", action="store_true", help=_VERBOSE)
        self.add_argument("--log", choices=["text", "json"], default="text", help=_LOG)
        self.add_argument("--version", action="version", version=command_line.version())

    def error(self, message: str) -> NoReturn:
        """Ends the program."""
        failures.stop(ValueError(f"{message}; see {self.prog} --help"))


def _console(quiet: bool, verbose: bool, log: str) -> console.Console:
    """Returns how much is shown; raises ValueError where two flags contradict each other."""
    if quiet and verbose:
        raise ValueError("--quiet and --verbose contradict each other; use only one of them")
    level = console.Level.RESULTS if quiet else console.Level.DETAILS if verbose else console.Level.MESSAGES
    return console.Console(level, as_json=log == "json")


def _leave_failures_to_us() -> None:
    """Has a failure told in one line alone: Orbax logs pages of tracebacks of it, through absl and asyncio."""
    logging.set_verbosity(logging.WARNING)
    for name in ("absl", "asyncio"):
        getLogger(name).setLevel("CRITICAL")


_QUIET = "show only results and errors"
_VERBOSE = "show more, such as the tensors without weight decay and the traceback of an error"
_LOG = "the output format; json prints one JSON object per line, for schedulers and other programs"
