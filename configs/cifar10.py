"""CIFAR-10 with a ResNet-18: the usual SimCLR benchmark on one GPU.

    tfds build cifar10
    simclr-jax pretrain --config=cifar10 --workdir=runs/cifar10
    simclr-jax linear --workdir=runs/cifar10

Or from arrays: ``--config.data.source=npz:cifar10.npz`` with x_train, y_train, x_test and y_test. A tenth of the
training images is held out for validation. ``--config.data.holdout_fraction=0`` pretrains on all 50,000, as is common;
there is then no validation, and the probe must be given its source: ``--config.data.source=tfds:cifar10``.

The GPU holds the images and makes the views; npz: files need no TensorFlow. ``--config.data.cache=host
--config.augment.placement=host`` makes the views on the CPU instead.

Time: lightly's benchmark reports 87 minutes for 200 epochs at batch 512 on one A6000. To try it on 2 CPU cores in
3 minutes: ``--config.model.encoder=resnet_tiny --config.model.dtype=float32
--config.data.limit=10000 --config.train.batch_size=256 --config.train.epochs=3 --config.optimizer.warmup_epochs=1``.
Result: not measured yet with this library. Others: kNN 84.8 % after 200 epochs (lightly), linear probe 90.7 to 91.9 %
after 1,000 (solo-learn, online; a single-file PyTorch program).
Recipe: the paper's appendix B.9; learning rate, weight decay and temperature as in the README of Google's code.
"""

from ml_collections import ConfigDict

from simclr_jax.configs import default


def get_config() -> ConfigDict:
    """Returns what differs from the default."""
    config = default.get_config()
    config.data.source = "tfds:cifar10"
    config.data.cache = "device"  # 150 MB
    config.augment.placement = "device"
    config.augment.image_size = 32
    config.augment.jitter_strength = 0.5
    config.augment.blur_probability = 0.0
    config.model.encoder = "resnet18"
    config.model.cifar_stem = True
    config.model.dtype = "bfloat16"
    config.loss.temperature = 0.5
    config.optimizer.learning_rate = 1.0
    config.optimizer.weight_decay = 1e-4
    config.train.batch_size = 512
    config.train.epochs = 200
    config.checkpoint.every_epochs = 10
    return config
