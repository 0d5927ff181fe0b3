"""Who started this process, and beside how many others: told by flags, or by a launcher in the environment."""

import os
from collections.abc import Mapping
from typing import NamedTuple

# What srun and mpirun tell each process that they start. Counts are those of the job step: within an allocation of four
# tasks, a shell or a program started without srun is one process, whatever SLURM_NTASKS says there.
_LAUNCHERS = {
    "SLURM": ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID"),
    "Open MPI": ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
}
_KNOWS_PROCESS_0 = {"SLURM": "SLURM_STEP_NODELIST", "Open MPI": "OMPI_MCA_orte_hnp_uri"}  # what jax finds it by
_TPU_HOSTS = ("TPU_PROCESS_ADDRESSES", "TPU_WORKER_HOSTNAMES")  # comma-separated


class Processes(NamedTuple):
    """The processes of a run; None is for jax to find out.

    Attributes:
      launcher: what started them, in words.
      coordinator: "HOST:PORT" of process 0.
      count: how many there are.
      index: which of them this is, from 0.
    """

    launcher: str
    coordinator: str | None
    count: int | None
    index: int | None


def find(
    coordinator: str | None,
    count: int | None,
    index: int | None,
    *,
    environment: Mapping[str, str] = os.environ,
) -> Processes | None:
    """Returns the processes of the run that this one belongs to; None where it is the only one.

    Flags go before what a launcher says, and ``--coordinator`` alone is enough where there is one.

    Args:
      coordinator, count, index: the flags --coordinator, --num_processes and --process_id.
      environment: the process's.

    Raises:
      ValueError: flags that say too little, or too much.
    """
    launched = _launched(environment)
    if (coordinator, count, index) == (None, None, None):
        if launched and launched.launcher in _KNOWS_PROCESS_0:
            variable = _KNOWS_PROCESS_0[launched.launcher]
            if variable not in environment:  # as with Open MPI 5
                raise ValueError(
                    f"{launched.launcher} started {launched.count} processes but does not tell which host runs "
                    "process 0; "
                    "give --coordinator=HOST:PORT, the host of process 0 and any free port there"
                )
        return launched
    if launched and coordinator and (count, index) == (None, None):
        return launched._replace(coordinator=_address(coordinator))
    given = {"--coordinator=HOST:PORT": coordinator, "--num_processes=N": count, "--process_id=I": index}
    missing = [flag for flag, value in given.items() if value is None]
    if missing:
        raise ValueError(f"several processes need --coordinator, --num_processes and --process_id; add {missing[0]}")
    if count < 1:
        raise ValueError(f"--num_processes={count} must be 1 or more")
    if not 0 <= index < count:
        raise ValueError(f"--process_id={index} must be 0 to {count - 1}: --num_processes={count}")
    return Processes("flags", _address(coordinator), count, index) if count > 1 else None


def _launched(environment: Mapping[str, str]) -> Processes | None:
    for launcher, (count, index) in _LAUNCHERS.items():
        if index in environment and _number(environment, count) > 1:
            return Processes(launcher, None, _number(environment, count), _number(environment, index))
    hosts = next((environment[name] for name in _TPU_HOSTS if name in environment), "")
    # jax sets the platform where it finds TPU chips; which hosts a slice has, it then reads from the metadata server.
    if "," in hosts or (not hosts and "TPU_ML_PLATFORM" in environment and "TPU_SKIP_MDS_QUERY" not in environment):
        return Processes("a TPU slice", None, None, None)
    return None


def _address(coordinator: str) -> str:
    host, _, port = coordinator.rpartition(":")
    if not (host and port.isdecimal() and 0 < int(port) < 2**16):
        raise ValueError(f"--coordinator={coordinator} must be HOST:PORT: the host of process 0 and a free port there")
    return coordinator


def _number(environment: Mapping[str, str], name: str) -> int:
    text = environment.get(name, "1")
    if not text.isdecimal():
        raise ValueError(f"{name}={text} in the environment must be a number")
    return int(text)
