"""What comes back from disk is what was written, or a line that says what is wrong."""

import os
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from simclr_jax.runtime import checkpoint, checksums
from simclr_jax.runtime import run_folder as workdir
from support.states import CONFIG, files_of, make_state, restore, write_run


@pytest.fixture(name="run")
def make_run(tmp_path):
    return write_run(str(tmp_path))


def assert_same_bits(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_a_state_comes_back_bit_for_bit_on_the_same_devices(run):
    target = make_state(0)
    step, restored = restore(run, target)
    assert step == 3
    assert_same_bits(restored, make_state(3))
    assert jax.tree.map(lambda x: x.sharding, restored) == jax.tree.map(lambda x: x.sharding, target)


def test_a_checkpoint_is_made_of_one_copy_whatever_the_number_of_devices(tmp_path):
    """Of copies on several devices Orbax would write a slice each, which for each shape it compiles first."""
    state, compiled = make_state(1), []
    checkpoints = checkpoint.Checkpoints(str(tmp_path), keep=1)
    listener = lambda event, *_, **__: compiled.append(event) if "compile" in event else None  # noqa: E731
    jax.monitoring.register_event_duration_secs_listener(listener)
    try:
        checkpoints.save(1, state)
        checkpoints.close()
        assert not compiled
        jax.jit(lambda x: x + 1)(1)
        assert compiled  # the listener would have noticed
    finally:
        jax.monitoring.unregister_event_duration_listener(listener)
    assert len(jax.tree.leaves(state)[0].sharding.device_set) == 8
    assert [path.name for path in (tmp_path / "checkpoints" / "1").glob("ocdbt.process_*")] == ["ocdbt.process_0"]


def test_a_checkpoint_of_jax_arrays_as_runs_wrote_them_once_still_loads(run, tmp_path):
    orbax, state = ocp.Checkpointer(ocp.StandardCheckpointHandler()), make_state(4)
    noted = {"crc32": checksums.of_arrays(state)}
    orbax.save(tmp_path / "checkpoints" / "4", args=ocp.args.StandardSave(state), custom_metadata=noted)
    assert (tmp_path / "checkpoints" / "4" / "_sharding").exists()
    assert_same_bits(checkpoint.load_variables(run)[2]["params"], state.params)
    step, restored = restore(run)
    assert step == 4
    assert_same_bits(restored, state)
    assert jax.tree.map(lambda x: x.sharding, restored) == jax.tree.map(lambda x: x.sharding, state)


def test_a_state_may_be_donated_while_it_is_written(tmp_path):
    workdir.write_config(str(tmp_path), CONFIG)
    checkpoints = checkpoint.Checkpoints(str(tmp_path), keep=1)
    overwrite = jax.jit(lambda state: jax.tree.map(lambda x: x + 1, state), donate_argnums=0)
    state = make_state(5)
    checkpoints.save(5, state)
    for _ in range(10):
        state = overwrite(state)
    checkpoints.close()
    assert_same_bits(restore(str(tmp_path))[1], make_state(5))


def test_the_newest_are_kept(run, tmp_path):
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["2", "3"]
    assert checkpoint.latest_step(run) == 3


def test_nothing_is_written_by_asking(tmp_path):
    assert checkpoint.latest_step(str(tmp_path / "none")) is None
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("which", [{}, {"step": 3}, {"path": "checkpoints/3"}, {"step": 2}, {"path": "checkpoints/2"}])
def test_a_network_is_read_from_a_run_or_from_one_checkpoint(run, which):
    config, step, variables = checkpoint.load_variables(f"{run}/{which.get('path', '')}".rstrip("/"), which.get("step"))
    expected = make_state(step)
    assert step == (2 if "2" in str(which) else 3)
    assert config == CONFIG
    assert set(variables) == {"params", "batch_stats"}
    assert_same_bits(variables["params"], expected.params)
    assert_same_bits(variables["batch_stats"], expected.batch_stats)
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(variables))


def test_what_is_no_run_says_so(run, tmp_path):
    with pytest.raises(ValueError, match="is not a run"):
        checkpoint.load_variables(str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match="no checkpoint of step 7; it has those of steps 2, 3"):
        checkpoint.load_variables(run, 7)
    (tmp_path / "checkpoints" / "9").mkdir(parents=True)
    with pytest.raises(ValueError, match="checkpoints/9 is damaged"):
        checkpoint.load_variables(run, 9)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="is not JSON"):
        checkpoint.load_variables(run)


def test_a_run_that_was_stopped_before_its_first_checkpoint_says_so(tmp_path):
    workdir.write_config(str(tmp_path), CONFIG)
    with pytest.raises(ValueError, match="has no checkpoint yet"):
        checkpoint.load_variables(str(tmp_path))


def flip(path, place, bit=3):
    content = bytearray(path.read_bytes())
    content[int(place * (len(content) - 1))] ^= 1 << bit
    path.write_bytes(bytes(content))


def replace_by_folder(path):
    path.unlink()
    path.mkdir()


DAMAGES = {
    "first bits flipped": lambda path: flip(path, 0.0),
    "middle bits flipped": lambda path: flip(path, 0.5),
    "late bits flipped": lambda path: flip(path, 0.9, bit=0),
    "halved": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "emptied": lambda path: path.write_bytes(b""),
    "overwritten": lambda path: path.write_bytes(b"\0" * path.stat().st_size),
    "removed": lambda path: path.unlink(),
    "a folder": replace_by_folder,
    "a link": lambda path: (path.unlink(), path.symlink_to("/dev/zero")),
    "a pipe": lambda path: (path.unlink(), os.mkfifo(path)),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_whatever_happens_to_a_file_only_what_was_written_comes_back(run, tmp_path, damage):
    """Of each file of the newest checkpoint in turn: it is seen and passed over, or its loss changes no bit."""
    newest = tmp_path / "checkpoints" / "3"
    shutil.copytree(newest, tmp_path / "whole")
    names = [path.relative_to(newest) for path in files_of(newest)]
    passed_over = 0
    for name in names:
        shutil.rmtree(newest, ignore_errors=True)
        shutil.copytree(tmp_path / "whole", newest)
        DAMAGES[damage](newest / name)
        step, restored = restore(run)
        assert_same_bits(restored, make_state(step))
        assert step == (2 if restore.lines else 3)
        if restore.lines:
            passed_over += 1
            assert len(restore.lines) == 1 and f"{newest} is damaged" in restore.lines[0]
            assert "moved to" in restore.lines[0] and not newest.exists()
            assert (tmp_path / "damaged" / ("3" if passed_over == 1 else f"3.{passed_over}")).exists()
    assert passed_over >= 3  # of the arrays' data, the index and the metadata at the least


def change_one_bit(run, tmp_path, step):
    """Puts a checkpoint of another state, which Orbax reads without a word, in the place of one, with its metadata."""
    wrong = make_state(step)
    wrong = wrong.replace(params=jax.tree.map(lambda x: x.at[1, 1].set(jnp.nextafter(x[1, 1], 9.0)), wrong.params))
    checkpoints = checkpoint.Checkpoints(str(tmp_path / "other"), keep=1)
    checkpoints.save(step, wrong)
    checkpoints.close()
    right, newest = (tmp_path / place / "checkpoints" / str(step) for place in ("", "other"))
    shutil.copy(right / "_CHECKPOINT_METADATA", newest)
    (newest / "files.json").unlink()
    shutil.rmtree(right)
    shutil.move(newest, right)


def test_a_flipped_bit_of_an_array_is_seen_though_the_files_are_well_formed(run, tmp_path):
    change_one_bit(run, tmp_path, 3)
    assert restore(run)[0] == 2
    assert "1 of 8 arrays differ from what was written, first params/encoder/kernel" in restore.lines[0]


def test_a_reader_passes_over_a_damaged_checkpoint_and_moves_nothing(run, tmp_path, caplog):
    data = max(files_of(tmp_path / "checkpoints" / "3"), key=lambda path: path.stat().st_size)
    data.write_bytes(b"")
    _, step, variables = checkpoint.load_variables(run)
    assert step == 2 and "checkpoints/3 is damaged" in caplog.text
    assert_same_bits(variables["params"], make_state(2).params)
    with pytest.raises(ValueError, match="checkpoints/3 is damaged"):
        checkpoint.load_variables(run, 3)
    assert (tmp_path / "checkpoints" / "3").exists()


def test_an_older_checkpoint_goes_only_when_the_new_one_was_read_back(run, tmp_path, monkeypatch):
    checkpoints = checkpoint.Checkpoints(run, keep=1)
    finish = checkpoints._writer.wait

    def torn():
        finish()
        if (tmp_path / "checkpoints" / "4").exists():  # Orbax waits before it writes too
            change_one_bit(run, tmp_path, 4)

    monkeypatch.setattr(checkpoints._writer, "wait", torn)
    checkpoints.save(4, make_state(4))
    with pytest.raises(ValueError, match="step 4 cannot be saved: .*4 is damaged.*last good checkpoint: none yet"):
        checkpoints.wait()
    monkeypatch.undo()
    left = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert left == ["2", "3", "4.orbax-checkpoint-tmp"]  # a checkpoint once it has been read back, and not before
    assert restore(run)[0] == 3 and not restore.lines
    checkpoints.save(4, make_state(4))
    checkpoints.close()
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["4"]
    assert checkpoints.last_good.endswith("checkpoints/4")


def test_what_a_killed_process_left_half_written_is_cleared(run, tmp_path):
    half = tmp_path / "checkpoints" / "4.orbax-checkpoint-tmp"
    shutil.copytree(tmp_path / "checkpoints" / "3", half)
    assert checkpoint.latest_step(run) == 3
    assert restore(run)[0] == 3
    assert not half.exists()


def test_arrays_that_the_files_cannot_hold_are_refused_before_memory_is_asked_for(run, tmp_path):
    network = make_state(1).replace(params={"encoder": {"kernel": np.zeros(2**21, np.float32)}})
    checkpoints = checkpoint.Checkpoints(run, keep=9)
    with pytest.raises(ValueError, match="claims to hold arrays of 8,38.* bytes in files of"):
        checkpoints.save(4, network)
        checkpoints.wait()
