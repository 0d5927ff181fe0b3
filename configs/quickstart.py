"""Textures, embedded in the library: a tiny encoder on a laptop's CPU.

python train.py --config=configs/quickstart.py --workdir=runs/quickstart
"""

from ml_collections import ConfigDict

from configs import default


def get_config() -> ConfigDict:
    """Returns what differs from the default."""
    config = default.get_config()
    config.data.source = "textures"
    config.augment.image_size = 24
    config.augment.min_area = 0.25
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
