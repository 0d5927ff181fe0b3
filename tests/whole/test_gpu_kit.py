"""The kit of a GPU's rows: figures stand whatever becomes of a row, and its own rows run, as toys, to the last line."""

import json
import lzma
import os
import pathlib
import signal
import subprocess
import sys
import time

import ml_dtypes
import numpy as np
import pytest

from simclr_jax.commands import pretrain
from support.processes import arrays
from support.tiny_config import small, write_archive

ROOT = pathlib.Path(__file__).parents[2]
KIT = ROOT / "benchmarks"
sys.path.append(str(KIT))
import gpu_data  # noqa: E402
import gpu_queue  # noqa: E402
import gpu_state  # noqa: E402

TELL = """
import json, os, signal, subprocess, sys, time
def tell(name, value, unit="s"):
    print("FIGURE " + json.dumps({"name": name, "value": value, "unit": unit}), flush=True)
"""
ORPHAN = "import os, time; os.setpgid(0, 0); time.sleep(600)"
STAND_INS = {
    "well": "tell('a', 1.5); print('prose'); tell('b', None)",
    "failing": "tell('a', 2.0); print('what went wrong'); sys.exit(3)",
    # Its process does not end when it is told to, and leaves one that is stopped, in a group of its own.
    "hanging": f"""
child = subprocess.Popen([sys.executable, '-c', {ORPHAN!r}])
tell('child', child.pid)
time.sleep(0.3)
os.kill(child.pid, signal.SIGSTOP)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
tell('a', 3.0)
time.sleep(600)""",
    "killed": "tell('a', 4.0); os.kill(os.getpid(), signal.SIGKILL)",
    "part": "tell('a', 5.0); tell('status', 'half of it', 'status')",
}


def take(folder, names, *, budget=600.0, most=60.0, seconds=0.0, skip=(), **options):
    """Takes stand-ins for rows; returns the lines of results.jsonl and {row: what became of it}."""
    results = gpu_queue.Results(folder / "results.jsonl", {"card": "none"})
    gpu_queue.take(
        [gpu_queue.Row(number, name, seconds, most) for number, name in enumerate(names)],
        results,
        end=time.monotonic() + budget,
        skip=set(skip),
        command_of=lambda row, seconds: [sys.executable, "-c", TELL + STAND_INS[row.name]],
        environment=dict(os.environ),
        log=folder / "rows.log",
        **options,
    )
    lines = gpu_queue.read_lines(folder / "results.jsonl")
    assert lines == results.lines  # what is told is on disk
    return lines, {line["part"]: line["value"] for line in lines if line["unit"] == "status"}


def is_alive(number):
    try:
        return pathlib.Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def test_rows_that_fail_hang_or_are_killed_leave_their_figures_and_the_next_one_follows(tmp_path):
    lines, status = take(tmp_path, ["failing", "hanging", "killed", "part", "well"], most=3.0)
    values = {(line["part"], line["name"]): line["value"] for line in lines}
    assert [values[name, "a"] for name in ("failing", "hanging", "killed", "part", "well")] == [2.0, 3.0, 4.0, 5.0, 1.5]
    assert values["well", "b"] is None
    assert "exit code 3: what went wrong" in status["failing"]
    assert status["hanging"].startswith("ended at its limit of 3 s")
    assert "SIGKILL" in status["killed"]
    assert status["part"] == "half of it" and status["well"] == "done"
    assert not is_alive(values["hanging", "child"])
    log = (tmp_path / "rows.log").read_text()
    assert "prose" in log and all(f", {name}: " in log for name in status)
    assert {"row", "part", "name", "value", "unit", "card", "command", "date"} <= lines[0].keys()


def test_a_row_that_is_done_is_not_taken_again_and_one_that_failed_is(tmp_path):
    take(tmp_path, ["well", "failing"])
    skip = gpu_queue.done(gpu_queue.read_lines(tmp_path / "results.jsonl"), rehearsal=False)
    assert skip == {"well"}
    before = len(gpu_queue.read_lines(tmp_path / "results.jsonl"))
    lines, _ = take(tmp_path, ["well", "failing"], skip=skip)
    assert [line["part"] for line in lines[before:]] == ["failing", "failing"]
    rehearsed = [{"part": "well", "unit": "status", "value": "done", "rehearsal": True}]
    assert gpu_queue.done(rehearsed, rehearsal=False) == set() and gpu_queue.done(rehearsed, rehearsal=True) == {"well"}


def test_a_row_that_the_budget_does_not_hold_is_left_out_and_says_so(tmp_path):
    lines, status = take(tmp_path, ["well"], budget=50.0, seconds=60.0)
    assert status["well"].startswith("left out: it is budgeted 60 s, and 50 s of --budget are left")
    assert len(lines) == 1
    begun = time.monotonic()
    _, status = take(tmp_path, ["hanging", "well"], budget=2.0, seconds=1.0)
    assert "limit of 2 s" in status["hanging"] and "left out" in status["well"]
    assert time.monotonic() - begun < 10


def test_a_row_may_take_what_those_after_it_do_not_need():
    rows = [gpu_queue.Row(1, "a", 40, 0), gpu_queue.Row(2, "b", 500, 0), gpu_queue.Row(3, "c", 50, 0)]
    assert gpu_queue.spare(100, rows) == 10  # b, which does not fit, gets nothing
    assert gpu_queue.spare(100, []) == 100


def test_a_torn_line_of_results_is_passed_over_and_the_next_one_is_whole(tmp_path):
    take(tmp_path, ["well"])
    path = tmp_path / "results.jsonl"
    path.write_text(path.read_text()[:-20])
    lines, _ = take(tmp_path, ["well"])
    assert [line["name"] for line in lines] == ["a", "b", "a", "b", "status"]


def kit(out, *flags, **environment):
    command = [sys.executable, KIT / "gpu.py", "--rehearse", f"--out={out}", f"--scratch={out}/scratch", *flags]
    env = os.environ | {"XLA_FLAGS": "", "JAX_PLATFORMS": "cpu", **environment}
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.Popen(command, cwd=out, env=env, text=True, **streams)


def test_rows_rehearse_to_the_last_line(tmp_path):
    process = kit(tmp_path, "--rows=4,cifar10", "--budget=400")
    shown, _ = process.communicate(timeout=420)
    assert process.returncode == 0, shown
    lines = gpu_queue.read_lines(tmp_path / "results.jsonl")
    status = {line["part"]: line["value"] for line in lines if line["unit"] == "status"}
    assert status == {"loss": "done", "cifar10": "done"}, shown
    names = {line["name"] for line in lines}
    wanted = {"NT-Xent, 64 images, stripes", "NT-Xent, 64 images: stripes / dense", "cifar10: epochs"}
    wanted |= {"cifar10: kNN top-1", "cifar10: kNN top-1, k=10, plain vote, all images", "cifar10: linear top-1"}
    assert wanted <= names
    assert all(line["rehearsal"] and line["card"] == "cpu" and line["versions"]["jax"] for line in lines)
    table = shown[shown.index("| row | figure |") :]
    assert all(f"| {name} |" in table for name in names)
    files = [path for path in tmp_path.iterdir() if path.is_file()]
    assert {path.name for path in files} == {"results.jsonl", "rows.log", "runs.zip"}


def test_what_tells_the_kit_to_stop_leaves_the_figures_a_table_and_no_process(tmp_path):
    process = kit(tmp_path, "--rows=smoke", "--budget=400")
    log = tmp_path / "rows.log"
    end = time.monotonic() + 200
    while not (log.exists() and "gpu_rows.py smoke" in log.read_text()):
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    shown, _ = process.communicate(timeout=60)
    assert process.returncode == 1 and "| row | figure |" in shown and "told to stop" in shown
    assert not [path for path in pathlib.Path("/proc").glob("[0-9]*/cmdline") if str(tmp_path) in read(path)]


def read(path):
    try:
        return path.read_text().replace("\0", " ")
    except OSError:
        return ""


def test_what_is_not_installed_is_named_before_any_row_starts(tmp_path):
    hidden = """
import sys
class Hidden:
    def find_spec(self, name, *_):
        if name.partition(".")[0] in ("ml_collections", "tensorboardX"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Hidden())
"""
    (tmp_path / "sitecustomize.py").write_text(hidden)
    process = kit(tmp_path, "--budget=100", PYTHONPATH=str(tmp_path))
    shown, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert shown.startswith("not installed, and needed: ml-collections tensorboardX. ") and "pip download" in shown
    assert len(shown.splitlines()) == 1 and not (tmp_path / "rows.log").exists()


# Data and states that travel in pieces


def packed(images):
    """Packs images pixel by pixel, for three chunks."""
    n, height, width, _ = images.shape
    r, g, b = np.moveaxis(images.astype(int), -1, 0)
    planes = np.stack([g, (r - g + 128) % 256, (b - g + 128) % 256], axis=1)
    rest = np.zeros(planes.shape, np.uint8)
    for y in range(height):
        for x in range(width):
            left = planes[:, :, y, x - 1] if x else None
            above = planes[:, :, y - 1, x] if y else None
            if x and y:
                guess = np.median([left, above, left + above - planes[:, :, y - 1, x - 1]], axis=0).astype(int)
            else:
                guess = left if x else above if y else 0
            rest[:, :, y, x] = (planes[:, :, y, x] - guess + 128) % 256
    chunks = {f"chunk_{i:03}": part for i, part in enumerate(np.array_split(rest, 3))}
    return {name: np.frombuffer(lzma.compress(part.tobytes()), np.uint8) for name, part in chunks.items()}


def test_archives_are_joined_whether_plain_or_packed(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (30, 6, 5, 3), np.uint8), np.arange(30) % 10
    for name, part in (("a", slice(0, 18)), ("b", slice(18, 30))):
        pack = packed(images[part]) | {"shape": np.array([6, 5, 3]), "labels": labels[part]}
        np.savez(tmp_path / f"{name}.npz", **pack)
    monkeypatch.setattr(gpu_data, "PACKED_TEST", 7)
    monkeypatch.setattr(gpu_data.multiprocessing, "get_context", lambda _: Inline)
    source = gpu_data.joined(str(tmp_path), tmp_path / "out" / "whole.npz")
    whole = np.load(source.removeprefix("npz:"))
    np.testing.assert_array_equal(np.concatenate([whole["x_test"], whole["x_train"]]), images)
    np.testing.assert_array_equal(np.concatenate([whole["y_test"], whole["y_train"]]), labels)
    assert len(whole["x_test"]) == 7

    for name, part in (("c", slice(0, 18)), ("d", slice(18, 30))):
        np.savez(tmp_path / f"{name}.npz", x_train=images[part], y_train=labels[part])
    two = gpu_data.joined(f"{tmp_path}/c.npz,{tmp_path}/d.npz", tmp_path / "two.npz")
    np.testing.assert_array_equal(np.load(two.removeprefix("npz:"))["x_train"], images)
    assert gpu_data.joined(f"{tmp_path}/c.npz", tmp_path / "one.npz") == f"npz:{tmp_path}/c.npz"
    with pytest.raises(ValueError, match="no archive at .*e.npz"):
        gpu_data.joined(f"{tmp_path}/c.npz,{tmp_path}/e.npz", tmp_path / "none.npz")


class Inline:
    """A pool of processes without processes."""

    def __init__(self, *_):
        pass

    Pool = classmethod(lambda cls, _: cls())

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def starmap(self, function, arguments):
        return [function(*each) for each in arguments]


def test_a_run_goes_on_from_its_state_in_pieces_exact_but_for_momentum(tmp_path, monkeypatch):
    changes = {"optimizer.name": "sgd", "train.epochs": 1, "optimizer.warmup_epochs": 0.5}
    config = small(f"npz:{write_archive(tmp_path / 'images.npz')}", **changes)
    run, other, out = tmp_path / "run", tmp_path / "other", tmp_path / "out"
    out.mkdir()
    pretrain.run(config, str(run))
    step = max(int(path.name) for path in (run / "checkpoints").iterdir())
    monkeypatch.setattr(gpu_state, "PIECE_BYTES", 4096)
    pieces = gpu_state.pack(config, run, out)
    assert len(pieces) > 1
    with pytest.raises(ValueError, match="no whole state"):
        gpu_state.unpack(str(tmp_path), config, other)
    gpu_state.unpack(str(out), config, other)
    mine, others = arrays(run, step), arrays(other, step)
    assert mine.keys() == others.keys()
    rounded = 0
    for name, value in mine.items():
        if name.startswith("opt_state") and value.dtype == np.float32:
            rounded += value.size
            value = value.astype(ml_dtypes.bfloat16).astype(np.float32)
        np.testing.assert_array_equal(others[name], value, err_msg=name)
    assert rounded >= sum(value.size for name, value in mine.items() if name.startswith("params"))
    config.train.epochs += 1  # the run, finished, takes it for its own and goes on
    pretrain.run(config, str(other))
    assert max(int(path.name) for path in (other / "checkpoints").iterdir()) > step
    assert json.loads((other / "config.json").read_text())["train"]["epochs"] == config.train.epochs
