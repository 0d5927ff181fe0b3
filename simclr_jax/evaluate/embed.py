"""A map of many vectors in the plane, in which those that are near each other are so too."""

import numpy as np

MOST_DIMENSIONS = 50  # that t-SNE is given; more are reduced by PCA first, as its authors do


def tsne(x: np.ndarray, *, perplexity: float, seed: int) -> np.ndarray:
    """Returns a map [n, 2] of vectors [n, d] (van der Maaten & Hinton 2008), started from their first two components.

    Args:
      x: the vectors.
      perplexity: about how many neighbours of each count; below n.
      seed: of what is random in it.
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    x = np.asarray(x, np.float64)
    if not x.std(axis=0).any():
        return np.zeros((len(x), 2))  # all in one place, which PCA cannot divide by
    if x.shape[1] > MOST_DIMENSIONS:
        x = PCA(min(MOST_DIMENSIONS, len(x)), random_state=seed).fit_transform(x)
    return TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(x)
