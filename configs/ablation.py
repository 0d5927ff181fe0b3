"""The base config of ablations on a CPU: the quickstart with small batches, so that few images give many steps.

    simclr-jax ablate --study=augmentation --workdir=runs/ablations

Studies: augmentation, head, batch, temperature, epochs. Time: 12 to 27 runs of 40 s on 2 CPU cores, 18 minutes at most.
Result: benchmarks/RESULTS.md, "The paper's findings". On a GPU: ``--config=ablation_cifar10``.
"""

from ml_collections import ConfigDict

from simclr_jax.configs import quickstart


def get_config() -> ConfigDict:
    """Returns what differs from the quickstart."""
    config = quickstart.get_config()
    config.augment.placement = "device"
    config.optimizer.learning_rate = 1e-3  # × √batch
    config.optimizer.scaling = "sqrt"
    config.train.batch_size = 16
    config.train.epochs = 4
    config.checkpoint.every_epochs = 0
    config.checkpoint.keep = 1
    return config
