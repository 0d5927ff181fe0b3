"""The state of a run in pieces that travel, where a file may have 16 MiB: parameters as they are, momentum in bfloat16.

What the optimiser holds is rounded to half its size at each seam, so that a run in parts is not, to the bit, one that
never stopped. All else, parameters, statistics and the online probe among it, is exact.
"""

import io
import json
import pathlib
import zipfile

import jax
import ml_dtypes
import numpy as np
from ml_collections import ConfigDict

from simclr_jax.runtime import checkpoint, devices, run_folder
from simclr_jax.training.trainer import Trainer

PIECE_BYTES = 15 * 2**20
ROUNDED = ".opt_state"  # paths that begin so, of floating point


def pack(config: ConfigDict, run: pathlib.Path, out: pathlib.Path) -> list[pathlib.Path]:
    """Writes the newest checkpoint of a run to OUT/state_N.part, in the place of any that are there; returns these."""
    shapes = devices.replicated_shapes(Trainer.from_config(config).state_shapes())
    checkpoints = checkpoint.Checkpoints(str(run), keep=config.checkpoint.keep)
    step, state = checkpoints.restore(shapes, on_damage=print)
    checkpoints.close()
    facts = {"step": step, "config": run_folder.read_config(str(run)), "data": run_folder.read_data(str(run))}
    arrays = {"facts": np.frombuffer(json.dumps(facts).encode(), np.uint8)}
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        array, name = np.asarray(leaf), jax.tree_util.keystr(path)
        if name.startswith(ROUNDED) and array.dtype == np.float32:
            array = array.astype(ml_dtypes.bfloat16).view(np.uint16)
        arrays[name] = array
    whole = io.BytesIO()
    np.savez(whole, **arrays)
    for old in pieces(out):
        old.unlink()
    for number, start in enumerate(range(0, whole.tell(), PIECE_BYTES)):
        (out / f"state_{number}.part").write_bytes(whole.getbuffer()[start : start + PIECE_BYTES])
    return pieces(out)


def pieces(folder: pathlib.Path) -> list[pathlib.Path]:
    """Returns a state's pieces in their order."""
    return sorted(folder.glob("state_*.part"), key=lambda path: int(path.stem.partition("_")[2]))


def unpack(folder: str, config: ConfigDict, run: pathlib.Path) -> None:
    """Makes a run of FOLDER/state_N.part that goes on with a config, which must be the one that it was packed with."""
    whole = b"".join(path.read_bytes() for path in pieces(pathlib.Path(folder)))
    try:
        with np.load(io.BytesIO(whole), allow_pickle=False) as archive:
            found = {name: archive[name] for name in archive.files}
    except (EOFError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"--state={folder} holds no whole state: give all state_N.part of the part before") from error
    facts = json.loads(found["facts"].tobytes())

    def leaf(path, shape):
        array = found[jax.tree_util.keystr(path)]
        return array.view(ml_dtypes.bfloat16).astype(np.float32) if array.dtype == np.uint16 else array

    state = jax.tree_util.tree_map_with_path(leaf, Trainer.from_config(config).state_shapes())
    # Places may differ from one machine to the next; all else is checked when the run goes on.
    facts["config"]["data"]["source"] = config.data.source
    run_folder.write_config(str(run), facts["config"])
    run_folder.write_data(str(run), facts["data"])
    run_folder.write_bits(str(run), 0)
    checkpoints = checkpoint.Checkpoints(str(run), keep=config.checkpoint.keep)
    checkpoints.save(facts["step"], devices.replicate(state))
    checkpoints.close()
