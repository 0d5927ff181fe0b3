"""NT-Xent against a NumPy loop, against optax, and against what must not change its value."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from simclr_jax import losses
from simclr_jax.losses import contrastive, nt_xent

TEMPERATURES = (0.01, 0.05, 0.1, 0.5, 1.0)


def numpy_nt_xent(z1, z2, temperature):
    """The definition, one anchor at a time, in float64: loss, accuracy, entropy."""
    z = np.concatenate([z1, z2]).astype(np.float64)
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    n = len(z1)
    terms, hits, entropies = [], [], []
    for i in range(2 * n):
        match = (i + n) % (2 * n)
        similarity = {k: z[i] @ z[k] / temperature for k in range(2 * n) if k != i}
        top = max(similarity.values())
        terms.append(np.log(sum(np.exp(s - top) for s in similarity.values())) + top - similarity[match])
        if i < n:
            across = np.array([similarity[k] for k in range(n, 2 * n)])
            p = np.exp(across - across.max())
            p /= p.sum()
            hits.append(np.argmax(across) == i)
            entropies.append(-np.sum(p * np.log(p + 1e-8)))
    return np.mean(terms), np.mean(hits), np.mean(entropies)


def numpy_gradient(z1, z2, temperature, step=1e-5):
    """Central differences of the loop, in float64, shaped like the two views stacked."""
    z = np.stack([z1, z2]).astype(np.float64)
    gradient = np.zeros_like(z)
    for index in np.ndindex(z.shape):
        nudge = np.zeros_like(z)
        nudge[index] = step
        plus, minus = numpy_nt_xent(*(z + nudge), temperature)[0], numpy_nt_xent(*(z - nudge), temperature)[0]
        gradient[index] = (plus - minus) / (2 * step)
    return gradient


def views(n=7, dim=5, seed=0, noise=0.7):
    """Two views that are related enough for some, not all, matches to be found."""
    rng = np.random.default_rng(seed)
    z1 = rng.normal(size=(n, dim))
    return z1.astype(np.float32), (z1 + noise * rng.normal(size=(n, dim))).astype(np.float32)


@functools.cache  # one compilation for all tests of the same keywords and shapes
def compiled(temperature, chunk_size):
    def loss(z):
        return nt_xent(z[0], z[1], temperature=temperature, chunk_size=chunk_size)

    return jax.jit(jax.value_and_grad(loss, has_aux=True))


def value_and_gradient(z1, z2, temperature=0.1, chunk_size=None):
    """((loss, metrics), gradient stacked over the views)."""
    return compiled(temperature, chunk_size)(jnp.stack([z1, z2]))


def assert_metrics(metrics, accuracy, entropy, **tolerance):
    assert sorted(metrics) == ["contrastive_accuracy", "contrastive_entropy"]
    np.testing.assert_allclose(metrics["contrastive_accuracy"], accuracy, rtol=1e-6)
    np.testing.assert_allclose(metrics["contrastive_entropy"], entropy, **tolerance)


@pytest.mark.parametrize(("temperature", "loss", "entropy"), [(0.1, 1.784592, 0.450741), (0.5, 1.216801, 0.842694)])
def test_golden_values(temperature, loss, entropy):
    h = np.sin(np.arange(24.0)).reshape(8, 3)
    (got, metrics), _ = value_and_gradient(h[:4], h[4:], temperature=temperature)
    np.testing.assert_allclose(got, loss, atol=2e-6)
    assert_metrics(metrics, 0.5, entropy, atol=2e-6)


@pytest.mark.parametrize("chunk_size", (None, 2))
@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_loss_metrics_and_gradient_are_those_of_the_definition(temperature, chunk_size):
    z1, z2 = views()
    (loss, metrics), gradient = value_and_gradient(z1, z2, temperature=temperature, chunk_size=chunk_size)
    want_loss, accuracy, entropy = numpy_nt_xent(z1, z2, temperature)
    want_gradient = numpy_gradient(z1, z2, temperature)
    assert 0 < accuracy < 1
    np.testing.assert_allclose(loss, want_loss, rtol=1e-5)
    assert_metrics(metrics, accuracy, entropy, rtol=1e-4)
    np.testing.assert_allclose(gradient, want_gradient, rtol=1e-4, atol=1e-4 * np.abs(want_gradient).max())


@pytest.mark.parametrize("temperature", (0.05, 0.5))
def test_equals_optax(temperature):
    z1, z2 = views(n=6, dim=4, seed=1)

    def other(z):
        return optax.losses.ntxent(z.reshape(12, 4), jnp.tile(jnp.arange(6), 2), temperature)

    want_loss, want_gradient = jax.jit(jax.value_and_grad(other))(jnp.stack([z1, z2]))
    (loss, _), gradient = value_and_gradient(z1, z2, temperature=temperature)
    np.testing.assert_allclose(loss, want_loss, rtol=1e-5)
    np.testing.assert_allclose(gradient, want_gradient, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("n", "chunk_size"), [(2, 1), (7, 1), (7, 3), (7, 100), (8, 3), (9, 2)])
def test_chunks_change_nothing(n, chunk_size):
    z1, z2 = views(n=n)
    (loss, metrics), gradient = value_and_gradient(z1, z2, temperature=0.1)
    (got_loss, got_metrics), got_gradient = value_and_gradient(z1, z2, temperature=0.1, chunk_size=chunk_size)
    np.testing.assert_allclose(got_loss, loss, rtol=1e-6)
    assert_metrics(got_metrics, metrics["contrastive_accuracy"], metrics["contrastive_entropy"], rtol=1e-5)
    np.testing.assert_allclose(got_gradient, gradient, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("temperature", "dtype"),
    [*((temperature, jnp.float32) for temperature in TEMPERATURES), (0.01, jnp.bfloat16), (1.0, jnp.bfloat16)],
)
def test_stripes_of_a_batch_with_many_negatives_equal_its_matrix(temperature, dtype):
    z1, z2 = (jnp.asarray(z, dtype) for z in views(n=200, dim=16))
    (loss, metrics), gradient = value_and_gradient(z1, z2, temperature=temperature)
    (got_loss, got_metrics), got_gradient = value_and_gradient(z1, z2, temperature=temperature, chunk_size=48)
    np.testing.assert_allclose(got_loss, loss, rtol=2e-6)
    assert_metrics(got_metrics, metrics["contrastive_accuracy"], metrics["contrastive_entropy"], rtol=2e-5)
    assert got_gradient.dtype == dtype
    got, want = (np.asarray(x, np.float32) for x in (got_gradient, gradient))
    one_bit = 2.0**-8 if dtype == jnp.bfloat16 else 2e-5
    np.testing.assert_allclose(got, want, rtol=2 * one_bit, atol=one_bit * np.abs(want).max() / 10)


@pytest.mark.parametrize("chunk_size", (None, 3))
def test_of_equal_candidates_the_first_is_chosen(chunk_size):
    """As argmax does: a network that has collapsed must not seem to find every match."""
    z = np.ones((7, 4), np.float32)
    (loss, metrics), _ = value_and_gradient(z, z, chunk_size=chunk_size)
    np.testing.assert_allclose(loss, np.log(13), rtol=1e-6)
    assert_metrics(metrics, 1 / 7, np.log(7), rtol=1e-6)


def test_the_gradient_is_multiplied_by_what_comes_from_above():
    z = jnp.stack(views())

    def loss(z, weight):
        return weight * nt_xent(z[0], z[1], chunk_size=3)[0]

    np.testing.assert_allclose(
        jax.jit(jax.grad(loss))(z, -2.5), -2.5 * value_and_gradient(*z, chunk_size=3)[1], rtol=1e-5, atol=1e-6
    )


def bytes_needed(n, dim, chunk_size):
    def loss(z):
        return nt_xent(z[0], z[1], chunk_size=chunk_size)

    program = jax.jit(jax.value_and_grad(loss, has_aux=True)).lower(jax.ShapeDtypeStruct((2, n, dim), jnp.float32))
    return program.compile().memory_analysis().temp_size_in_bytes


def test_chunks_hold_a_stripe_of_similarities_in_both_passes():
    n, stripe = 1024, 4 * 2 * 1024
    at_32, at_64 = bytes_needed(n, 4, 32), bytes_needed(n, 4, 64)
    assert at_32 < 4 * 32 * stripe
    assert at_64 - at_32 < 4 * 32 * stripe


def test_memory_of_large_batches_grows_linearly_and_nobody_has_to_ask():
    mebibytes = {n: bytes_needed(n, 128, None) / 2**20 for n in (4096, 16384, 65536)}
    assert mebibytes[16384] < 256 and mebibytes[65536] < 1024
    assert mebibytes[16384] / mebibytes[4096] < 4.2 and mebibytes[65536] / mebibytes[16384] < 4.2


def test_the_matrix_is_held_up_to_the_stated_size_and_never_above():
    largest = int(np.sqrt(contrastive.DENSE_BYTES / 16))
    assert losses.is_dense(largest, 1) and not losses.is_dense(largest + 1, 1) and not losses.is_dense(largest, 2)
    assert bytes_needed(largest, 8, None) > contrastive.DENSE_BYTES
    assert bytes_needed(largest + 1, 8, None) < contrastive.DENSE_BYTES * 1.5


@pytest.mark.parametrize("chunk_size", (None, 3))
def test_the_loss_of_bfloat16_vectors_is_computed_in_float32(chunk_size):
    z1, z2 = (jnp.asarray(z, jnp.bfloat16) for z in views(n=8, dim=16))
    (loss, metrics), gradient = value_and_gradient(z1, z2, chunk_size=chunk_size)
    z1, z2 = z1.astype(jnp.float32), z2.astype(jnp.float32)
    (want_loss, want_metrics), want_gradient = value_and_gradient(z1, z2, chunk_size=chunk_size)
    assert loss.dtype == jnp.float32 and gradient.dtype == jnp.bfloat16
    assert {m.dtype for m in metrics.values()} == {jnp.dtype("float32")}
    np.testing.assert_allclose(loss, want_loss, rtol=1e-6)
    np.testing.assert_allclose(metrics["contrastive_entropy"], want_metrics["contrastive_entropy"], rtol=1e-5)
    a, b = np.ravel(gradient).astype(np.float64), np.ravel(want_gradient).astype(np.float64)
    assert a @ b / np.linalg.norm(a) / np.linalg.norm(b) > 0.99999


@pytest.mark.parametrize("chunk_size", (None, 3))
def test_every_product_is_at_the_highest_precision(chunk_size):
    def loss(z):
        return nt_xent(z[0], z[1], chunk_size=chunk_size)[0]

    program = str(jax.make_jaxpr(jax.grad(loss))(jnp.ones((2, 7, 5))))
    products = program.count("dot_general[")
    assert products > 0
    assert program.count("precision=(Precision.HIGHEST, Precision.HIGHEST)") == products


def test_only_directions_matter():
    z1, z2 = views()
    (loss, _), _ = value_and_gradient(z1, z2)
    (scaled_loss, _), _ = value_and_gradient(z1 * 1e-3, z2 * np.arange(1, 8, dtype=np.float32)[:, None])
    np.testing.assert_allclose(scaled_loss, loss, rtol=1e-5)


@pytest.mark.parametrize("chunk_size", (None, 3))
def test_metrics_carry_no_gradient(chunk_size):
    def metrics(z):
        return sum(nt_xent(z[0], z[1], chunk_size=chunk_size)[1].values())

    gradient = jax.jit(jax.grad(metrics))(jnp.stack(views()))
    np.testing.assert_array_equal(gradient, np.zeros_like(gradient))


@pytest.mark.parametrize("chunk_size", (None, 1))
def test_a_single_image_has_no_negatives_and_no_loss(chunk_size):
    (loss, metrics), gradient = value_and_gradient(*views(n=1), chunk_size=chunk_size)
    assert loss == 0 and metrics["contrastive_accuracy"] == 1
    np.testing.assert_array_equal(gradient, np.zeros_like(gradient))


@pytest.mark.parametrize("chunk_size", (None, 2))
def test_a_zero_vector_has_a_finite_gradient(chunk_size):
    z1, z2 = views()
    z1[0] = 0
    (loss, _), gradient = value_and_gradient(z1, z2, chunk_size=chunk_size)
    assert np.isfinite(loss) and np.all(np.isfinite(gradient))


@pytest.mark.parametrize(
    ("shapes", "keywords", "message"),
    [
        (((4, 3), (5, 3)), {}, r"z1 \[4, 3\] and z2 \[5, 3\]"),
        (((4, 3, 2), (4, 3, 2)), {}, r"z1 \[4, 3, 2\]"),
        (((4, 3), (4, 3)), {"temperature": 0.0}, "temperature 0.0 must be above 0"),
        (((4, 3), (4, 3)), {"temperature": -1.0}, "temperature -1.0 must be above 0"),
        (((4, 3), (4, 3)), {"temperature": float("nan")}, "temperature nan must be above 0"),
        (((4, 3), (4, 3)), {"chunk_size": 0}, "chunk_size 0 must be from 1 to 4; None chooses"),
        (((4, 3), (4, 3)), {"chunk_size": -2}, "chunk_size -2 must be from 1 to 4"),
        (((4, 3), (4, 3)), {"gather": "tree"}, "gather 'tree' must be all or ring"),
    ],
)
def test_refuses_what_cannot_be_meant(shapes, keywords, message):
    with pytest.raises(ValueError, match=message) as error:
        nt_xent(*(jnp.ones(shape) for shape in shapes), **keywords)
    assert "\n" not in str(error.value)
