"""The papers' linear evaluation of a pretraining run: a classifier on the frozen encoder, trained on crops and flips.

    simclr-jax linear-augmented --workdir=RUN

Appendix B.6 of the first paper: Nesterov momentum 0.9, learning rate 0.1·B/256, 90 epochs, no weight decay; the cosine
is Google's code's. `linear` is the same on central views alone, whose features are computed once: far quicker.

Time: 90 forward passes over the training images for each network; not measured at length.
Result: RUN/eval/linear_augmented.json, beside the untrained encoder and chance.
"""

from ml_collections import ConfigDict

from simclr_jax.configs import finetune


def get_config() -> ConfigDict:
    """Returns every key."""
    config = finetune.get_config()
    del config.trainable, config.from_scratch
    config.epochs = 90
    config.learning_rates = (0.1,)
    return config
