"""Nearest neighbours by cosine and their weighted vote (Wu et al. 2018, arXiv 1805.01978, section 3.4).

The bank passes the device in blocks, so that it never has to fit into memory; the search is exact.
"""

import functools
from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
import numpy as np

from simclr_jax.evaluate.feature_files import Features

BANK_ROWS = 2**16  # a step: 512 MiB of features of 2,048 numbers
QUERY_ROWS = 2**10  # a step; its similarities to a block of the bank take 256 MiB
GROUP = 16  # similarities of which only the largest is looked at first


def nearest(
    queries: Features, bank: Features, k: int, *, progress: Callable[[Iterable], Iterable] = iter
) -> tuple[np.ndarray, np.ndarray]:
    """Finds the k vectors of a bank that are most similar to each query.

    Of equal similarities at the k-th place any may be returned.

    Args:
      queries, bank: features; a vector of zeros is equally far, 0, from all.
      k: how many, at most ``len(bank)``.
      progress: wraps the blocks of the bank.

    Returns:
      Cosine similarities float32 [queries, k], largest first, and the rows of the bank int32 [queries, k].

    Raises:
      ValueError: k is below 1 or above ``len(bank)``, or the vectors are not of one length.
    """
    if not 1 <= k <= len(bank):
        raise ValueError(f"k={k:,} neighbours, but the bank has {len(bank):,} images: choose k from 1 to {len(bank):,}")
    if queries.dim != bank.dim:
        raise ValueError(
            f"query features have {queries.dim} dimensions and the bank {bank.dim}; take both from the same layer"
        )
    blocks = [np.asarray(_unit(block)) for block in queries.blocks(QUERY_ROWS)]
    best = [(np.full((len(block), k), -np.inf, np.float32), np.zeros((len(block), k), np.int32)) for block in blocks]
    start = 0
    for rows in progress(bank.blocks(BANK_ROWS)):
        unit = _unit(rows)
        best = [_merge(*found, block, unit, start) for found, block in zip(best, blocks, strict=True)]
        jax.block_until_ready(best)  # else blocks of the bank would pile up on the device
        start += len(rows)
    similarities, found = (np.concatenate([np.asarray(part) for part in parts]) for parts in zip(*best, strict=True))
    return similarities, found


def vote(similarities: np.ndarray, labels: np.ndarray, *, k: int, temperature: float, num_classes: int) -> np.ndarray:
    """Returns the weight exp(s / T) that the k nearest give to each class, float64 [n, classes], largest weight 1.

    Args:
      similarities: [n, k or more], largest first, as of `nearest`.
      labels: int [n, k or more], of the neighbours.
      k: how many of them vote.
      temperature: T.
      num_classes: labels are 0 to num_classes - 1.
    """
    nearest = similarities[:, :k].astype(np.float64)
    weights = np.exp((nearest - nearest[:, :1]) / temperature)  # relative to the first: no overflow, the same vote
    cells = labels[:, :k] + num_classes * np.arange(len(labels))[:, None]
    votes = np.bincount(cells.ravel(), weights.ravel(), minlength=num_classes * len(labels))
    return votes.reshape(len(labels), num_classes)


@jax.jit
def _unit(vectors):
    """Vectors of length 1; zeros stay zeros."""
    largest = jnp.abs(vectors).max(1, keepdims=True)  # else squares of large and small numbers leave float32
    scaled = vectors / jnp.where(largest > 0, largest, 1)
    return scaled / jnp.maximum(jnp.linalg.norm(scaled, axis=1, keepdims=True), 1)


@functools.partial(jax.jit, donate_argnums=(0, 1))
def _merge(similarities, rows, queries, bank, start):
    """The best k of those found so far and of a block of the bank whose first row is ``start``.

    A group whose largest similarity is below those of k other groups holds none of the best k: groups are ranked by
    their largest first, and only members of the best k groups are candidates.
    """
    k, groups = similarities.shape[1], -(-len(bank) // GROUP)
    new = jnp.matmul(queries, bank.T, precision=jax.lax.Precision.HIGHEST)
    padded = jnp.pad(new, [(0, 0), (0, groups * GROUP - len(bank))], constant_values=-jnp.inf)
    largest = padded.reshape(len(new), GROUP, groups).max(1)
    chosen = jax.lax.top_k(largest, min(k, groups))[1]
    candidates = (chosen[:, None] + groups * jnp.arange(GROUP)[:, None]).reshape(len(new), -1)
    found = jnp.take_along_axis(new, candidates, 1, mode="fill", fill_value=-jnp.inf)
    similarities, places = jax.lax.top_k(jnp.concatenate([similarities, found], 1), k)
    return similarities, jnp.take_along_axis(jnp.concatenate([rows, start + candidates], 1), places, 1)
