"""Fine-tuning of a pretraining run: the network learns from labels, beside the same network from scratch.

    simclr-jax finetune --workdir=RUN
    simclr-jax finetune --workdir=RUN --config.label_fraction=0.01

The settings are those of the first paper (appendix B.5): Nesterov momentum 0.9, learning rate 0.05·B/256, no warm-up,
no weight decay, random crop and flip, 60 epochs for 1 % of the labels and 30 for 10 %; the cosine is Google's code's. A
second rate gives the network from scratch a fair chance; validation chooses for each. The second paper's (Google's
README): optimizer=lars, scaling=sqrt, learning_rates=(0.005,), batch_size=1024, layer=1 of a head with 3 layers.

Time: epochs × rates × 2 networks, each image a training step's share; not measured at length.
Result: RUN/eval/finetune.json, of part of the labels finetune_0.01.json, of a list of ids finetune_ids.json; with
trainable=stage3 finetune_stage3.json, with layer=1 finetune_layer1.json.
"""

from ml_collections import ConfigDict

from simclr_jax.configs import probe


def get_config() -> ConfigDict:
    """Returns every key."""
    config = probe.get_config()
    config.trainable = "all"  # the first part that learns: all, a block (stage3_block1), a stage, head or classifier
    config.label_fraction = 1.0  # of the training images, as many of each class; smaller ones lie in larger ones
    config.ids = ""  # instead: a text file that lists images, a line each: paths from the source's folder on, or ids
    config.from_scratch = True  # whether the untrained network learns, too, for comparison
    config.seed = 0  # decides the subset, the order of images, their views and the network from scratch
    config.seeds = 1  # repeats, from seed on; the result is their mean and standard deviation
    config.epochs = 0  # 0 = by the papers: 60 for up to 1 % of the labels, else 30
    config.learning_rates = (0.05, 0.2)  # before scaling; validation chooses among all pairs of these
    config.weight_decays = (0.0,)  # likewise
    config.optimizer = "sgd"  # with Nesterov momentum 0.9; lars or adamw
    config.scaling = "linear"  # of learning rates: linear (B/256), sqrt (√B) or none
    config.min_area = 0.08  # smallest crop of a training view, share of the image's area
    return config
