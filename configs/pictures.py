"""Pictures of what a run has learned.

    simclr-jax pictures --workdir=RUN

Time: t-SNE of 2,000 images a minute or so of CPU, the rest seconds. Result: RUN/eval/tsne.png, h beside z, coloured by
class (as in the paper's appendix B); neighbours.png, test images beside the training images that lie nearest;
curves.png, from RUN/metrics.jsonl.
"""

from ml_collections import ConfigDict

from simclr_jax.configs import probe


def get_config() -> ConfigDict:
    """Returns every key."""
    config = probe.get_config()
    config.seed = 0  # decides which images are shown, and t-SNE's course
    config.tsne_images = 2000  # of test; 0 = no t-SNE. Its time grows a little faster than they do
    config.perplexity = 30.0  # of t-SNE: about how many neighbours count, less than a third of the images
    config.queries = 8  # test images whose neighbours are shown; 0 = none
    config.neighbours = 8  # of each
    return config
