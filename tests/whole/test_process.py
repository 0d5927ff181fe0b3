"""A process stays as it is when the library is imported; TensorFlow is set up in one that belongs to the library."""

import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
FILES = [path for path in sorted((ROOT / "simclr_jax").rglob("*.py")) if path.name != "__main__.py"]

STATE = """
import ctypes, logging, os, random, signal, sys, threading, warnings
import etils.epath, flax, jax, matplotlib.figure, ml_collections.config_flags, numpy, onnx, optax, orbax.checkpoint
import psutil, safetensors.numpy, scipy.stats, tensorflow as tf, tensorflow_datasets, tqdm
import PIL.Image

def state():
    return {
        "Pillow's limit": PIL.Image.MAX_IMAGE_PIXELS,
        "environment": dict(os.environ),
        "filters of warnings": list(warnings.filters),
        "visible devices": tf.config.get_visible_devices(),
        "threads": tf.config.threading.get_intra_op_parallelism_threads(),
        "hooks": (sys.unraisablehook, sys.excepthook, threading.excepthook),
        "signals": [signal.getsignal(number) for number in signal.valid_signals()],
        "modules without a module": [name for name, module in sys.modules.items() if module is None],
        "calls of the C library": list(calls),
        "levels of logs": {name: logging.getLogger(name).level for name in ("", "absl", "tensorflow", "jax", "PIL")},
        "random state": (random.getstate(), numpy.random.get_state()[1].tolist()),
        "hidden": list(hidden),
    }

def changes(before):
    return {name for name, value in state().items() if value != before[name]}

class C:  # in the place of the C library
    def __init__(self, name):
        pass

    def mallopt(self, *values):
        calls.append(values)

calls, hidden = [], []
ctypes.CDLL = C
tf.config.set_visible_devices = lambda *devices: hidden.append(devices)
untouched = state()
"""


def run(code):
    command = [sys.executable, "-c", STATE + code]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)


def test_importing_a_module_changes_nothing_of_the_process():
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in FILES]
    modules = [*names, "train", "eval_linear"]
    assert {"simclr_jax.augment.decode", "simclr_jax.data.reading", "simclr_jax.data.feed"} <= set(modules)
    lines = [f"import {name}\nassert not changes(untouched), ('{name}', changes(untouched))" for name in modules]
    result = run("\n".join(lines))
    assert result.returncode == 0, result.stderr[-2000:]


USES = {
    "a feed": """
feed.Feed(split, split, Recipe(8), placement="host", cache="host", batch_size=2, validation_batch_size=2, seed=0,
          shard=(0, 1), max_corrupt_fraction=0.0)
""",
    "a TFDS source": """
try:
    sources.open_source("tfds:no/such:set:at:all")
except ValueError as error:
    assert "tfds:no/such" in str(error)
else:
    raise AssertionError("opened")
""",
}


@pytest.mark.parametrize("use", USES)
def test_tensorflow_is_set_up_before_its_first_use_in_an_own_process_alone(use):
    result = run(f"""
from simclr_jax.augment import pillow
from simclr_jax.augment.recipe import Recipe
from simclr_jax.data import feed, process, sources
from simclr_jax.data.split import Split
split = Split.whole(numpy.zeros((4, 8, 8, 3), numpy.uint8), None)
{USES[use]}
assert not changes(untouched), changes(untouched)
process.own()
assert not changes(untouched), "before TensorFlow is needed"
{USES[use]}
assert changes(untouched) == {{"Pillow's limit", "threads", "calls of the C library", "hidden"}}, changes(untouched)
assert PIL.Image.MAX_IMAGE_PIXELS == pillow.MAX_PIXELS
assert tf.config.threading.get_intra_op_parallelism_threads() == 1
assert hidden == [([], "GPU")] and len(calls) == 3
""")
    assert result.returncode == 0, result.stderr[-2000:]


def test_a_programs_own_flags_are_its_own():
    """Nothing that Python imports of the commands takes names of flags, such as --log, from the program."""
    code = "import simclr_jax\nfor name in simclr_jax.__all__: getattr(simclr_jax, name)\n"
    code += "from absl import flags\nfor name in ('log', 'quiet', 'verbose', 'workdir', 'config', 'out'):\n"
    code += "    flags.DEFINE_string(name, '', 'mine')\n"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-500:]
