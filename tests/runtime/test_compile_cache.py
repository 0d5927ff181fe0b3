"""What was compiled is found by the next start, and a folder that is not this user's own, or cannot be, is not used."""

import os
import pathlib
import stat
import subprocess
import sys

import jax
import pytest

from simclr_jax.runtime import compile_cache, devices, processes
from support import processes as processes_of_runs

ROOT = pathlib.Path(__file__).parents[2]

# A process on a "GPU", which is this CPU: it compiles a program, and says its bits and what came of the cache.
COMPILES = """
import hashlib, sys, warnings
import jax, jax.numpy as jnp, numpy as np
from simclr_jax.runtime import compile_cache, devices
devices.platform = lambda: sys.argv[1]
events = []
jax.monitoring.register_event_listener(lambda name, **_: events.append(name.rsplit("/", 1)[-1]))
print(repr(compile_cache.keep()))
def step(x):
    for _ in range(int(sys.argv[2])):
        x = jnp.sin(x @ x) + jnp.tanh(x).sum(0)
    return x
result = np.asarray(jax.pmap(step, "batch", devices=jax.devices()[:1])(jnp.ones((1, 30, 30)) / 7))
print("found" if "cache_hits" in events else "kept" if "cache_misses" in events else "neither")
print(hashlib.sha256(result.tobytes()).hexdigest())
"""


@pytest.fixture(autouse=True)
def without_the_cache_of_the_tests(monkeypatch, tmp_path):
    for name in ("JAX_COMPILATION_CACHE_DIR", "JAX_COMPILATION_CACHE_MAX_SIZE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.0")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))


def compiles(*, platform="gpu", layers=3, **env):
    """(what was said, what came of the cache, the result, error output) of a process that compiles a program."""
    env = os.environ | {"PYTHONPATH": str(ROOT)} | env
    command = [sys.executable, "-c", COMPILES, platform, str(layers)]
    found = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=True, timeout=240)
    return *found.stdout.splitlines(), found.stderr


def programs(home):
    return sorted((home / "simclr_jax" / "compiled").glob("jit*-cache"))


def test_the_next_start_finds_the_program_and_computes_the_same_bits(tmp_path):
    said, what, result, _ = compiles()
    assert (said, what) == ("''", "kept")
    folder = tmp_path / "home" / "simclr_jax" / "compiled"
    assert programs(tmp_path / "home")
    for place in (folder, folder.parent, folder.parent.parent):
        assert stat.S_IMODE(place.stat().st_mode) == 0o700
    assert not [path.name for path in folder.iterdir() if path.name.startswith("xla")]
    assert compiles()[1:3] == ("found", result)


@pytest.mark.parametrize("damage", ["torn", "changed", "empty", "folder"])
def test_a_damaged_program_is_compiled_again(damage, tmp_path):
    _, _, result, _ = compiles()
    for program in programs(tmp_path / "home"):
        data = bytearray(program.read_bytes())
        data[len(data) // 2] ^= 1
        program.unlink()
        if damage == "folder":
            program.mkdir()
        else:
            program.write_bytes({"torn": data[: len(data) // 2], "changed": data, "empty": b""}[damage])
    assert compiles()[1:3] == ("kept", result)


def test_what_a_killed_process_left_is_removed_so_that_programs_are_kept_again(tmp_path):
    compiles()
    for program in programs(tmp_path / "home"):
        program.write_bytes(program.read_bytes()[:20])
        program.with_name(program.name.removesuffix("-cache") + "-atime").unlink()
    assert compiles()[1] == "kept" and compiles()[1] == "found"
    assert min(program.stat().st_size for program in programs(tmp_path / "home")) > 20


def test_programs_are_kept_where_many_processes_start_at_once(tmp_path):
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", COMPILES, "gpu", "3"]
    started = [
        subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    ended = [process.communicate(timeout=240) for process in started]
    assert [process.returncode for process in started] == [0, 0, 0], ended
    assert len({out.splitlines()[2] for out, _ in ended}) == 1
    assert compiles()[1] == "found"


def test_the_least_used_programs_make_room(tmp_path):
    compiles()
    size = sum(program.stat().st_size for program in programs(tmp_path / "home"))
    compiles(layers=4, JAX_COMPILATION_CACHE_MAX_SIZE=str(2 * size))
    compiles(layers=5, JAX_COMPILATION_CACHE_MAX_SIZE=str(2 * size))
    assert sum(program.stat().st_size for program in programs(tmp_path / "home")) <= 2 * size


@pytest.mark.parametrize(
    ("platform", "env"),
    [("cpu", {}), ("gpu", {"JAX_ENABLE_COMPILATION_CACHE": "false"}), ("gpu", {"JAX_COMPILATION_CACHE_DIR": ""})],
)
def test_nothing_is_kept_on_cpus_or_where_the_user_says_so(platform, env, tmp_path):
    assert compiles(platform=platform, **env)[:2] == ("''", "neither")
    assert not (tmp_path / "home").exists()


def test_the_users_own_folder_wins_on_every_platform(tmp_path):
    assert compiles(platform="cpu", JAX_COMPILATION_CACHE_DIR=str(tmp_path / "own"))[1] == "kept"
    assert list((tmp_path / "own").glob("*-cache")) and not (tmp_path / "home").exists()


def test_several_processes_go_without(monkeypatch, tmp_path):
    monkeypatch.setattr(devices, "platform", lambda: "gpu")
    monkeypatch.setattr(processes, "process", lambda: (0, 2))
    before = jax.config.jax_compilation_cache_dir
    try:
        jax.config.update("jax_compilation_cache_dir", None)
        assert compile_cache.keep() == ""
        assert jax.config.jax_compilation_cache_dir is None and not (tmp_path / "home").exists()
    finally:
        jax.config.update("jax_compilation_cache_dir", before)


def test_what_cannot_be_used_is_said_in_a_line_and_the_process_goes_on(tmp_path):
    (tmp_path / "file").write_text("")
    said, what, *_ = compiles(XDG_CACHE_HOME=str(tmp_path / "file"))
    assert "compiled programs are not cached for the next start: " in said and what == "neither"


@pytest.mark.parametrize("name", ["simclr_jax", "simclr_jax/compiled"])
@pytest.mark.parametrize("mode", [0o777, 0o770, 0o702])
def test_a_folder_that_others_can_write_is_refused(name, mode, tmp_path):
    place = compile_cache.open_folder().parents[1] / name
    place.chmod(mode)
    with pytest.raises(ValueError, match=f"other users can write to {place} .*chmod 700"):
        compile_cache.open_folder()
    place.chmod(0o755)
    assert compile_cache.open_folder()


@pytest.mark.parametrize("name", ["simclr_jax", "simclr_jax/compiled"])
def test_a_folder_of_another_user_is_refused(name, monkeypatch):
    folder = compile_cache.open_folder()
    place, of = folder.parents[1] / name, pathlib.Path.lstat

    def lstat(path):
        found = of(path)
        return os.stat_result([*found[:4], found.st_uid + 1, *found[5:]]) if path == place else found

    monkeypatch.setattr(pathlib.Path, "lstat", lstat)
    with pytest.raises(ValueError, match="belongs to another user"):
        compile_cache.open_folder()


@pytest.mark.parametrize("name", ["simclr_jax", "simclr_jax/compiled"])
def test_a_link_is_refused(name, tmp_path):
    place = compile_cache.open_folder().parents[1] / name
    place.rename(tmp_path / "elsewhere")
    place.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="not a real folder"):
        compile_cache.open_folder()


def test_a_relative_cache_home_is_ignored(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert compile_cache.open_folder() == tmp_path / ".cache" / "simclr_jax" / "compiled"


def test_a_disk_without_locks_is_not_used(monkeypatch):
    def acquire(self, *_, **__):
        raise NotImplementedError("FileSystem does not appear to support flock")

    monkeypatch.setattr("filelock.FileLock.acquire", acquire)
    with pytest.raises(NotImplementedError):
        compile_cache.open_folder()


AS_IF_ON_A_GPU = """
import runpy, sys
sys.path[:0] = [{root!r}, {tests!r}]
from simclr_jax.runtime import devices
devices.platform = lambda: "gpu"
runpy.run_path({tests!r} + "/support/smallest.py", run_name="__main__")
"""


def test_a_run_that_is_stopped_goes_on_by_the_kept_programs_with_the_same_bits(tmp_path):
    program, source = tmp_path / "train.py", processes_of_runs.archive(tmp_path)
    program.write_text(AS_IF_ON_A_GPU.format(root=str(ROOT), tests=str(ROOT / "tests")))
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    processes_of_runs.train(whole, source, program=str(program))
    kept = programs(tmp_path / "home")
    assert kept
    with processes_of_runs.start(stopped, source, program=str(program)) as process:
        processes_of_runs.wait_until(lambda: len(processes_of_runs.metrics(stopped)) >= 2, process)
        process.terminate()
        processes_of_runs.finish(process)
    processes_of_runs.train(stopped, source, program=str(program))
    processes_of_runs.assert_same_run(whole, stopped, 16)
    steps = [path for path in programs(tmp_path / "home") if path.stat().st_size == max(p.stat().st_size for p in kept)]
    assert len(steps) == 1 and steps[0] in kept  # no step was compiled anew
    assert not [path for run in (whole, stopped) for path in run.rglob("*-cache")]
