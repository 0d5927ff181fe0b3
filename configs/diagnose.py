"""Has a run collapsed? Measures how spread out the representations h and projections z of held-out images are.

    simclr-jax diagnose --workdir=RUN

Two views of each image are made by the run's own recipe. Time: 15 seconds of a CPU core with a tiny encoder, mostly
compilation. Result: RUN/eval/diagnose.json, RUN/eval/similarities.png and a table with an
untrained network for comparison.
"""

from ml_collections import ConfigDict

from simclr_jax.configs import probe


def get_config() -> ConfigDict:
    """Returns every key."""
    config = probe.get_config()
    config.split = "validation"  # the images to use: validation, test or train
    config.images = 2048  # random sample of the split; ranks need more views than there are dimensions
    del config.layer  # h and z are what is compared
    return config
