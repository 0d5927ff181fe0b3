"""L-BFGS logistic regression against scikit-learn's Newton solver in float64, and the sweep's choice."""

import numpy as np
import pytest
from scipy.special import log_softmax, softmax
from sklearn.linear_model import LogisticRegression

from simclr_jax.evaluate import lbfgs

CLASSES, DIM = 4, 12
STRENGTHS = (1e-4, 1e-1, 1e2, 1e5)
NEAR = 1e-4  # how far above its minimum an objective may end, as a share of it


def data(n, seed, *, offset=0.0, scale=1.0):
    """Overlapping classes in features that depend on one another."""
    shared = np.random.default_rng(99)
    centres, mix = shared.normal(size=(CLASSES, DIM)), shared.normal(size=(DIM, DIM))
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, n)
    vectors = (0.6 * centres[labels] + rng.normal(size=(n, DIM))) @ mix
    return (offset + scale * vectors).astype(np.float32), labels


def oracle(l2, *sets):
    x, y = (np.concatenate(parts) for parts in zip(*sets, strict=True))
    return LogisticRegression(C=1 / l2, solver="newton-cholesky", tol=1e-10).fit(x.astype(np.float64), y)


def objective(weights, bias, l2, *sets):
    x, y = (np.concatenate(parts) for parts in zip(*sets, strict=True))
    logits = x.astype(np.float64) @ weights + bias
    return -log_softmax(logits, 1)[np.arange(len(y)), y].sum() + l2 / 2 * (weights.astype(np.float64) ** 2).sum()


def fit(train, validation, **changes):
    return lbfgs.fit(train, validation, **{"num_classes": CLASSES, "l2": STRENGTHS, "iterations": 1000} | changes)


@pytest.mark.parametrize("l2", STRENGTHS)
@pytest.mark.parametrize("moved", [{}, {"offset": 3.0, "scale": 0.05}], ids=["centred", "far and small"])
def test_a_fit_is_scikit_learns_on_both_sets(l2, moved):
    train, validation, test = (data(n, seed, **moved) for seed, n in enumerate((300, 100, 400)))
    found = fit(train, validation, l2=[l2])
    expected = oracle(l2, train, validation)
    assert found.unfinished == 0
    least = objective(expected.coef_.T, expected.intercept_, l2, train, validation)
    assert objective(found.weights, found.bias, l2, train, validation) <= least * (1 + NEAR)
    assert abs((found.logits(test[0]).argmax(1) == test[1]).mean() - expected.score(*test)) <= 0.003
    if l2 < 1e3:  # the comparison would notice a fit that leaves validation out
        alone = oracle(l2, train)
        assert objective(alone.coef_.T, alone.intercept_, l2, train, validation) > least * (1 + 10 * NEAR)


def test_a_fit_ends_where_the_gradient_is_small():
    (x, y), validation = data(300, 0), data(100, 1)
    found = fit((x, y), validation, l2=[0.1])
    x, y = np.concatenate([x, validation[0]]).astype(np.float64), np.concatenate([y, validation[1]])
    error = softmax(x @ found.weights + found.bias, 1) - np.eye(CLASSES)[y]
    scale = np.sqrt(x.var(0).mean())
    weights = ((x - x.mean(0)).T @ error + 0.1 * found.weights) / len(y) / scale
    assert max(np.abs(weights).max(), np.abs(error.mean(0)).max()) <= 1.1 * lbfgs.TOLERANCE
    assert fit((x.astype(np.float32), y), validation, l2=[0.1], iterations=1).unfinished == 2


def test_validation_chooses_the_strength():
    train, validation = data(60, 0), data(2000, 1)
    scores = {l2: oracle(l2, train).score(*validation) for l2 in STRENGTHS}
    best = max(scores, key=scores.get)
    assert best not in (STRENGTHS[0], STRENGTHS[-1]) and sorted(scores.values())[-2] < scores[best] - 0.003
    for order in (STRENGTHS, STRENGTHS[::-1]):
        found = fit(train, validation, l2=order)
        assert found.l2 == best
        assert abs(found.validation_top1 - scores[best]) <= 0.002


def test_of_strengths_that_are_equally_good_the_strongest_is_taken():
    x, y = data(200, 0)
    x[:, :CLASSES] += 100 * np.eye(CLASSES, dtype=np.float32)[y]
    found = fit((x, y), (x, y), l2=(0.01, 1.0, 0.1))
    assert found.validation_top1 == 1.0 and found.l2 == 1.0


def test_a_constant_feature_and_constant_features_do_no_harm():
    train, validation = data(300, 0), data(100, 1)
    with_constant = [(np.concatenate([x, np.full((len(x), 1), 7, np.float32)], 1), y) for x, y in (train, validation)]
    plain = fit(train, validation, l2=[1.0])
    np.testing.assert_allclose(fit(*with_constant, l2=[1.0]).weights[:-1], plain.weights, atol=1e-2)
    constant = fit(*((np.full_like(x, 7), y) for x, y in (train, validation)), l2=[1.0])
    frequencies = np.bincount(np.concatenate([train[1], validation[1]])) / 400
    np.testing.assert_allclose(softmax(constant.logits(train[0][:1]), 1)[0], frequencies, atol=1e-3)


def test_bad_input_is_refused():
    good, (x, y) = data(30, 0), data(30, 1)
    for bad in ((np.where(x == x[3, 2], np.nan, x), y), (x, np.where(y == 0, -1, y)), (x, y + 1)):
        with pytest.raises(ValueError, match=r"not finite|labels run from"):
            fit(good, bad)
    with pytest.raises(ValueError, match="no L2 strength"):
        fit(good, good, l2=[])
