"""L-BFGS logistic regression on a pretraining run's features (Kornblith et al. 2019).

    simclr-jax lbfgs --workdir=RUN

Each L2 strength is fitted on the training images, the best on validation again on both together, and judged on test
once. Time: seconds for 2,000 images of 64 numbers on 2 CPU cores, minutes for tens of thousands of 512. Result:
RUN/eval/lbfgs.json, and a table beside the untrained encoder and chance.
"""

from ml_collections import ConfigDict

from simclr_jax.configs import probe


def get_config() -> ConfigDict:
    """Returns every key of the probe."""
    config = probe.get_config()
    config.l2_min = 1e-6  # λ of Σ cross-entropy + (λ/2)·‖W‖²: 1 / C of scikit-learn
    config.l2_max = 1e5  # the strongest
    config.l2_values = 45  # evenly spaced in log λ; validation chooses
    config.iterations = 1000  # the most of one fit; one that has not converged then is said
    return config
