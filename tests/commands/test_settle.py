"""What a program prints never ends it, whatever becomes of its output."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from support import processes

ROOT = pathlib.Path(__file__).parents[2]
NAMES = ("größe ×", "日本")

PRINTS = r"""
import contextlib, os, sys
from simclr_jax.commands.settle import settle_process
settle_process()
settle_process()
from absl import logging as of_absl
from simclr_jax.runtime.console import progress, say
for number in progress(range(3000)):
    say(f"{number} \xd7 gr\xf6\xdfe \udcc3")
    if number % 1000 == 0:
        print("\xd7 \udcc3", file=sys.stderr)
        of_absl.error("\xd7 \udcc3")
with open(sys.argv[1], "w") as file:
    for number in (1, 2):
        with contextlib.suppress(OSError):
            os.write(number, b"from a library")
    file.write("the end")
"""

WAYS = ["| head -1", ">&-", "2>&-", "<&- >&- 2>&-", ">/dev/full", ">/dev/full 2>/dev/full", "2>&1 | head -1"]


def through(way, command, cwd=ROOT, **env):
    """Runs a command in a shell, with its output going some way; (exit code, stdout, stderr)."""
    shell = ["bash", "-c", f'"$@" {way}; exit ${{PIPESTATUS[0]}}', "bash", *map(str, command)]
    env = os.environ | {"PYTHONPATH": str(ROOT)} | env
    found = subprocess.run(shell, cwd=cwd, env=env, capture_output=True, check=False, timeout=processes.PATIENCE)
    return found.returncode, found.stdout.decode(errors="replace"), found.stderr.decode(errors="replace")


@pytest.mark.parametrize("way", WAYS)
def test_a_program_goes_on_to_its_end_wherever_its_output_goes(way, tmp_path):
    code, _, err = through(way, [sys.executable, "-c", PRINTS, tmp_path / "end"])
    assert (code, (tmp_path / "end").read_text()) == (0, "the end")
    assert "Traceback" not in err and "Error" not in err


PLUGIN_FAILS = """
import logging, os, sys
here = sys.argv[1] == "driver"
os.path.exists = lambda path, exists=os.path.exists: here if path.startswith("/dev/") else exists(path)
from simclr_jax.commands.settle import settle_process
settle_process()
import jax
log = logging.getLogger("jax._src.xla_bridge")
log.error("Jax plugin configuration error: Exception when calling jax_plugins.xla_cuda12.initialize()")
log.error("something else")
"""


@pytest.mark.parametrize("driver", ["driver", "none"])
def test_a_compiler_for_plans_is_no_missing_gpu(driver, tmp_path):
    """jax tells a CUDA plug-in that cannot run by a traceback: news where there is a driver alone."""
    code, _, err = through("", [sys.executable, "-c", PLUGIN_FAILS, driver])
    assert code == 0 and "something else" in err
    assert ("plugin configuration error" in err) == (driver == "driver")


@pytest.mark.parametrize(
    ("env", "shown"),
    [
        ({"PYTHONIOENCODING": "ascii"}, r"2999 \xd7 gr\xf6\xdfe \udcc3"),
        ({"PYTHONIOENCODING": "latin-1"}, "2999 × größe \\udcc3".encode("latin-1").decode(errors="replace")),
        ({"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, r"2999 \xd7 gr\xf6\xdfe \udcc3"),
        ({"PYTHONIOENCODING": "utf-8"}, r"2999 × größe \udcc3"),
    ],
)
def test_what_cannot_be_shown_is_shown_as_its_code(env, shown, tmp_path):
    code, out, _ = through("", [sys.executable, "-c", PRINTS, tmp_path / "end"], **env)
    assert code == 0 and shown in out.splitlines()
    assert len([line for line in out.splitlines() if "×" in line or "xd7" in line or "�" in line]) == 3000


def test_a_pipe_that_does_not_wait_gets_all_that_is_printed(tmp_path):
    """As a terminal may be that another program has set so."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    command = [sys.executable, "-c", PRINTS, str(tmp_path / "end")]
    with subprocess.Popen(command, cwd=ROOT, stdout=writing, stderr=subprocess.DEVNULL) as process:
        os.close(writing)
        with open(reading, "rb") as pipe:
            assert pipe.read().decode().endswith("\n2999 × größe \\udcc3\nfrom a library")
    assert process.returncode == 0


def train(run, way, **env):
    """Trains for an epoch of 4 steps; (exit code, stdout, stderr)."""
    settings = processes.TINY | {"train.epochs": 1, "optimizer.warmup_epochs": 0.0}
    settings["data.source"] = processes.archive(run.parent)
    flags = [f"--config.{key}={value}" for key, value in settings.items()]
    program = [sys.executable, "tests/support/smallest.py", "--config=configs/quickstart.py", f"--workdir={run}"]
    return through(way, [*program, *flags], **env)


@pytest.fixture(scope="module", name="closed")
def make_closed(tmp_path_factory):
    """A run that had no output, and how it ended."""
    run = tmp_path_factory.mktemp("closed") / "run"
    return run, train(run, "<&- >&- 2>&-")


def test_a_run_whose_output_is_closed_is_trained_to_its_end(closed):
    run, (code, _, _) = closed
    assert (code, processes.checkpoints(run)[-1]) == (0, 4)


def test_a_run_whose_reader_is_gone_is_trained_to_its_end(tmp_path):
    code, out, err = train(tmp_path / "run", "| head -1", PYTHONIOENCODING="ascii")
    assert (code, processes.checkpoints(tmp_path / "run")[-1]) == (0, 4)
    assert len(out.splitlines()) == 1 and "rror" not in err


@pytest.fixture(scope="module", name="images")
def make_images(tmp_path_factory):
    """A folder of classes whose names not every terminal shows."""
    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp("images")
    for split in ("train", "test"):
        for number, name in enumerate(NAMES):
            (folder / split / name).mkdir(parents=True)
            for index in range(10):
                pixels = rng.integers(0, 80, (8, 8, 3), np.uint8) + np.uint8(80 * number)
                Image.fromarray(pixels).save(folder / split / name / f"{index}.png")
    return folder


@pytest.mark.parametrize(
    ("way", "env"),
    [(">&- 2>/dev/full", {}), ("", {"PYTHONIOENCODING": "ascii"})],
    ids=["closed", "ascii"],
)
def test_a_probe_is_written_wherever_its_output_goes(way, env, closed, images):
    run, _ = closed
    result = run / "eval" / "knn.json"
    result.unlink(missing_ok=True)
    command = [
        sys.executable,
        "-c",
        "import runpy; from support import smallest; runpy.run_module('simclr_jax', run_name='__main__')",
    ]
    command += ["knn", f"--workdir={run}", f"--config.data.source=folder:{images}", "--config.neighbours=(1,)"]
    code, out, err = through(way, command, **env | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"})
    assert code == 0 and "Traceback" not in err, err[-2000:]
    assert set(json.loads(result.read_text())["per_class"]) == set(NAMES)
    assert out.isascii()
