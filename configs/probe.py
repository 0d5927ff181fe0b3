"""What every probe of a run has in common. Other configs start from it."""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Returns the keys that say what is probed, and on which images."""
    config = ConfigDict()
    config.step = -1  # which checkpoint; -1 = the newest
    config.layer = 0  # which of [h, head layer 1 after ReLU, …, z] is read; 0 = h, -1 = z
    config.batch_size = 256  # images a step, of the features' computation and of what is trained on them

    config.data = ConfigDict()  # as in configs/default.py
    config.data.source = ""  # "" = everything under data as in pretraining; else the keys below count
    config.data.dir = ""
    config.data.train_split = "train"
    config.data.validation_split = ""
    config.data.test_split = ""
    config.data.holdout_fraction = 0.1
    config.data.limit = 0
    config.data.bits = 0  # 0 = as the run's images, or found where these have 8 bits
    config.data.max_corrupt_fraction = 0.01
    return config
