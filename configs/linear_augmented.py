"""The papers' linear evaluation of a pretraining run: a classifier on the frozen encoder, trained on crops and flips.

    simclr-jax linear-augmented --workdir=RUN

Appendix B.6 of the first paper: Nesterov momentum 0.9, learning rate 0.1·B/256, 90 epochs, no weight decay. The cosine
schedule is from Google's code. `linear` does the same on central crops, whose features are computed once: much faster.

Time: 90 forward passes over the training images for each network; not measured in full.
Result: RUN/eval/linear_augmented.json, and a table with the trained encoder, an untrained one and chance level.
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
