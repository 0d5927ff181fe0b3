"""What every probe of a run has in common. Other configs start from it."""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Returns the keys that say what is probed, and on which images."""
    config = ConfigDict()
    config.step = -1  # which checkpoint; -1 = the newest
    config.layer = 0  # which of [h, head layer 1 after ReLU, …, z] is read; 0 = h, -1 = z
    config.batch_size = 256  # images a step, of the features' computation and of what is trained on them

    config.data = ConfigDict()  # as in configs/default.py; what is not given is as in pretraining
    config.data.source = ""  # other images: what is not given is then as in configs/default.py
    config.data.dir = ""
    config.data.labels = ""
    config.data.train_split = ""
    config.data.validation_split = ""
    config.data.test_split = ""
    config.data.holdout_fraction = -1.0  # -1 = not given
    config.data.limit = -1  # -1 = not given
    config.data.bits = 0  # 0 = as the run's images, or found where these have 8 bits
    config.data.max_corrupt_fraction = 0.01
    return config
