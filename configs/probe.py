"""The keys that all probes of a run share. Other configs start from this one."""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Returns the keys that select the checkpoint, the layer and the images."""
    config = ConfigDict()
    config.step = -1  # step of the checkpoint to use; -1 = the newest
    config.layer = 0  # layer to use: 0 = representation h, 1 = first layer of the projection head, …, -1 = projection z
    config.batch_size = 256  # images per step, for computing features and for training on them

    config.data = ConfigDict()  # as in configs/default.py; keys that are not given are as in pretraining
    config.data.source = ""  # other images to use; keys that are not given are then as in configs/default.py
    config.data.dir = ""  # "" = as in pretraining
    config.data.labels = ""  # "" = as in pretraining
    config.data.train_split = ""  # "" = as in pretraining
    config.data.validation_split = ""  # "" = as in pretraining
    config.data.test_split = ""  # "" = as in pretraining
    config.data.holdout_fraction = -1.0  # -1 = as in pretraining
    config.data.limit = -1  # -1 = as in pretraining
    config.data.bits = 0  # 0 = as in pretraining or, if those images have 8 bits, detected
    config.data.max_corrupt_fraction = 0.01  # share of a split's images; stops if more than this cannot be read
    return config
