"""Weighted k-nearest-neighbour (kNN) classification on a pretraining run's features, without training (Wu et al. 2018).

    simclr-jax knn --workdir=RUN

Each test image is classified by its nearest training images. Time: once features are computed, a few seconds on 2 CPU
cores for 10,000 test and 50,000 training images with 512 features. Result: RUN/eval/knn.json, and a table with the
trained encoder, an untrained one and chance level.
"""

from ml_collections import ConfigDict

from simclr_jax.configs import probe


def get_config() -> ConfigDict:
    """Returns every key of the probe."""
    config = probe.get_config()
    # k; the best pair of k and T is chosen on validation
    config.neighbours = (200, 100, 50, 20, 10, 1)
    config.temperatures = (0.1, 0.03, 0.3, 1.0)  # T; a neighbour with cosine similarity s votes with weight exp(s / T)
    return config
