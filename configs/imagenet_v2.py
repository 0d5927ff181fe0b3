"""ImageNet with a ResNet-50, the recipe of the second paper (SimCLR v2, arXiv 2006.10029, section 3).

    tfds build imagenet2012   (needs the archives, for which you need an account)
    simclr-jax pretrain --config=imagenet_v2 --workdir=runs/imagenet_v2
    simclr-jax linear --workdir=runs/imagenet_v2

A projection head of three layers, 800 epochs, a peak learning rate of 0.1·√4096 = 6.4 after a warm-up of 5 %. For
larger networks add --config.model.sk_ratio=0.0625 (selective kernels), --config.model.encoder=resnet152,
--config.model.width=3.

Time: eight times that of configs/imagenet.py; not measured with this library.
Result: linear probe top-1 71.7 % in the paper (ResNet-50, width 1, without selective kernels; 74.6 % with them, and
79.8 % with the largest network).
"""

from ml_collections import ConfigDict

from simclr_jax.configs import imagenet


def get_config() -> ConfigDict:
    """Returns what differs from the first paper's recipe."""
    config = imagenet.get_config()
    config.head.layers = 3
    config.optimizer.learning_rate = 0.1
    config.optimizer.scaling = "sqrt"
    config.optimizer.weight_decay = 1e-4
    config.optimizer.warmup_epochs = 40.0
    config.train.epochs = 800
    return config
