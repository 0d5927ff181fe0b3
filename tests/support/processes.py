"""Real training processes: started as a user starts them, watched by what they leave, and ended in every way."""

import json
import os
import pathlib
import subprocess
import sys
import time

import jax
import numpy as np
import orbax.checkpoint as ocp

from simclr_jax.runtime.metrics import TIMES
from support import smallest

ROOT = pathlib.Path(__file__).parents[2]
SIZE, IMAGES, CLASSES = 8, 40, 4
PATIENCE = 240.0  # seconds; far more than anything takes on a busy machine

TINY = {
    "model.encoder": smallest.NAME,
    "augment.image_size": SIZE,
    "augment.placement": "device",
    "train.batch_size": 8,
    "train.epochs": 4,
    "log.every_steps": 1,
    "checkpoint.every_steps": 3,
}


def archive(folder, images=IMAGES):
    """Writes images.npz; a tenth of its training images is held out for validation, of 40 exactly 4."""
    rng = np.random.default_rng(1)
    arrays = {}
    for split, n in (("train", images), ("test", 8)):
        arrays[f"x_{split}"] = rng.integers(0, 256, (n, SIZE, SIZE, 3), np.uint8)
        arrays[f"y_{split}"] = np.arange(n) % CLASSES
    np.savez(folder / "images.npz", **arrays)
    return f"npz:{folder / 'images.npz'}"


def start(run, source, *, devices=1, program="tests/support/smallest.py", more=(), **changes):
    """Starts training, by train.py with the smallest encoder known; keys are spelt with __ for a dot.

    ``more`` are further flags.
    """
    settings = TINY | {"data.source": source} | {key.replace("__", "."): value for key, value in changes.items()}
    flags = [f"--config.{key}={value}" for key, value in settings.items()]
    command = [sys.executable, program, "--config=configs/quickstart.py", f"--workdir={run}", *flags, *more]
    env = os.environ | {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
    env |= {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def finish(process):
    """(exit code, output, error output) of a process that ends by itself."""
    out, err = process.communicate(timeout=PATIENCE)
    return process.returncode, out, err


def train(run, source, **settings):
    """Trains to the end."""
    code, out, err = finish(start(run, source, **settings))
    assert code == 0, err[-2000:]
    return out


def wait_until(condition, process):
    """Waits for what a process is to leave behind; fails if it ends before."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert process.poll() is None, f"ended with {process.returncode}: {process.stderr.read()[-2000:]}"
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.005)


def metrics(run):
    """The rows of metrics.jsonl; the last one may be torn."""
    path = run / "metrics.jsonl"
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def untimed(run):
    """The rows without what depends on the hour: alike in a run that was stopped and went on, to the last digit."""
    return [json.dumps({name: value for name, value in row.items() if name not in TIMES}) for row in metrics(run)]


def starts(run):
    return [json.loads(line) for line in (run / "versions.jsonl").read_text().splitlines()]


def checkpoints(run):
    return sorted(int(path.name) for path in (run / "checkpoints").iterdir() if path.name.isdigit())


def arrays(run, step):
    """Everything that a checkpoint holds, {path: array}, read by Orbax alone."""
    path, checkpointer = run / "checkpoints" / str(step), ocp.PyTreeCheckpointer()
    as_numpy = jax.tree.map(
        lambda _: ocp.RestoreArgs(restore_type=np.ndarray), checkpointer.metadata(path).item_metadata.tree
    )
    tree = checkpointer.restore(path, restore_args=as_numpy)
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(value) for path, value in leaves}


def assert_same_run(run, other, step):
    """Two runs hold the same bits at a step, parameters, statistics, optimisers and probe, and the same metrics."""
    mine, others = arrays(run, step), arrays(other, step)
    assert mine.keys() == others.keys()
    assert {"params", "batch_stats", "opt_state", "probe_params", "probe_opt_state"} <= {
        key.split("/")[0] for key in mine
    }
    for name, value in mine.items():
        np.testing.assert_array_equal(value, others[name], err_msg=name)
    assert untimed(run) == untimed(other)
