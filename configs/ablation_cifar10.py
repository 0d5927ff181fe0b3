"""The base config of ablations on a GPU: CIFAR-10 with a ResNet-18, 100 epochs per run.

    simclr-jax ablate --study=augmentation --config=ablation_cifar10 --workdir=runs/ablations

Or from arrays: ``--config.data.source=npz:cifar10.npz``. Time: that of 12 to 27 runs; not measured.
Result: not measured yet.
"""

from ml_collections import ConfigDict

from simclr_jax.configs import cifar10


def get_config() -> ConfigDict:
    """Returns what differs from CIFAR-10's recipe."""
    config = cifar10.get_config()
    config.train.epochs = 100
    config.checkpoint.every_epochs = 20
    config.checkpoint.keep = 1
    return config
