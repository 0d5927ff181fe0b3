"""Runs of random weights, written and not trained: for what reads a run."""

import numpy as np

from simclr_jax.configs import default
from simclr_jax.models import create_model
from simclr_jax.runtime import checkpoint, run_folder
from simclr_jax.runtime.config import network_of
from support.variables import random_variables


def write_run(path, *, step=7, **changes):
    """Writes RUN with a checkpoint of random weights; ``changes`` are of config keys."""
    config = default.get_config()
    config.update_from_flattened_dict({"model.encoder": "resnet_tiny", "data.source": "textures", **changes})
    model = create_model(network_of(config))
    side = min(config.augment.image_size, 32)  # of a ResNet no shape depends on it
    variables = random_variables(model, np.zeros((1, side, side, config.data.channels), np.float32))
    checkpoints = checkpoint.Checkpoints(str(path), keep=1)
    checkpoints.save(step, {"step": np.int32(step), "batch_stats": {}, **variables})
    checkpoints.close()
    run_folder.write_config(str(path), config.to_dict())
    return path
