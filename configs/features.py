"""The features of a run's images, as files that other programs read.

    simclr-jax features --workdir=RUN --out=FOLDER

Time: one pass over the images; 60,000 at 32 pixels through a tiny encoder about a minute on 2 CPU cores.
Result: FOLDER/{train,validation,test}/features-00000.npy, … float32 [images, dim], labels.npy and ids.npy.
"""

from ml_collections import ConfigDict

from simclr_jax.configs import probe


def get_config() -> ConfigDict:
    """Returns every key."""
    return probe.get_config()
