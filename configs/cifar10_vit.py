"""CIFAR-10 with a small vision transformer on one GPU: patches of 4 × 4 pixels, trained as in MoCo v3.

    tfds build cifar10
    simclr-jax pretrain --config=cifar10_vit --workdir=runs/cifar10_vit

Or from arrays, and other places for images and views: see ``cifar10``.

Time: not measured. To try it on 2 CPU cores in a few minutes: ``--config.model.encoder=vit_tiny
--config.model.dtype=float32 --config.data.limit=4000 --config.train.batch_size=64 --config.train.epochs=2
--config.optimizer.warmup_epochs=0.5``.
Result: not measured yet with this library.
Recipe: AdamW, 1.5e-4 × batch / 256, weight decay 0.1, a tenth of the epochs for warm-up, fixed positions and a random
projection of patches are those of Chen et al. 2021, "An Empirical Study of Training Self-Supervised Vision
Transformers", section 5; temperature 0.2, too; views are those of ``cifar10``.
"""

from ml_collections import ConfigDict

from simclr_jax.configs import cifar10


def get_config() -> ConfigDict:
    """Returns what differs from the ResNet-18."""
    config = cifar10.get_config()
    config.model.encoder = "vit_small"
    config.model.cifar_stem = False
    config.model.patch_size = 4
    config.model.positions = "sincos"
    config.model.freeze_patch_projection = True
    config.loss.temperature = 0.2
    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 1.5e-4
    config.optimizer.weight_decay = 0.1
    config.optimizer.warmup_epochs = 20.0
    return config
