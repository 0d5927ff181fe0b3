"""The linear probe of a pretraining run.

    python eval_linear.py --workdir=RUN

Time: the features of 60,000 images at 32 pixels with a tiny encoder, about a minute on 2 CPU cores; the probes
themselves seconds to a minute. Result: RUN/eval/linear.json, and a table beside the untrained encoder and chance.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Returns every key of the probe."""
    config = ConfigDict()
    config.seed = 0  # decides the order of images in the probe's training
    config.step = -1  # which checkpoint; -1 = the newest
    config.layer = 0  # which of [h, head layer 1 after ReLU, …, z] the probe reads; 0 = h, -1 = z

    config.data = ConfigDict()  # as in configs/default.py
    config.data.source = ""  # "" = everything under data as in pretraining; else the keys below count
    config.data.dir = ""
    config.data.train_split = "train"
    config.data.validation_split = ""
    config.data.test_split = ""
    config.data.holdout_fraction = 0.1
    config.data.limit = 0
    config.data.max_corrupt_fraction = 0.01

    config.batch_size = 256  # images a step, of the features' computation and of the probe
    config.epochs = 100
    config.learning_rates = (0.003, 0.01, 0.03, 0.1)  # validation chooses among all pairs of these
    config.weight_decays = (0.0, 1e-4, 1e-3)
    return config
