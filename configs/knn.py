"""Weighted nearest neighbours of a pretraining run's features: nothing is trained (Wu et al. 2018).

    simclr-jax knn --workdir=RUN

Time: 10,000 images against 50,000 of 512 numbers, a few seconds on 2 CPU cores, after the features. Result:
RUN/eval/knn.json, and a table beside the untrained encoder and chance. The training images are the bank.
"""

from ml_collections import ConfigDict

from simclr_jax.configs import probe


def get_config() -> ConfigDict:
    """Returns every key of the probe."""
    config = probe.get_config()
    config.neighbours = (200, 100, 50, 20, 10, 1)  # k; validation chooses among all pairs, of equals the first
    config.temperatures = (0.1, 0.03, 0.3, 1.0)  # T; a neighbour of cosine s votes with weight exp(s / T)
    return config
