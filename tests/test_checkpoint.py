"""What comes back from disk is what was written, or a line that says what is wrong."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from simclr_jax import checkpoint, parallel
from simclr_jax.state import TrainState

CONFIG = {"seed": 0, "train": {"epochs": 2}}


def make_state(step):
    params = {"encoder": {"kernel": jax.random.normal(jax.random.key(step), (3, 4))}, "head": {}}
    optimizer = optax.adam(1e-3)
    return parallel.replicate(
        TrainState(
            step=jnp.int32(step),
            params=params,
            batch_stats={"encoder": {"mean": jnp.arange(4.0) + step}},
            opt_state=optimizer.init(params),
            probe_params={},
            probe_opt_state=optimizer.init({}),
        )
    )


@pytest.fixture(name="run")
def make_run(tmp_path):
    checkpoint.write_config(str(tmp_path), CONFIG)
    checkpoints = checkpoint.Checkpoints(str(tmp_path), keep=2)
    for step in (1, 2, 3):
        checkpoints.save(step, make_state(step))
    checkpoints.close()
    return str(tmp_path)


def assert_same_bits(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_a_state_comes_back_bit_for_bit_on_the_same_devices(run):
    target = make_state(0)
    restored = checkpoint.Checkpoints(run, keep=2).restore(target)
    assert_same_bits(restored, make_state(3))
    assert jax.tree.map(lambda x: x.sharding, restored) == jax.tree.map(lambda x: x.sharding, target)


def test_a_state_may_be_donated_while_it_is_written(tmp_path):
    checkpoint.write_config(str(tmp_path), CONFIG)
    checkpoints = checkpoint.Checkpoints(str(tmp_path), keep=1)
    overwrite = jax.jit(lambda state: jax.tree.map(lambda x: x + 1, state), donate_argnums=0)
    state = make_state(5)
    checkpoints.save(5, state)
    for _ in range(10):
        state = overwrite(state)
    checkpoints.close()
    assert_same_bits(checkpoint.Checkpoints(str(tmp_path), keep=1).restore(make_state(0)), make_state(5))


def test_the_newest_are_kept(run, tmp_path):
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["2", "3"]
    assert checkpoint.latest_step(run) == 3
    assert checkpoint.Checkpoints(run, keep=2).last_good().endswith("checkpoints/3")


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
    with pytest.raises(ValueError, match="no checkpoint of step 7; it has 2, 3"):
        checkpoint.load_variables(run, 7)
    (tmp_path / "checkpoints" / "9" / "default").mkdir(parents=True)
    with pytest.raises(ValueError, match="9 is not a readable checkpoint"):
        checkpoint.load_variables(run)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="is not JSON"):
        checkpoint.load_variables(run)


def test_a_run_that_was_stopped_before_its_first_checkpoint_says_so(tmp_path):
    checkpoint.write_config(str(tmp_path), CONFIG)
    with pytest.raises(ValueError, match="holds no checkpoint yet"):
        checkpoint.load_variables(str(tmp_path))


def test_every_start_is_noted(tmp_path):
    for step in (0, 10):
        checkpoint.note_start(str(tmp_path), step, "1 × cpu")
    lines = (tmp_path / "versions.jsonl").read_text().splitlines()
    assert [
        f'"step": {step}' in line and f'"jax": "{jax.__version__}"' in line
        for step, line in zip((0, 10), lines, strict=True)
    ] == [True, True]
