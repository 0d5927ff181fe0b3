"""STL-10: pretraining on its 100,000 unlabelled images, and a probe on its 5,000 labelled ones.

    tfds build stl10
    simclr-jax pretrain --config=stl10 --workdir=runs/stl10
    simclr-jax linear --workdir=runs/stl10 --config.data.source=tfds:stl10

The probe is given its source, because the split that pretraining uses has no labels.

Time: 100 epochs take some hours on one GPU; not measured yet with this library.
Result: not measured yet; we know of no published figure for exactly this recipe.
Recipe: the paper's for ImageNet, at 96 pixels, with square-root scaling, which it recommends for small batches (B.1).
"""

from ml_collections import ConfigDict

from simclr_jax.configs import default


def get_config() -> ConfigDict:
    """Returns what differs from the default."""
    config = default.get_config()
    config.data.source = "tfds:stl10"
    config.data.train_split = "unlabelled"
    config.data.holdout_fraction = 0.02
    config.augment.image_size = 96
    config.model.encoder = "resnet18"
    config.model.dtype = "bfloat16"
    config.loss.temperature = 0.2
    config.optimizer.learning_rate = 0.075
    config.optimizer.scaling = "sqrt"
    config.train.batch_size = 512
    config.checkpoint.every_epochs = 10
    return config
