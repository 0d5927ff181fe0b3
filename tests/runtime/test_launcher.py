"""Flags and launchers' environments become one answer: which process this is, of how many, or that it is alone."""

import pytest

from simclr_jax.runtime import launcher
from simclr_jax.runtime.launcher import Processes

SLURM = {"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "2", "SLURM_STEP_NODELIST": "node[1-4]", "SLURM_NTASKS": "4"}
MPI = {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1", "OMPI_MCA_orte_hnp_uri": "4096.0;tcp://10.0.0.1:1"}
TPU = {"TPU_ML_PLATFORM": "JAX"}


def find(environment, coordinator=None, count=None, index=None):
    return launcher.find(coordinator, count, index, environment=environment)


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_JOB_ID": "7"},  # a batch script or a shell, without srun
        SLURM | {"SLURM_STEP_NUM_TASKS": "1"},
        MPI | {"OMPI_COMM_WORLD_SIZE": "1"},
        TPU | {"TPU_SKIP_MDS_QUERY": "1"},
        TPU | {"TPU_WORKER_HOSTNAMES": "localhost"},
    ],
)
def test_a_process_that_nobody_started_with_others_is_alone(environment):
    assert find(environment) is None
    assert find(environment, "a:1", 1, 0) is None


def test_launchers_say_which_process_this_is():
    assert find(SLURM) == Processes("SLURM", None, 4, 2)
    assert find(MPI) == Processes("Open MPI", None, 2, 1)
    assert find(TPU) == find(TPU | {"TPU_WORKER_HOSTNAMES": "a,b"}) == Processes("a TPU slice", None, None, None)


def test_flags_go_before_launchers_and_may_add_to_them():
    assert find(SLURM, "a:1", 2, 0) == find({}, "a:1", 2, 0) == Processes("flags", "a:1", 2, 0)
    assert find(SLURM, "a:1") == Processes("SLURM", "a:1", 4, 2)
    assert find({**MPI, "OMPI_MCA_orte_hnp_uri": ""}, "[::1]:9") == Processes("Open MPI", "[::1]:9", 2, 1)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("a:1", None, None), "add --num_processes=N"),
        (("a:1", 2, None), "add --process_id=I"),
        ((None, 2, 1), "add --coordinator=HOST:PORT"),
        (("a:1", 2, 2), "--process_id=2 must be 0 to 1: --num_processes=2"),
        (("a:1", 2, -1), "--process_id=-1 must be 0 to 1"),
        (("a:1", 0, 0), "--num_processes=0 must be 1 or more"),
        (("a", 2, 0), "--coordinator=a must be HOST:PORT"),
        ((":1", 2, 0), "--coordinator=:1 must be HOST:PORT"),
        (("a:70000", 2, 0), "--coordinator=a:70000 must be HOST:PORT"),
    ],
)
def test_flags_that_say_too_little_or_too_much_are_refused_in_a_line(flags, message):
    with pytest.raises(ValueError) as error:
        find({}, *flags)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_launcher_that_does_not_say_where_process_0_is_is_refused():
    environment = {name: value for name, value in MPI.items() if name != "OMPI_MCA_orte_hnp_uri"}
    with pytest.raises(ValueError, match="Open MPI started 2 processes .* give --coordinator=HOST:PORT"):
        find(environment)
