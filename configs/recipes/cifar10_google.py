"""CIFAR-10 with a ResNet-18: the command in the README of Google's TensorFlow 2 code.

    simclr-jax pretrain --config=recipes/cifar10_google --workdir=runs/cifar10_google
    simclr-jax linear --workdir=runs/cifar10_google --config.data.holdout_fraction=0.1

Source: github.com/google-research/simclr, tf2/README.md, and the defaults in tf2/run.py: a head of 3 layers, LARS, 10
epochs of warm-up. All training images are used, so that probes need a hold-out of their own, as above.

Time: not published; not measured with this library.
Result: none published for this command; around 91 % by a linear probe for that of the TensorFlow 1 code, whose weight
decay is 1e-6. Not measured with this library.
Recipe: what the keys cannot say: Google's code adds the losses of both directions, twice ours. LARS takes that out of
the kernels' steps; but their weight decay counts half there, and scales and offsets of BatchNorm move twice as far.
"""

from ml_collections import ConfigDict

from simclr_jax.configs import default


def get_config() -> ConfigDict:
    """Returns what differs from the default."""
    config = default.get_config()
    config.data.source = "tfds:cifar10"
    config.data.holdout_fraction = 0.0  # all 50,000 training images
    config.data.cache = "device"
    config.augment.placement = "device"
    config.augment.image_size = 32
    config.augment.jitter_strength = 0.5
    config.augment.blur_probability = 0.0
    config.model.encoder = "resnet18"
    config.model.cifar_stem = True
    config.head.layers = 3
    config.loss.temperature = 0.5
    config.optimizer.learning_rate = 1.0
    config.optimizer.weight_decay = 1e-4
    config.train.batch_size = 512
    config.train.epochs = 1000
    config.checkpoint.every_epochs = 50
    return config
