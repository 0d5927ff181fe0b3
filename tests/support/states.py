"""Small training states, the checkpoints of a run that holds them, and what is restored of it."""

import jax
import jax.numpy as jnp
import optax

from simclr_jax.runtime import checkpoint, devices
from simclr_jax.runtime import run_folder as workdir
from simclr_jax.training.state import TrainState

CONFIG = {"seed": 0, "train": {"epochs": 2}}


def make_state(step, *, rows=3, probe_params=None):
    params = {"encoder": {"kernel": jax.random.normal(jax.random.key(step), (rows, 4))}, "head": {}}
    optimizer = optax.adam(1e-3)
    return devices.replicate(
        TrainState(
            step=jnp.int32(step),
            skipped=jnp.int32(0),
            params=params,
            batch_stats={"encoder": {"mean": jnp.arange(4.0) + step}},
            opt_state=optimizer.init(params),
            probe_params=probe_params or {},
            probe_opt_state=optimizer.init({}),
        )
    )


def write_run(run, steps=(1, 2, 3), **of_states):
    """Writes RUN with checkpoints of these steps, of which the two newest are kept."""
    workdir.write_config(run, CONFIG)
    checkpoints = checkpoint.Checkpoints(run, keep=2)
    for step in steps:
        checkpoints.save(step, make_state(step, **of_states))
    checkpoints.close()
    return run


def restore(run, target=None, **options):
    """(step, state) and, in `lines`, what was said of damaged checkpoints."""
    checkpoints = checkpoint.Checkpoints(run, keep=2, owner=options.pop("owner", True))
    restore.lines, target = [], make_state(0) if target is None else target
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), target)
    try:
        return checkpoints.restore(shapes, restore.lines.append, **options)
    finally:
        checkpoints.close()


def files_of(folder):
    return sorted(
        path for path in folder.rglob("*") if path.is_file() and not path.is_symlink() and path.stat().st_size
    )


def contents(folder):
    """{path: bytes} of all files, at any depth."""
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
