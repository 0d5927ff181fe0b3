"""From a run to an encoder that turns images into features."""

from simclr_jax.evaluate.features import Encoder
from simclr_jax.evaluate.trained_network import open_run


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
    network = open_run(run_or_checkpoint, step)
    return Encoder(network.encode(0), feature_dim=network.model.encoder.feature_dim, image_size=network.image_size)
