"""Imagenette, ten classes of ImageNet, with a ResNet-18 at 128 pixels as in lightly's benchmark.

    tfds build imagenette/160px-v2
    simclr-jax pretrain --config=recipes/imagenette_lightly --workdir=runs/imagenette
    simclr-jax knn --workdir=runs/imagenette --config.neighbours="(200,)" --config.data.holdout_fraction=0.1

Or from the folder of its archive, with train/CLASS/ and val/CLASS/: ``--config.data.source=folder:imagenette2-160
--config.data.test_split=val``. All training images are used, so that probes need a hold-out of their own, as above.
Source: lightly's docs, getting_started/benchmarks, and its script imagenette_benchmark.py.

Time: 194 minutes on one A6000 (the source); not measured with this library.
Result: kNN 88.9 % after 800 epochs; k = 200, weighted by similarity with temperature 0.1, the best epoch on the test
images, one run. Not measured with this library.
Recipe: what the keys cannot say: PyTorch's initial weights, bilinear crops and torchvision's colour jitter; a learning
rate that is constant within an epoch; an offset in the BatchNorm of z.
"""

from ml_collections import ConfigDict

from simclr_jax.configs import default


def get_config() -> ConfigDict:
    """Returns what differs from the default."""
    config = default.get_config()
    config.data.source = "tfds:imagenette/160px-v2"
    config.data.test_split = "validation"
    config.data.holdout_fraction = 0.0  # all training images
    config.augment.image_size = 128
    config.augment.jitter_strength = 0.5
    config.model.encoder = "resnet18"
    config.model.pool = "symmetric"
    config.model.normalize = "imagenet"
    config.model.view_batch_norm = True
    config.loss.temperature = 0.5
    config.optimizer.name = "sgd"
    config.optimizer.nesterov = "no"
    config.optimizer.learning_rate = 0.06
    config.optimizer.weight_decay = 5e-4
    config.optimizer.exclude = "none"
    config.optimizer.warmup_epochs = 0.0
    config.train.batch_size = 256
    config.train.epochs = 800
    config.checkpoint.every_epochs = 20
    return config
