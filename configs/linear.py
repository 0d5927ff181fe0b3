"""The linear probe of a pretraining run, on features that are computed once.

    simclr-jax linear --workdir=RUN

Time: the features of 60,000 images at 32 pixels with a tiny encoder, about a minute on 2 CPU cores; the probes
themselves seconds to a minute. Result: RUN/eval/linear.json, and a table beside the untrained encoder and chance.
"""

from ml_collections import ConfigDict

from simclr_jax.configs import probe


def get_config() -> ConfigDict:
    """Returns every key of the probe."""
    config = probe.get_config()
    config.seed = 0  # decides the order of images in the probe's training
    config.seeds = 1  # probes in as many orders, from seed on; the result is their mean and standard deviation
    config.epochs = 100  # of the probe's training
    config.learning_rates = (0.003, 0.01, 0.03, 0.1)  # validation chooses among all pairs of these
    config.weight_decays = (0.0, 1e-4, 1e-3)  # likewise
    return config
