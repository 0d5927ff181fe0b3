"""A run's network at one of its checkpoints: opened once, here, for all that reads a run."""

import dataclasses
import functools
import hashlib
import json
from typing import Any

import jax
from ml_collections import ConfigDict

from simclr_jax.evaluate.features import Encode
from simclr_jax.models import SimCLR, create_model
from simclr_jax.runtime import checkpoint, checksums, devices
from simclr_jax.runtime.config import network_of, run_config
from simclr_jax.training import state
from simclr_jax.training.step import encode_step


@dataclasses.dataclass(frozen=True)
class TrainedNetwork:
    """What a run had learned at a step.

    Attributes:
      run: RUN, the folder of a pretraining run.
      step: the checkpoint's.
      stored: all that RUN/config.json holds.
      config: the part of it that its readers need, checked.
      model: the network.
      variables: {"params", "batch_stats"} as NumPy arrays, checked against the model.
    """

    run: str
    step: int
    stored: dict[str, Any]
    config: ConfigDict
    model: SimCLR
    variables: dict[str, Any]

    @property
    def image_size(self) -> int:
        """Side of the views of the run's pretraining, pixels."""
        return self.config.augment.image_size

    @property
    def depth(self) -> int:
        """How many layers the head has: the index of z among [h, head layer 1, …, z]."""
        return self.model.head.depth

    @property
    def started_from(self) -> str:
        """What the run's weights first were: RUN, RUN/checkpoints/STEP or a file; "" = random."""
        return self.config.model.init_from

    @functools.cached_property
    def fingerprint(self) -> str:
        """A checksum of the variables."""
        found = json.dumps(checksums.of_arrays(self.variables), sort_keys=True)
        return hashlib.sha256(found.encode()).hexdigest()[:16]

    def layer_name(self, layer: int) -> str:
        """Returns "h", "z" or "head layer N"."""
        return {0: "h", self.depth: "z"}.get(layer, f"head layer {layer}")

    def untrained(self, seed: int | None = None) -> dict[str, Any]:
        """Returns random variables, of the run's seed or another: what its pretraining began with, if not weights."""
        key = jax.random.key(self.config.seed if seed is None else seed)
        return state.initial_variables(key, self.image_size, model=self.model)

    def encode(self, layer: int, variables: dict[str, Any] | None = None) -> Encode:
        """Returns what computes layer ``layer`` of [h, head layer 1, …, z], with other variables where they are given.

        BatchNorm is in evaluation mode.
        """
        encode = functools.partial(encode_step, model=self.model, layer=layer)
        return devices.map_encoder(encode, self.variables if variables is None else variables)


def open_run(run_or_checkpoint: str, step: int | None = None) -> TrainedNetwork:
    """Reads a run's network from its checkpoint.

    Args:
      run_or_checkpoint: RUN, or RUN/checkpoints/STEP.
      step: which checkpoint of RUN; None = the newest that is not damaged.

    Raises:
      ValueError: it is no run, has no such checkpoint, or one of its files cannot be read or does not fit the other.
    """
    stored, step, variables = checkpoint.load_variables(run_or_checkpoint, step)
    config = run_config(stored, run_or_checkpoint)
    model = create_model(network_of(config))
    state.check_variables(variables, model=model, image_size=config.augment.image_size, run=run_or_checkpoint)
    return TrainedNetwork(checkpoint.split(run_or_checkpoint)[0], step, stored, config, model, variables)
