"""RUN: one process at a time, files that are old or new and never half, and what every start leaves."""

import json
import os
import subprocess
import sys

import jax
import pytest
from etils import epath

from simclr_jax import load_encoder
from simclr_jax.runtime import disk
from simclr_jax.runtime import run_folder as workdir


def test_every_start_is_noted(tmp_path):
    for step in (0, 10):
        workdir.note_start(str(tmp_path), step, "1 × cpu")
    starts = [json.loads(line) for line in (tmp_path / "versions.jsonl").read_text().splitlines()]
    assert [start["step"] for start in starts] == [0, 10]
    assert {start["jax"] for start in starts} == {jax.__version__}
    assert {start["pid"] for start in starts} == {os.getpid()}


def test_a_config_comes_back_and_what_is_none_says_so(tmp_path):
    workdir.write_config(str(tmp_path / "run"), {"seed": 3})
    assert workdir.read_config(str(tmp_path / "run")) == {"seed": 3}
    with pytest.raises(ValueError, match="is not a run"):
        workdir.read_config(str(tmp_path))
    contents = {
        "{": "is not JSON",
        "[1]": "holds list, not an object",
        "[" * 10**5: "is not JSON",
        " " * 2**21: "bytes",
    }
    for text, message in contents.items():
        (tmp_path / "run" / "config.json").write_text(text)
        with pytest.raises(ValueError, match=message):
            workdir.read_config(str(tmp_path / "run"))


def test_a_config_that_never_ends_is_not_read(tmp_path):
    (tmp_path / "config.json").symlink_to("/dev/zero")
    with pytest.raises(ValueError, match="is not what a run writes: not a file"):
        workdir.read_config(str(tmp_path))


@pytest.mark.parametrize("name", ["tensorboard", "checkpoints", "metrics.jsonl"])
def test_a_link_that_leads_out_of_a_run_is_refused(tmp_path, name):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=f"{name} is a link out of the workdir"), workdir.hold(str(tmp_path / "run")):
        pass


def test_a_link_in_the_place_of_a_file_is_replaced_and_its_target_left_alone(tmp_path):
    target, path = tmp_path / "target", tmp_path / "file"
    target.write_text("precious")
    for link in (path, tmp_path / "file.new"):
        link.symlink_to(target)
    disk.replace_text(workdir.folder(str(path)), "mine")
    assert target.read_text() == "precious" and path.read_text() == "mine" and not path.is_symlink()


HOLD = """
import sys
from simclr_jax import load_encoder
from simclr_jax.runtime import disk, run_folder as workdir
with workdir.hold(sys.argv[1]):
    workdir.note_start(sys.argv[1], 0, "")
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_process_is_refused_until_the_first_is_gone_even_by_sigkill(tmp_path):
    run = str(tmp_path / "run")
    command = [sys.executable, "-c", HOLD, run]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout.readline() == "held\n"
        for _ in range(2):
            with (
                pytest.raises(
                    ValueError, match=f"is in use: process {first.pid} on .* has been training there since 20"
                ),
                workdir.hold(run),
            ):
                raise AssertionError("two processes in one run")
        first.kill()
    with workdir.hold(run):
        pass


@pytest.mark.parametrize("place", ["s3://bucket/run", "gs://bucket/run", "S3:/bucket", "memory://run", "file:///run"])
def test_an_object_store_is_refused_before_anything_is_written(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for use in (workdir.folder, workdir.read_config, lambda run: workdir.hold(run).__enter__(), load_encoder):
        with pytest.raises(ValueError, match=f"^{place}: object stores and URLs are not supported"):
            use(place)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("place", ["a:b", "C:/x", "runs/s3://x", "x=y:/z", "./s3:/x"])
def test_a_folder_with_a_colon_in_its_name_is_a_folder(place):
    disk.check_on_disk(place)


def test_what_cannot_be_written_says_so(tmp_path):
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", "/proc/nothing"):
        expected = pytest.raises(ValueError, match=f"--workdir={place}.* cannot be written: ")
        with expected as error, workdir.hold(str(place)):
            pass
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("place", "expected"),
    [("folder", True), ("file", False), ("file/below", False), ("nothing", False), ("circle", False)],
)
def test_what_is_no_folder_is_none_and_no_fault_of_the_disk(place, expected, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    assert disk.is_folder(epath.Path(tmp_path / place)) is expected
