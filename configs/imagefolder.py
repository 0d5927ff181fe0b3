"""Your own JPEG or PNG files, with or without class folders, on one GPU.

    simclr-jax pretrain --config=imagefolder --workdir=runs/mine --config.data.source=folder:PATH
    simclr-jax linear --workdir=runs/mine          (with class folders)

PATH contains train/CLASS/, validation/CLASS/ and test/CLASS/, or only CLASS/, or just image files; missing splits are
held out of train. Without labels, use the features with simclr_jax.load_encoder, or probe on another source.

Time: limited by decoding; two CPU cores make a few hundred views per second from photos, so 100 epochs of 10,000 images
take hours there, or an evening with 16 cores.
Result: depends on the images. With fewer than about 10,000, train for more epochs; not measured yet.
Recipe: the paper's, with square-root scaling, which it recommends for small batches (appendix B.1).
"""

from ml_collections import ConfigDict

from simclr_jax.configs import default


def get_config() -> ConfigDict:
    """Returns what differs from the default."""
    config = default.get_config()
    config.data.source = "folder:images"
    config.augment.image_size = 128
    config.model.encoder = "resnet18"
    config.model.dtype = "bfloat16"
    config.optimizer.learning_rate = 0.075
    config.optimizer.scaling = "sqrt"
    config.train.batch_size = 256
    config.checkpoint.every_epochs = 5
    return config
