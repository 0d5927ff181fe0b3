"""The exact search against scikit-learn's brute force, and the vote against a loop."""

import jax
import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from simclr_jax.evaluate import feature_files, knn

ROUNDING = 1e-6  # of cosines in float32; neighbours whose float64 cosines are closer than this may change places


def features(vectors, *cuts, labels=None):
    labels = np.zeros(len(vectors), np.int64) if labels is None else labels
    return feature_files.Features(tuple(np.split(vectors.astype(np.float32), cuts)), labels, np.arange(len(vectors)))


def clusters(n, seed, dim=24):
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(9).normal(size=(5, dim))
    return (centres[rng.integers(0, 5, n)] + 0.7 * rng.normal(size=(n, dim))) * rng.uniform(0.1, 10, (n, 1))


def unit(vectors):
    vectors = vectors.astype(np.float32).astype(np.float64)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def assert_nearest(queries, bank, similarities, rows):
    """Each place is held by the neighbour that scikit-learn puts there, or by one that rounding cannot tell from it."""
    k = rows.shape[1]
    index = NearestNeighbors(n_neighbors=k, metric="cosine", algorithm="brute")
    distances, expected = index.fit(bank.astype(np.float32).astype(np.float64)).kneighbors(
        queries.astype(np.float32).astype(np.float64)
    )
    np.testing.assert_allclose(similarities, 1 - distances, atol=ROUNDING)
    exact = np.take_along_axis(unit(queries) @ unit(bank).T, rows.astype(np.int64), 1)
    assert (np.abs(exact - (1 - distances))[rows != expected] < ROUNDING).all()
    assert all(len(set(found)) == k for found in rows.tolist())  # none twice


@pytest.mark.parametrize("k", [1, 7, 200, 509])
def test_neighbours_are_those_of_scikit_learn(k, monkeypatch):
    monkeypatch.setattr(knn, "BANK_ROWS", 190)  # blocks of 190, 110, 190, 19: smaller than k, not whole groups
    monkeypatch.setattr(knn, "QUERY_ROWS", 16)
    queries, bank = clusters(37, 0), clusters(509, 1)
    found = knn.nearest(features(queries, 20), features(bank, 300), k)
    assert_nearest(queries, bank, *found)


@pytest.mark.parametrize("apart", [1, 640 // knn.GROUP], ids=["a group each", "one group"])
def test_neighbours_are_all_found_whatever_groups_they_are_in(apart):
    queries, bank = clusters(8, 0), clusters(640, 1)  # groups of every 40th row
    places = 3 + apart * np.arange(knn.GROUP)
    bank[places] = queries[0] + 1e-2 * clusters(knn.GROUP, 2)
    _, rows = knn.nearest(features(queries), features(bank), knn.GROUP)
    assert set(rows[0]) == set(places)


def test_equal_vectors_are_different_neighbours(monkeypatch):
    monkeypatch.setattr(knn, "BANK_ROWS", 50)
    queries, bank = clusters(5, 0), np.repeat(clusters(40, 1), 4, 0)
    assert_nearest(queries, bank, *knn.nearest(features(queries), features(bank), 30))


def test_lengths_do_not_matter_and_zeros_are_equally_far():
    queries, bank = clusters(6, 0), clusters(60, 1)
    near = knn.nearest(features(queries), features(bank), 5)
    for scale in (1e-30, 1e30):
        far = knn.nearest(features(scale * queries), features(scale * bank), 5)
        np.testing.assert_array_equal(far[1], near[1])
        np.testing.assert_allclose(far[0], near[0], atol=ROUNDING)
    similarities, _ = knn.nearest(features(0 * queries), features(bank), 5)
    np.testing.assert_array_equal(similarities, 0)


def test_the_bank_is_never_whole_in_memory(monkeypatch):
    monkeypatch.setattr(knn, "BANK_ROWS", 64)
    monkeypatch.setattr(feature_files.Features, "array", lambda self: pytest.fail("the whole bank"))
    held = []

    def watch(blocks):
        for block in blocks:
            yield block
            held.append((len(block), sum(array.nbytes for array in jax.live_arrays() if array.shape[1:] == (24,))))

    before = sum(array.nbytes for array in jax.live_arrays() if array.shape[1:] == (24,))
    knn.nearest(features(clusters(4, 0)), features(clusters(1000, 1)), 3, progress=watch)
    rows, memory = zip(*held, strict=True)
    assert max(rows) == 64 and sum(rows) == 1000
    assert max(memory) - before <= 2 * 64 * 24 * 4  # a block, and the one before


def test_the_vote_by_hand():
    rng = np.random.default_rng(0)
    similarities = -np.sort(-rng.uniform(-1, 1, (9, 6)), 1).astype(np.float32)
    labels = rng.integers(0, 4, (9, 6))
    for k, temperature in ((6, 0.1), (4, 1.0), (1, 0.001)):
        votes = knn.vote(similarities, labels, k=k, temperature=temperature, num_classes=4)
        for i in range(9):
            expected = [0.0] * 4
            for s, label in zip(similarities[i, :k].tolist(), labels[i, :k], strict=True):
                expected[label] += np.exp((s - float(similarities[i, 0])) / temperature)
            np.testing.assert_allclose(votes[i], expected)


@pytest.mark.parametrize(
    ("k", "dim", "words"),
    [(61, 24, "from 1 to 60"), (0, 24, "from 1 to 60"), (5, 23, "have 23 dimensions and the bank 24")],
)
def test_bad_input_is_one_line(k, dim, words):
    with pytest.raises(ValueError, match=words) as error:
        knn.nearest(features(clusters(6, 0, dim)), features(clusters(60, 1)), k)
    assert "\n" not in str(error.value)
