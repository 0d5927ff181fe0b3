"""From a run to an encoder that turns images into features."""

import functools

from simclr_jax.evaluate.features import Encoder
from simclr_jax.models import create_model
from simclr_jax.runtime import checkpoint, devices
from simclr_jax.runtime import config as keys
from simclr_jax.training import schedule, state
from simclr_jax.training import step as steps


def load_encoder(run_or_checkpoint: str, step: int | None = None) -> Encoder:
    """Loads a pretrained encoder, frozen, with BatchNorm in evaluation mode.

    Args:
      run_or_checkpoint: RUN, the workdir of a pretraining run, or RUN/checkpoints/STEP.
      step: which checkpoint of RUN; None = the newest.

    Returns:
      A function from images [batch, height, width, 3], uint8 or float in [0, 1], to NumPy features
      h [batch, feature_dim].

    Raises:
      ValueError: there is no run, no such checkpoint, or one of them cannot be read or does not fit the other.

    Example:
      >>> encoder = simclr_jax.load_encoder("runs/quickstart")
      >>> features = encoder(images)
    """
    stored, _, variables = checkpoint.load_variables(run_or_checkpoint, step)
    config = keys.of_run(stored, run_or_checkpoint)
    model = create_model(**schedule.model_arguments(config))
    state.check_variables(variables, model=model, run=run_or_checkpoint)
    encode = devices.map_encoder(functools.partial(steps.encode_step, model=model, layer=0), variables)
    return Encoder(encode, feature_dim=model.encoder.feature_dim, image_size=config.augment.image_size)
