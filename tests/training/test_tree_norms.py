"""Norms of all arrays at once are the norms of each, in float64, of NumPy."""

import jax
import numpy as np
import pytest

from simclr_jax.training import tree_norms

SIZES = [(), (1,), (1023,), (1024,), (1025,), (3, 3, 16, 32), (5000,), (0,)]


def many_leaves():
    """More than one kernel of a GPU takes, of all sizes around a row, none of the size of the one before."""
    rng = np.random.default_rng(0)
    return [10.0 ** rng.uniform(-3, 3) * rng.normal(size=SIZES[i % len(SIZES)]) for i in range(150)]


def by_hand(leaf):
    return np.sqrt(np.sum(np.square(np.asarray(leaf, np.float64))))


FORMS = (tree_norms.squares_one_by_one, tree_norms.squares_side_by_side)


@pytest.mark.parametrize("squares", FORMS)
def test_norms_equal_those_of_each_leaf(squares):
    leaves = [leaf.astype(np.float32) for leaf in many_leaves()]
    np.testing.assert_allclose(np.sqrt(jax.jit(squares)(*leaves)), [by_hand(leaf) for leaf in leaves], rtol=1e-6)


def test_the_norm_of_a_tree_is_that_of_all_its_numbers():
    leaves = many_leaves()
    whole = np.concatenate([leaf.ravel() for leaf in leaves])
    np.testing.assert_allclose(jax.jit(tree_norms.norm)(leaves), by_hand(whole), rtol=1e-6)


@pytest.mark.parametrize("squares", FORMS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e20])
def test_one_number_that_is_not_finite_is_seen_in_its_leaf_alone(bad, squares):
    leaves = [np.ones(3000, np.float32) for _ in range(70)]
    leaves[66][2999] = bad
    found = np.isfinite(jax.jit(squares)(*leaves))
    assert not found[66] and found.sum() == 69
    assert not np.isfinite(jax.jit(tree_norms.norm)(leaves))


@pytest.mark.parametrize("platform", ["cpu", "tpu", "cuda", "rocm"])
def test_arrays_are_laid_side_by_side_on_gpus_alone(platform):
    tree = {"a": jax.ShapeDtypeStruct((5, 300), np.float32), "b": jax.ShapeDtypeStruct((7,), np.float32)}
    text = jax.jit(tree_norms.leaf_norms).trace(tree).lower(lowering_platforms=(platform,)).as_text()
    assert ("tensor<3x1024xf32>" in text) == (platform in ("cuda", "rocm"))
