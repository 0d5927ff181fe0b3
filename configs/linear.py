"""Linear probe of a pretraining run: a linear classifier on the frozen encoder's features, which are computed once.

    simclr-jax linear --workdir=RUN

Time: the features of 60,000 images at 32 pixels with a tiny encoder, about a minute on 2 CPU cores; the probes
themselves seconds to a minute. Result: RUN/eval/linear.json, and a table with the trained encoder, an
untrained one and chance level.
"""

from ml_collections import ConfigDict

from simclr_jax.configs import probe


def get_config() -> ConfigDict:
    """Returns every key of the probe."""
    config = probe.get_config()
    config.seed = 0  # determines the order of images in the probe's training
    config.seeds = 1  # number of repeats, with seed, seed + 1, …; the result is their mean and standard deviation
    config.epochs = 100
    # the best pair of learning rate and weight decay is chosen on validation
    config.learning_rates = (0.003, 0.01, 0.03, 0.1)
    config.weight_decays = (0.0, 1e-4, 1e-3)  # to choose from, likewise
    return config
