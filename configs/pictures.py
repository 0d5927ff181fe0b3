"""Pictures of what a run has learned: t-SNE, nearest neighbours and training curves.

    simclr-jax pictures --workdir=RUN

Time: about a minute of CPU for t-SNE of 2,000 images, seconds for the rest. Result: RUN/eval/tsne.png, of
representation h and projection z, coloured by class (as in the paper's appendix B); neighbours.png, test images with
the most similar training images; curves.png, from RUN/metrics.jsonl.
"""

from ml_collections import ConfigDict

from simclr_jax.configs import probe


def get_config() -> ConfigDict:
    """Returns every key."""
    config = probe.get_config()
    config.seed = 0  # determines which images are shown, and t-SNE's random start
    # test images in the t-SNE picture; 0 = no t-SNE. Time grows slightly faster than this number
    config.tsne_images = 2000
    config.perplexity = 30.0  # of t-SNE: roughly the number of neighbours that count; less than a third of the images
    config.queries = 8  # test images whose neighbours are shown; 0 = none
    config.neighbours = 8  # how many neighbours to show for each
    return config
