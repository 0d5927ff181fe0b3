"""Why a checkpoint cannot be used: damage is proved, a disk may be mute, a run may be another. Only damage is moved."""

import errno
import json
import os
import pwd
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from etils import epath

from simclr_jax.runtime import array_files, checkpoint
from simclr_jax.runtime.metrics import MetricsWriter
from support.states import contents, files_of, make_state, restore, write_run

LOCAL_PATH = type(epath.Path("/"))


@pytest.fixture(name="run")
def make_run(tmp_path):
    return write_run(str(tmp_path))


def once(function, error, when=lambda *_: True):
    """A function that fails at its first call that is meant, and then works."""
    left = [error]

    def called(*args, **kwargs):
        if left and when(*args):
            raise left.pop()
        return function(*args, **kwargs)

    return called


def always(function, error, when=lambda *_: True):
    def called(*args, **kwargs):
        if when(*args):
            raise error
        return function(*args, **kwargs)

    return called


def inside(step):
    return lambda path, *_: f"checkpoints/{step}" in str(path)


def os_error(number):
    return OSError(number, os.strerror(number))


# What fails, where, and with what: the operating system's calls of this library, and Orbax, which wraps errors.
DISKS = {
    "a file, EIO": (LOCAL_PATH, "read_bytes", os_error(errno.EIO), inside(3)),
    "a file, EACCES": (LOCAL_PATH, "read_bytes", os_error(errno.EACCES), inside(3)),
    "a file is gone while it is read": (LOCAL_PATH, "read_bytes", os_error(errno.ENOENT), inside("3/d")),
    "listing, ESTALE": (LOCAL_PATH, "iterdir", os_error(errno.ESTALE), inside(3)),
    "listing all, ETIMEDOUT": (LOCAL_PATH, "iterdir", os_error(errno.ETIMEDOUT), inside("")),
    "a folder, EIO": (os, "stat", os_error(errno.EIO), lambda path, *_: str(path).endswith("checkpoints/3")),
    "the folder of all, EACCES": (
        os,
        "stat",
        os_error(errno.EACCES),
        lambda path, *_: str(path).endswith("checkpoints"),
    ),
    "Orbax, a ValueError": (ocp.Checkpointer, "restore", ValueError("DATA_LOSS: [OS error 5: EIO]"), lambda *_: True),
    "Orbax, an OSError": (ocp.Checkpointer, "restore", os_error(errno.EIO), lambda *_: True),
}


@pytest.mark.parametrize("disk", DISKS)
def test_a_disk_that_does_not_answer_once_is_no_damage(run, tmp_path, monkeypatch, disk):
    before, (owner, name, error, when) = contents(tmp_path), DISKS[disk]
    monkeypatch.setattr(owner, name, once(getattr(owner, name), error, when))
    with pytest.raises(OSError, match="nothing was changed; repeat the command when the disk responds") as told:
        restore(run)
    assert "\n" not in str(told.value) and "damaged" not in str(told.value)
    assert contents(tmp_path) == before
    assert restore(run)[0] == 3 and not restore.lines


def test_what_orbax_wraps_is_found_by_reading_the_files(run, tmp_path, monkeypatch):
    before = contents(tmp_path)
    for path in (tmp_path / "checkpoints").glob("*/files.json"):
        path.unlink()  # as of a process that was killed: nothing tells what the files must hold
    without = contents(tmp_path)
    error = os_error(errno.EIO)
    monkeypatch.setattr(ocp.Checkpointer, "restore", always(ocp.Checkpointer.restore, ValueError("cannot be read")))
    monkeypatch.setattr(LOCAL_PATH, "read_bytes", always(LOCAL_PATH.read_bytes, error, inside("3/d")))
    with pytest.raises(array_files.Unreadable, match="checkpoints/3 cannot be read: Input/output error"):
        restore(run)
    assert contents(tmp_path) == without and without.keys() < before.keys()


def test_what_tensorstore_tells_of_the_system_is_no_damage_though_the_files_can_be_read(run, tmp_path, monkeypatch):
    for path in (tmp_path / "checkpoints").glob("*/files.json"):
        path.unlink()
    before, error = contents(tmp_path), ValueError("UNKNOWN: Error opening … [os_error_code='5']")
    for owner in (ocp.Checkpointer, ocp.PyTreeCheckpointHandler):
        monkeypatch.setattr(owner, "restore", always(owner.restore, error))
    with pytest.raises(array_files.Unreadable, match="when the disk responds"):
        restore(run)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("step", [None, 3])
def test_a_reader_does_not_take_an_older_checkpoint_for_one_that_the_disk_does_not_give(run, monkeypatch, step):
    monkeypatch.setattr(LOCAL_PATH, "read_bytes", once(LOCAL_PATH.read_bytes, os_error(errno.EIO), inside(3)))
    with pytest.raises(array_files.Unreadable, match="checkpoints/3 cannot be read: Input/output error"):
        checkpoint.load_variables(run, step)
    assert checkpoint.load_variables(run, step)[1] == 3


def test_files_of_a_user_without_a_name_are_read(run, monkeypatch):
    """As in a container that is started with another number."""
    monkeypatch.setattr(pwd, "getpwuid", always(pwd.getpwuid, KeyError("uid not found")))
    assert checkpoint.load_variables(run)[1] == 3
    assert restore(run)[0] == 3


def test_nothing_is_moved_where_the_disk_does_not_give_what_comes_after_the_damaged_one(run, tmp_path, monkeypatch):
    files_of(tmp_path / "checkpoints" / "3")[0].write_bytes(b"")
    before = contents(tmp_path)
    monkeypatch.setattr(LOCAL_PATH, "read_bytes", once(LOCAL_PATH.read_bytes, os_error(errno.EIO), inside(2)))
    with pytest.raises(array_files.Unreadable, match="checkpoints/2 cannot be read"):
        restore(run)
    assert contents(tmp_path) == before and not restore.lines
    assert restore(run)[0] == 2 and len(restore.lines) == 1


def test_whole_files_that_orbax_does_not_read_are_no_damage(run, tmp_path, monkeypatch):
    before = contents(tmp_path)
    for owner in (ocp.Checkpointer, ocp.PyTreeCheckpointHandler):
        monkeypatch.setattr(owner, "restore", always(owner.restore, KeyError("a new format")))
    with pytest.raises(array_files.Unreadable, match="a new format.*or with the versions listed in RUN/versions.jsonl"):
        restore(run)
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    "error", [MemoryError(), KeyboardInterrupt(), jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED")]
)
def test_neither_memory_nor_ctrl_c_is_damage(run, tmp_path, monkeypatch, error):
    before = contents(tmp_path)
    monkeypatch.setattr(ocp.Checkpointer, "restore", once(ocp.Checkpointer.restore, error))
    with pytest.raises(type(error)):
        restore(run)
    assert contents(tmp_path) == before
    assert restore(run)[0] == 3


def of_other_arrays(state, what):
    kernel = state.params["encoder"]["kernel"]
    params = {
        "shape": {"encoder": {"kernel": jnp.zeros((5, 4))}, "head": {}},
        "dtype": {"encoder": {"kernel": kernel.astype(jnp.bfloat16)}, "head": {}},
        "more": {"encoder": {"kernel": kernel, "bias": kernel[0]}, "head": {}},
        "fewer": {"encoder": {}, "head": {}},
    }
    return state.replace(params=params[what])


def forget_what_was_noted(path, *, forms):
    """Makes a checkpoint one of a process that was killed and, without forms, of before they were noted."""
    (path / "files.json").unlink()
    metadata = json.loads((path / "_CHECKPOINT_METADATA").read_text())
    if forms:
        del metadata["custom_metadata"]["forms"]
    (path / "_CHECKPOINT_METADATA").write_text(json.dumps(metadata))


OTHERS = {
    "shape": r"1 arrays differ, params/encoder/kernel is float32 \[3, 4\] instead of float32 \[5, 4\]",
    "dtype": r"1 arrays differ, params/encoder/kernel is float32 \[3, 4\] instead of bfloat16 \[3, 4\]",
    "more": r"1 arrays differ, params/encoder/bias is missing, float32 \[4\]",
    "fewer": r"1 arrays differ, params/encoder/kernel is unexpected, float32 \[3, 4\]",
}


@pytest.mark.parametrize("noted", [True, False], ids=["files noted", "files not noted"])
@pytest.mark.parametrize("what", OTHERS)
def test_a_whole_checkpoint_of_other_arrays_is_named_and_left_alone(run, tmp_path, what, noted):
    if not noted:
        forget_what_was_noted(tmp_path / "checkpoints" / "3", forms=what != "shape")  # Orbax leaves threads of those
    before, wanted = contents(tmp_path), of_other_arrays(make_state(0), what)
    for several in ({}, {"agree": lambda step: step}, {"agree": lambda step: 3, "owner": False}):
        with pytest.raises(ValueError, match=f"3 is intact, but does not fit this data or config: {OTHERS[what]}"):
            restore(run, wanted, **several)
        assert contents(tmp_path) == before and not restore.lines
    assert restore(run)[0] == 3


def test_that_labels_went_is_guessed_from_the_probe(tmp_path):
    run = write_run(str(tmp_path), probe_params={"bias": np.zeros(7, np.float32)})
    expected = (
        r"probe_params/bias is unexpected, float32 \[7\] \(one row per class: classes or labels were added or removed\)"
    )
    with pytest.raises(ValueError, match=expected):
        restore(run)


def test_of_other_arrays_and_damaged_is_damaged(run, tmp_path):
    """The older one is whole, and so it is the one that is named."""
    files_of(tmp_path / "checkpoints" / "3")[0].write_bytes(b"")
    before = contents(tmp_path)
    with pytest.raises(ValueError, match="checkpoints/2 is intact, but"):
        restore(run, of_other_arrays(make_state(0), "shape"))
    assert contents(tmp_path) == before


def damage_all(folder):
    for path in files_of(folder):
        path.write_bytes(b"")


@pytest.mark.parametrize("agree", [None, lambda step: step])
def test_where_all_are_damaged_no_start_begins_anew_until_it_is_told_to(run, tmp_path, agree):
    damage_all(tmp_path / "checkpoints")
    before = contents(tmp_path)
    for _ in range(2):
        with pytest.raises(ValueError, match="has no intact checkpoint left .*3 is damaged: .*the newest of 2") as told:
            restore(run, agree=agree)
        assert contents(tmp_path) == before and not restore.lines
    places = str(told.value).split("remove ")[1].split(" to restart")[0].split(" and ")
    for place in places:
        shutil.rmtree(place)
    assert restore(run, agree=agree) == (0, None)


def test_what_was_set_aside_keeps_a_run_from_beginning_anew(run, tmp_path):
    damage_all(tmp_path / "checkpoints" / "3")
    assert restore(run)[0] == 2
    assert [path.name for path in (tmp_path / "damaged").iterdir()] == ["3"]
    damage_all(tmp_path / "checkpoints" / "2")
    for remaining in ("2 is damaged", "all were moved aside"):
        with pytest.raises(ValueError, match=f"has no intact checkpoint left .*{remaining}"):
            restore(run)
        shutil.rmtree(tmp_path / "checkpoints" / "2", ignore_errors=True)
    shutil.rmtree(tmp_path / "damaged")
    assert restore(run) == (0, None)


def test_rows_that_the_disk_does_not_give_are_not_taken_for_none(tmp_path, monkeypatch):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n')
    before, options = contents(tmp_path), {"first_step": 1, "total_steps": 2, "views_per_step": 1}
    monkeypatch.setattr(LOCAL_PATH, "read_bytes", once(LOCAL_PATH.read_bytes, os_error(errno.EIO)))
    monkeypatch.setattr(os.path, "exists", lambda path: False)  # as it says of a disk that does not answer
    with pytest.raises(OSError, match="Input/output error"):
        MetricsWriter(str(tmp_path), **options)
    assert contents(tmp_path) == before
