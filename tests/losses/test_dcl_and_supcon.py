"""DCL and SupCon against their definitions in NumPy, on one device and on several."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from simclr_jax import losses

AXIS, TEMPERATURE = "batch", 0.2
LABELS = np.array([3, -1, 3, 0, -1, 3, 0], np.int32)  # a class of three, one of two, two images without a label


def definition(name, z, labels, temperature=TEMPERATURE, weights=1.0):
    """The mean over the anchors of z [2, n, d], each weighed; in float64, by sets of positives and of candidates."""
    n = z.shape[1]
    z = np.concatenate(z).astype(np.float64)
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    image = np.tile(np.arange(n), 2)
    of_class = np.where(np.tile(labels, 2) < 0, -1 - image, np.tile(labels, 2))
    others = ~np.eye(2 * n, dtype=bool)
    match = others & (image[:, None] == image)
    positives = others & (of_class[:, None] == of_class) if name == "supcon" else match
    candidates = others & ~match if name == "dcl" else others
    scores = z @ z.T / temperature
    top = scores.max()
    terms = (
        np.log(np.sum(np.exp(scores - top) * candidates, 1)) + top - np.sum(scores * positives, 1) / positives.sum(1)
    )
    return np.mean(terms * np.tile(np.broadcast_to(weights, n), 2))


def gradient_of_definition(name, z, labels, **how):
    z, found, step = np.asarray(z, np.float64), np.zeros(z.shape), 1e-6
    for index in np.ndindex(z.shape):
        nudge = np.zeros(z.shape)
        nudge[index] = step
        ends = (definition(name, end, labels, **how) for end in (z + nudge, z - nudge))
        found[index] = np.subtract(*ends) / (2 * step)
    return found


def views(n=7, dim=5, seed=0):
    rng = np.random.default_rng(seed)
    z1 = rng.normal(size=(n, dim))
    return np.stack([z1, z1 + 0.7 * rng.normal(size=(n, dim))]).astype(np.float32)


@functools.cache  # one compilation for all tests of the same settings and shapes
def compiled(name, chunk_size, temperature=TEMPERATURE):
    loss = losses.create_loss(name, temperature=temperature, chunk_size=chunk_size)
    return jax.jit(jax.value_and_grad(lambda z, labels: loss(*z, labels=labels, axis_name=None), has_aux=True))


def assert_close(got, want, tolerance=2e-5):
    np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance * np.abs(want).max())


@pytest.mark.parametrize(
    ("name", "chunk_size", "temperature"),
    [("dcl", None, 0.2), ("dcl", 1, 0.2), ("dcl", 3, 0.2), ("dcl", 3, 0.01), ("supcon", None, 0.2), ("supcon", 3, 0.2)],
)
def test_loss_and_gradient_are_those_of_the_definition(name, chunk_size, temperature):
    """At a temperature of 0.01 a match is e^88 times as likely as all negatives, more than float32 holds."""
    z = views()
    (loss, metrics), gradient = compiled(name, chunk_size, temperature)(z, LABELS)
    assert_close(loss, definition(name, z, LABELS, temperature))
    assert_close(gradient, gradient_of_definition(name, z, LABELS, temperature=temperature), 2e-4)
    same = losses.nt_xent(*z, temperature=temperature)[1]  # of all candidates, whatever the denominator leaves out
    assert metrics.keys() == same.keys()
    for key in same:
        np.testing.assert_allclose(metrics[key], same[key], rtol=1e-4, atol=1e-6)


def test_without_labels_supcon_is_nt_xent():
    z, labels = views(), np.full(7, -1, np.int32)
    (loss, _), gradient = compiled("supcon", 3)(z, labels)
    (want, _), want_gradient = compiled("nt_xent", 3)(z, labels)
    assert loss == want
    assert_close(gradient, want_gradient, 1e-6)


@pytest.mark.parametrize(("name", "chance"), [("dcl", np.log(12)), ("supcon", np.log(13))])
def test_vectors_that_are_all_alike_have_the_loss_of_chance(name, chance):
    np.testing.assert_allclose(compiled(name, 3)(np.ones((2, 7, 5), np.float32), LABELS)[0][0], chance, rtol=1e-6)


# Classes within a device, across devices and of a single image; classes that no two devices share.
CLASSES = ([0, 0, 1, -1, 2, 0, -1, 1], [0, 0, 1, 1, 5, 5, 3, -1])
FORMS = {"dense": {}, "stripes": {"chunk_size": 3}, "ring": {"chunk_size": 1, "gather": "ring"}}


@pytest.mark.parametrize(
    ("name", "form", "images"),
    [*((name, form, 8) for name in ("dcl", "supcon") for form in FORMS), ("dcl", "ring", 4)],  # 4: one a device
)
def test_devices_give_what_the_global_batch_gives(name, form, images):
    """Whatever the devices weigh their losses with: the gradient of the others' anchors is weighed by them."""
    devices, z = 4, views(images, seed=1)
    loss = losses.create_loss(name, temperature=TEMPERATURE, **FORMS[form])

    def step(z, labels, weight):
        def loss_fn(z):
            value, _ = loss(*z, labels=labels, axis_name=AXIS)
            return weight * value, value

        (_, value), gradient = jax.value_and_grad(loss_fn, has_aux=True)(z)
        return lax.pmean(value, AXIS), gradient / devices  # what pmean makes of a parameter behind this z

    mapped = jax.pmap(step, AXIS, devices=jax.local_devices()[:devices])
    shards = np.stack(np.split(z, devices, axis=1))
    for labels in map(np.int32, CLASSES if name == "supcon" else CLASSES[:1]):
        labels = labels[:images]
        for weights in (np.ones(devices, np.float32), np.float32([1, 2, -1, 0.5])):
            value, gradient = mapped(shards, labels.reshape(devices, -1), weights)
            assert_close(value, np.full(devices, definition(name, z, labels)))
            want = gradient_of_definition(name, z, labels, weights=np.repeat(weights, images // devices))
            assert_close(np.concatenate(gradient, axis=1), want, 2e-4)


@pytest.mark.parametrize("name", ("dcl", "supcon"))
def test_memory_is_linear_in_the_batch(name):
    loss = losses.create_loss(name, temperature=TEMPERATURE)
    n, step = 16384, jax.value_and_grad(lambda z, labels: loss(*z, labels=labels, axis_name=None), has_aux=True)
    shapes = jax.ShapeDtypeStruct((2, n, 128), jnp.float32), jax.ShapeDtypeStruct((n,), jnp.int32)
    assert (
        jax.jit(step).lower(*shapes).compile().memory_analysis().temp_size_in_bytes < 300 * 2**20
    )  # the matrix: 4 GiB


def test_what_cannot_be_meant_is_refused():
    z = jnp.ones((2, 4, 3))
    with pytest.raises(ValueError, match="^dcl needs at least 2 images over all devices, and this batch has 1"):
        losses.dcl(z[0, :1], z[1, :1])
    for labels, words in ((jnp.zeros(3, int), r"int32\[3\]"), (jnp.zeros(4), r"float32\[4\]")):
        with pytest.raises(ValueError, match=rf"labels {words} must be whole numbers \[4\]"):
            losses.supcon(*z, labels=labels)
