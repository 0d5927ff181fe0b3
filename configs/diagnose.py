"""Is a run collapsing? Two views of images that it was not trained on, by its own recipe, and how their h and z lie.

    simclr-jax diagnose --workdir=RUN

Time: a quarter of a minute of a CPU core with a tiny encoder, most of it compilation; large encoders as long as the
forward passes take. Result: RUN/eval/diagnose.json, RUN/eval/similarities.png and a table beside the untrained network.
"""

from ml_collections import ConfigDict

from simclr_jax.configs import probe


def get_config() -> ConfigDict:
    """Returns every key."""
    config = probe.get_config()
    config.split = "validation"  # or test, or train
    config.images = 2048  # a seeded sample of the split; ranks need more views than there are dimensions
    del config.layer  # h and z are what is compared
    return config
