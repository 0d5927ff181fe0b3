"""The processes of a run: joined at the start, agreeing, ended together. Names jax.distributed, as no other does."""

import atexit
import contextlib
import logging
import os
import socket
import sys
import threading

import jax
import numpy as np
from jax.experimental import multihost_utils

from simclr_jax.runtime import heartbeat, launcher

PATIENCE = 300.0  # seconds that a process waits at its start for the others

_log = logging.getLogger(__name__)


def process() -> tuple[int, int]:
    """Returns this process's index and the number of processes."""
    return jax.process_index(), jax.process_count()


def is_first() -> bool:
    """Whether this process is the one that writes."""
    return jax.process_index() == 0


def agree(value: int) -> int:
    """Returns what process 0 gives here, in every process. All have to call it; below 2³¹.

    Raises:
      RuntimeError: another process is gone.
    """
    if jax.process_count() == 1:
        return value
    try:
        return int(multihost_utils.broadcast_one_to_all(np.int32(value)))
    except ValueError as error:  # as which jax raises it now and then; `ProcessGroup` then waits for the other's words
        raise RuntimeError(_in_a_line(error)) from error


class ProcessGroup:
    """The processes of a run, among them this one, while it is entered.

    An error that leaves it is told to the other processes, which end then; and this one ends without waiting for them,
    which jax would do. All but process 0 print errors only. On a single process it does nothing.
    """

    def __init__(self):
        self._heartbeat: heartbeat.Heartbeat | None = None
        self._exits = contextlib.ExitStack()

    def __enter__(self) -> "ProcessGroup":
        return self

    def join(self, processes: launcher.Processes | None, *, patience: float = PATIENCE) -> None:
        """Joins the other processes, before any device is touched.

        Args:
          processes: who they are; None where there are none.
          patience: seconds to wait for them, after which this process ends with exit code 69.

        Raises:
          ValueError: they cannot be joined, or have unequal numbers of devices.
        """
        if processes is None:
            return
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        with contextlib.suppress(AttributeError):  # signals are preemption's; jax would take SIGTERM for itself
            jax.config.update("jax_enable_preemption_service", False)
        if processes.coordinator and processes.index == 0:
            port = int(processes.coordinator.rpartition(":")[2])
            try:
                socket.create_server(("", port)).close()  # jax would crash where it is taken
            except OSError as error:
                message = f"--coordinator={processes.coordinator}: port {port} of this host: {error.strerror}"
                raise ValueError(message) from error
        # jax would end the process with a page of C++; it gets the longer time, so that this line comes first.
        alarm = threading.Timer(patience, lambda: heartbeat.end(_who_is_missing(processes, patience)))
        alarm.daemon = True
        alarm.start()
        try:
            jax.distributed.initialize(
                processes.coordinator, processes.count, processes.index, initialization_timeout=round(2 * patience) + 60
            )
            jax.devices()
        except (RuntimeError, ValueError) as error:
            raise ValueError(f"{processes.launcher}: jax cannot join the processes: {_in_a_line(error)}") from error
        finally:
            alarm.cancel()
        if jax.process_count() == 1:
            return
        self._heartbeat = _start_heartbeat(processes)
        if not is_first():
            nowhere = self._exits.enter_context(open(os.devnull, "w"))  # noqa: SIM115 - closed with the others
            self._exits.enter_context(contextlib.redirect_stdout(nowhere))
        if jax.local_device_count() * jax.process_count() != jax.device_count():
            raise ValueError(
                f"process {jax.process_index()} has {jax.local_device_count()} of the {jax.device_count()} devices of "
                f"{jax.process_count()} processes; give every process the same number"
            )

    def __exit__(self, kind: type | None, error: BaseException | None, _: object) -> None:
        self._exits.close()
        if self._heartbeat is None:
            return
        if isinstance(error, RuntimeError):  # of jax, maybe because another process is gone
            self._heartbeat.wait()
        self._heartbeat.leave("" if error is None else _in_a_line(error))
        if error is not None:
            atexit.register(_end_alone, self._heartbeat, error)


def _who_is_missing(processes: launcher.Processes, patience: float) -> str:
    waited = f"waited {patience:.0f} s for {processes.count or 'the other'} processes ({processes.launcher})"
    if processes.index != 0 and processes.coordinator:
        host, _, port = processes.coordinator.rpartition(":")
        try:
            socket.create_connection((host, int(port)), timeout=5.0).close()
        except OSError as error:
            return f"{waited}; no process 0 answers at {processes.coordinator}: {error.strerror or error}"
    return f"{waited}, and not all of them started"


def _start_heartbeat(processes: launcher.Processes) -> heartbeat.Heartbeat:
    """Connects the processes, all of which call this, so that each notices when another is gone."""
    known = [processes.coordinator.rpartition(":")[0]] if processes.coordinator else []
    server = heartbeat.Server([*known, socket.gethostname()]) if is_first() else None
    line = np.zeros(1024, np.uint8)
    if server:
        line[: len(server.address)] = np.frombuffer(server.address.encode(), np.uint8)
    address = bytes(np.asarray(multihost_utils.broadcast_one_to_all(line))).rstrip(b"\0").decode()
    try:
        links = (
            server.admit(jax.process_count() - 1) if server else {0: heartbeat.connect(address, jax.process_index())}
        )
    except OSError as error:
        links = {}
        _log.warning("%s: only jax will notice, later, if a process is gone", error)
    return heartbeat.Heartbeat(links)


def _in_a_line(error: BaseException) -> str:
    return " ".join((str(error) or type(error).__name__).split())[:500].removeprefix("error: ")


def _end_alone(others: heartbeat.Heartbeat, error: BaseException) -> None:
    """Ends the process after its error has been printed. Without this, jax would wait for the other processes."""
    others.wait()
    code = error.code if isinstance(error, SystemExit) else 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 1)
