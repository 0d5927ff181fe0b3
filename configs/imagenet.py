"""ImageNet with a ResNet-50, the recipe of the first paper (SimCLR v1, section 2.2).

    tfds build imagenet2012   (needs the archives, for which you need an account)
    simclr-jax pretrain --config=imagenet --workdir=runs/imagenet
    simclr-jax linear --workdir=runs/imagenet

Or from folders: ``--config.data.source=folder:imagenet`` with train/CLASS/ and validation/CLASS/. ImageNet's
labelled validation split is used as the test split, as in the papers; validation images are held out of train.

Time: 100 epochs at batch 4,096 in about 1.5 hours on 128 TPU v3 cores (the paper); not measured with this library.
Result: linear probe top-1 69.3 % after 1,000 epochs at batch 4,096 in the paper; 62.8 % (paper) to 63.2 % (lightly)
after 100 epochs at batch 256, with ``--config.train.batch_size=256 --config.optimizer.scaling=sqrt
--config.optimizer.learning_rate=0.075``.
"""

from ml_collections import ConfigDict

from simclr_jax.configs import default


def get_config() -> ConfigDict:
    """Returns what differs from the default."""
    config = default.get_config()
    config.data.test_split = "validation"
    config.data.holdout_fraction = 0.01
    config.model.dtype = "bfloat16"
    return config
