"""Quickstart: textures, which are built into the library, and a tiny encoder, on a laptop's CPU.

    simclr-jax pretrain --config=quickstart --workdir=runs/quickstart
    simclr-jax linear --workdir=runs/quickstart

or both at once: ``make quickstart``.

Time: 1.5 minutes on 2 CPU cores with ``make``, of which 70 seconds are pretraining.
Result: linear probe top-1 91 %, untrained encoder 18 %, chance 8 %; measured with ``make quickstart`` on 2 CPU cores,
jax 0.10.2. The colours are random: without colour distortion (``--config.augment.jitter_probability=0
--config.augment.grayscale_probability=0``) the encoder learns colours instead of patterns (section 3.2 of the paper).
"""

from ml_collections import ConfigDict

from simclr_jax.configs import default


def get_config() -> ConfigDict:
    """Returns what differs from the default."""
    config = default.get_config()
    config.data.source = "textures"
    config.augment.image_size = 24
    config.augment.min_area = 0.4
    config.augment.jitter_strength = 0.5
    config.augment.blur_probability = 0.0
    config.model.encoder = "resnet_tiny"
    config.model.cifar_stem = True
    config.loss.temperature = 0.2
    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 3e-3
    config.optimizer.scaling = "none"
    config.optimizer.weight_decay = 1e-4
    config.optimizer.warmup_epochs = 1.0
    config.train.batch_size = 64
    config.train.epochs = 10
    config.checkpoint.every_epochs = 5
    return config
