"""Fine-tuning of a pretraining run: its network is trained on labels, and compared with the same network from scratch.

    simclr-jax finetune --workdir=RUN
    simclr-jax finetune --workdir=RUN --config.label_fraction=0.01

The settings are those of the first paper (appendix B.5): Nesterov momentum 0.9, learning rate 0.05·B/256, no warm-up,
no weight decay, random crop and flip, 60 epochs for 1 % of the labels and 30 for 10 %; the cosine schedule is from
Google's code. A second learning rate makes the comparison fair; validation chooses. For the second paper's
settings use optimizer=lars, scaling=sqrt, learning_rates=(0.005,), batch_size=1024 and layer=1 with a head of 3 layers.

Time: that of (epochs × learning rates × 2 networks) passes of training over the images; not measured in full.
Result: RUN/eval/finetune.json; with part of the labels finetune_0.01.json, with a list of ids finetune_ids.json, with
trainable=stage3 finetune_stage3.json and with layer=1 finetune_layer1.json.
"""

from ml_collections import ConfigDict

from simclr_jax.configs import probe


def get_config() -> ConfigDict:
    """Returns every key."""
    config = probe.get_config()
    # the first part to train, with all after it: all, a block (stage3_block1), a stage (stage3), head or classifier
    config.trainable = "all"
    # share of the training labels to use, balanced by class; smaller subsets are part of larger ones
    config.label_fraction = 1.0
    # alternatively, a text file with one image per line: a path relative to the source's folder, or an id
    config.ids = ""
    config.from_scratch = True  # also train the same network from scratch, for comparison
    config.seed = 0  # determines the subset, the order of images, their views and the network from scratch
    config.seeds = 1  # number of repeats, with seed, seed + 1, …; the result is their mean and standard deviation
    config.epochs = 0  # 0 = as in the papers: 60 for up to 1 % of the labels, otherwise 30
    # before scaling; the best pair of learning rate and weight decay is chosen on validation
    config.learning_rates = (0.05, 0.2)
    config.weight_decays = (0.0,)  # to choose from, likewise
    config.optimizer = "sgd"  # sgd (Nesterov momentum 0.9), lars or adamw
    config.scaling = "linear"  # of the learning rates: linear = × batch / 256, sqrt = × √batch, or none
    config.min_area = 0.08  # smallest crop of a training image, as a share of its area
    return config
