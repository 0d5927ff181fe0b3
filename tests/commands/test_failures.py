"""What goes wrong in jax, its devices or the memory is told in one line, with a mend."""

import errno
import os
import pathlib
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax.commands import failures, pretrain
from support.tiny_config import small, write_archive

ROOT = pathlib.Path(__file__).parents[2]
QUICKSTART = ("--config=configs/quickstart.py", "--workdir=run")


def execute(*arguments, cwd=ROOT, **env):
    env = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"} | env
    return subprocess.run([sys.executable, *arguments], cwd=cwd, env=env, capture_output=True, text=True, check=False)


def too_much():
    return jnp.zeros((2**20, 2**20)).block_until_ready()  # 4 TiB


def of_jax():
    try:
        too_much()
    except jax.errors.JaxRuntimeError as error:
        return error
    raise AssertionError("so much memory")


@pytest.mark.parametrize(
    ("error", "answer"),
    [
        (MemoryError(), True),
        (np.exceptions.AxisError("x"), False),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), True),
        (OSError(errno.ENOSPC, "No space left on device"), False),
        (
            jax.errors.JaxRuntimeError("INTERNAL: Error dispatching computation: Out of memory allocating 9 bytes."),
            True,
        ),
        (jax.errors.JaxRuntimeError("INVALID_ARGUMENT: shapes"), False),
        (type("ResourceExhaustedError", (Exception,), {})("OOM when allocating tensor"), True),
        (ValueError("out of memory"), False),
    ],
)
def test_memory_that_is_not_there_is_told_from_other_errors(error, answer):
    assert failures.is_out_of_memory(error) is answer
    assert failures.is_out_of_memory(of_jax())


def told(error):
    """The line that ends the program."""
    with pytest.raises(SystemExit) as end, failures.told("take less"):
        raise error
    return end.value.code


def test_out_of_memory_and_errors_of_jax_are_a_line_and_a_fault_of_the_program_is_a_traceback():
    assert told(of_jax()) == "error: out of memory: Out of memory allocating 4398046511104 bytes; take less"
    assert told(MemoryError()) == "error: out of memory: MemoryError; take less"
    line = told(jax.errors.JaxRuntimeError("INTERNAL: two\nlines of jax"))
    assert line == "error: jax: INTERNAL: two; --verbose shows where"
    assert len(told(jax.errors.JaxRuntimeError("x" * 10**6))) < 400
    for error in (KeyError("a bug"), TypeError("a bug"), RuntimeError("a bug")):
        with pytest.raises(type(error)), failures.told("take less"):
            raise error


def test_an_error_of_memory_is_not_stopped_before_it_is_told_of():
    error = OSError(errno.ENOMEM, "Cannot allocate memory")
    with pytest.raises(OSError, match="Cannot allocate") as raised:
        failures.stop(error)
    assert raised.value is error
    with pytest.raises(SystemExit, match="^error: x$"):
        failures.stop(ValueError("x"))


# A command that asks for more than there is.
SCRIPT = """
from simclr_jax.commands.settle import settle_process
settle_process()
import jax.numpy as jnp
from simclr_jax.commands import COMMAND
def run(*given, **named):
    jnp.zeros((2**20, 2**20)).block_until_ready()
COMMAND.run = run
COMMAND.main()
"""


@pytest.mark.parametrize(
    ("command", "flags", "mend"),
    [
        ("pretrain", [*QUICKSTART, "--verbose"], "add --plan to the command to see what a step needs"),
        ("diagnose", ["--workdir=run"], "use a smaller --config.batch_size"),
    ],
)
def test_out_of_memory_names_what_to_try(command, flags, mend):
    result = execute("-c", SCRIPT.replace("COMMAND", command), *flags)
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert result.returncode == 1 and len(lines) == 1
    assert lines[0].startswith("error: out of memory: Out of memory allocating 4398046511104 bytes; " + mend)
    assert ("Traceback" in result.stderr) == ("--verbose" in flags)


@pytest.mark.parametrize(
    ("variable", "command"),
    [
        ("JAX_PLATFORMS", f"{ROOT}/train.py --config={ROOT}/configs/quickstart.py --workdir=run"),
        ("JAX_PLATFORM_NAME", "-m simclr_jax diagnose --workdir=run"),
        ("JAX_PLATFORMS", "-m simclr_jax export torch run --out=x"),
    ],
)
def test_a_platform_that_is_not_here_is_named_with_its_variable(variable, command, tmp_path):
    result = execute(*command.split(), cwd=tmp_path, **{variable: "no-such"})
    assert result.returncode == 1 and len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith(f"error: {variable}=no-such is set, but jax finds no such device here (")
    assert f"`unset {variable}`" in result.stderr
    assert not list(tmp_path.iterdir())


def test_a_run_without_its_config_gets_it_back_as_the_message_says(tmp_path, monkeypatch):
    source = f"npz:{write_archive(tmp_path / 'images.npz')}"
    config, run, other = (
        small(source, **{"train.epochs": 1, "optimizer.warmup_epochs": 0.0}),
        tmp_path / "my run",
        tmp_path / "other",
    )
    pretrain.run(config, str(run))
    whole = (run / "config.json").read_bytes()
    (run / "config.json").unlink()
    with pytest.raises(ValueError) as error:
        pretrain.run(config, str(run))
    assert "run the command that made the checkpoints with another --workdir, stop it at the first step" in str(
        error.value
    )
    assert str(error.value).endswith(f"copy config.json from there to '{run}'/") and "\n" not in str(error.value)

    def stopped(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(pretrain.loop, "train", stopped)
        pretrain.run(config, str(other))
    assert (other / "config.json").read_bytes() == whole
    shutil.copy(other / "config.json", run)
    pretrain.run(config, str(run))
