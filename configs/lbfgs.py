"""L-BFGS logistic regression on a pretraining run's features (Kornblith et al. 2019).

    simclr-jax lbfgs --workdir=RUN

A classifier is fitted on the training images for each L2 strength; the best one on validation is fitted again on both
and evaluated on test once. Time: seconds for 2,000 images with 64 features on 2 CPU cores, minutes for tens of
thousands with 512. Result: RUN/eval/lbfgs.json, and a table with the trained encoder, an untrained one and chance.
"""

from ml_collections import ConfigDict

from simclr_jax.configs import probe


def get_config() -> ConfigDict:
    """Returns every key of the probe."""
    config = probe.get_config()
    config.l2_min = 1e-6  # smallest L2 strength λ, of Σ cross-entropy + (λ/2)·‖W‖²; 1 / C in scikit-learn
    config.l2_max = 1e5  # largest L2 strength
    config.l2_values = 45  # number of strengths, evenly spaced in log λ; the best is chosen on validation
    config.iterations = 1000  # most iterations of one fit; fits that do not converge are reported
    return config
