"""Which vectors are near which: nearest neighbours of a few, and a map of many in the plane."""

from collections.abc import Iterable

import numpy as np

from simclr_jax.evaluate.collapse import normalized

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


def nearest(queries: np.ndarray, bank: Iterable[np.ndarray], k: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the places [q, k] in a bank of the vectors nearest by cosine, nearest first, and the cosines.

    Args:
      queries: [q, d].
      bank: blocks of vectors [rows, d], one after the other.
      k: how many; fewer where the bank has fewer.
    """
    queries, start = normalized(queries), 0
    places, cosines = np.zeros((len(queries), 0), int), np.zeros((len(queries), 0))
    for block in bank:
        found = queries @ normalized(block).T
        places = np.concatenate([places, np.broadcast_to(start + np.arange(len(block)), found.shape)], axis=1)
        cosines = np.concatenate([cosines, found], axis=1)
        best = np.argsort(-cosines, axis=1, kind="stable")[:, :k]
        places, cosines = (np.take_along_axis(x, best, axis=1) for x in (places, cosines))
        start += len(block)
    return places, cosines
