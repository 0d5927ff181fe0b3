"""CIFAR-10 with a ResNet-50: the paper's own CIFAR experiment (appendix B.9).

    tfds build cifar10
    simclr-jax pretrain --config=cifar10_resnet50 --workdir=runs/cifar10_resnet50
    simclr-jax linear --workdir=runs/cifar10_resnet50

Time: 1,000 epochs, the better part of a day on one large GPU; not measured yet with this library.
Result: linear probe 94.0 % in the paper (batch 1,024, 1,000 epochs); others reach 93.4 % (AndrewAtanov's PyTorch code).
"""

from ml_collections import ConfigDict

from simclr_jax.configs import cifar10


def get_config() -> ConfigDict:
    """Returns what differs from the ResNet-18."""
    config = cifar10.get_config()
    config.model.encoder = "resnet50"
    config.train.batch_size = 1024
    config.train.epochs = 1000
    return config
