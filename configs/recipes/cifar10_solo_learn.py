"""CIFAR-10 with a ResNet-18 as in solo-learn, whose table of CIFAR results is widely quoted.

    simclr-jax pretrain --config=recipes/cifar10_solo_learn --workdir=runs/cifar10_solo_learn
    simclr-jax linear --workdir=runs/cifar10_solo_learn --config.data.holdout_fraction=0.1

Source: github.com/vturrisi/solo-learn, bash_files/pretrain/cifar/simclr.sh of the time when its README first had the
result, and the defaults of its code. All training images are used, so that probes need a hold-out of their own.

Time: not published; not measured with this library.
Result: 90.74 % after 1,000 epochs, by a linear classifier that is trained alongside; one run. Not measured with this
library.
Recipe: what the keys cannot say: its LARS multiplies a layer's gradient by min(0.02 · ‖w‖ / ‖g‖ / rate, 1). This is
plain SGD, as set here, for each layer whose gradient is shorter than 0.02 / rate times its weights, a twentieth at the
highest rate of 0.4; others move less there. Nor its first convolution, padded by 2 pixels instead of 1, PyTorch's
initial weights, torchvision's colour jitter, a warm-up from 3e-5 in steps of an epoch, or float16.
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
    config.augment.blur_probability = 0.0
    config.model.encoder = "resnet18"
    config.model.cifar_stem = True
    config.model.normalize = "cifar10"
    config.model.view_batch_norm = True
    config.head.hidden_dim = 2048
    config.head.dim = 256
    config.head.norm = False
    config.loss.temperature = 0.2
    config.optimizer.name = "sgd"
    config.optimizer.nesterov = "no"
    config.optimizer.learning_rate = 0.4
    config.optimizer.weight_decay = 1e-5
    config.optimizer.warmup_epochs = 10.0
    config.train.batch_size = 256
    config.train.epochs = 1000
    config.checkpoint.every_epochs = 50
    return config
