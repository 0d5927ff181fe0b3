"""N devices give what one device gives: loss, metrics, gradients and BatchNorm statistics."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from simclr_jax.losses import contrastive, nt_xent, streaming
from simclr_jax.models import Head, Network, ProjectionHead, SimCLR
from simclr_jax.models.architectures import ResNetArchitecture
from simclr_jax.models.resnet import ResNet

AXIS = "batch"
IMAGES = 16
TOLERANCE = 3e-4  # of the largest entry of a leaf: what float32 sums in another order may differ by
DEVICE_COUNTS = (1, 2, 4, 8)


def relative_error(got, want):
    """Largest difference between two trees, each leaf measured by its largest wanted entry."""

    def error(a, b):
        return np.max(np.abs(np.asarray(a) - np.asarray(b))) / (np.max(np.abs(b)) + 1e-12)

    return max(jax.tree.leaves(jax.tree.map(error, got, want)))


def split(x, devices):
    return x.reshape(devices, -1, *x.shape[1:])


def on_devices(function, devices):
    """`function(replicated, sharded)` on that many devices, its results with a leading device axis."""
    return jax.pmap(function, axis_name=AXIS, in_axes=(None, 0), devices=jax.local_devices()[:devices])


def assert_equal_everywhere(per_device, want):
    """Every device holds the wanted tree."""
    for device in range(len(jax.tree.leaves(per_device)[0])):
        here = jax.tree.map(lambda x, device=device: x[device], per_device)
        assert relative_error(here, want) < TOLERANCE


# The loss alone: vectors are a shard of the batch times a matrix that all devices share.

DIM = 6
VECTORS = np.random.default_rng(0).normal(size=(IMAGES, 2, DIM)).astype(np.float32)
WEIGHTS = np.random.default_rng(1).normal(size=(DIM, DIM)).astype(np.float32)


def loss_step(weights, vectors, axis_name=AXIS, **how):
    """Loss, metrics and the gradient of the weights, over the global batch."""

    def loss(weights):
        z = vectors @ weights
        return nt_xent(z[:, 0], z[:, 1], temperature=0.2, axis_name=axis_name, **how)

    result = jax.value_and_grad(loss, has_aux=True)(weights)
    return result if axis_name is None else lax.pmean(result, axis_name)


@functools.cache
def loss_of_one_device():
    return jax.jit(functools.partial(loss_step, axis_name=None))(WEIGHTS, VECTORS)


DENSE, STRIPES, RING = {}, {"chunk_size": 3}, {"chunk_size": 3, "gather": "ring"}


@pytest.mark.parametrize("how", (DENSE, STRIPES, RING))
@pytest.mark.parametrize("devices", DEVICE_COUNTS)
def test_loss_metrics_and_gradient_equal_those_of_one_device(devices, how):
    step = on_devices(functools.partial(loss_step, **how), devices)
    assert_equal_everywhere(step(WEIGHTS, split(VECTORS, devices)), loss_of_one_device())


def dropped(gathered, own):
    return lax.stop_gradient(gathered)


def own_rows_only(gathered, own):
    """What torch's all_gather gives when the local rows are put back in their place."""
    return lax.dynamic_update_slice_in_dim(lax.stop_gradient(gathered), own, lax.axis_index(AXIS) * len(own), axis=0)


def divided_by_the_devices(gathered, own):
    share = gathered / lax.axis_size(AXIS)
    return share + lax.stop_gradient(gathered - share)


@pytest.mark.parametrize("broken", (dropped, own_rows_only, divided_by_the_devices))
def test_a_gather_with_a_wrong_gradient_would_be_noticed(broken, monkeypatch):
    want_value, want_gradient = loss_of_one_device()  # before the patch, which it would obey too
    gather = contrastive.all_rows
    monkeypatch.setattr(contrastive, "all_rows", lambda z, axis_name: broken(gather(z, axis_name), z))
    # A new function each time: jax would reuse the program that it compiled for another gather.
    step = on_devices(lambda weights, vectors: loss_step(weights, vectors), 4)
    value, gradient = step(WEIGHTS, split(VECTORS, 4))
    assert_equal_everywhere(value, want_value)  # which is why only the gradient can tell
    assert relative_error(gradient[0], want_gradient) > 100 * TOLERANCE


def no_gradient_of_the_others_anchors(over_others, visit, carry, held, **where):
    """What a gather whose gradient is dropped comes to."""
    if len(held) == 3:  # vectors, log-sum-exps and weights: the backward pass
        visit_them, visit = (
            visit,
            lambda carry, others, earlier: visit_them(carry, (*others[:2], 0 * others[2]), earlier),
        )
    return over_others(visit, carry, held, **where)


def gradient_of_own_vectors_only(over_others, visit, carry, held, **where):
    return carry if len(held) == 3 else over_others(visit, carry, held, **where)


def gradient_divided_by_the_devices(over_others, visit, carry, held, **where):
    carry = over_others(visit, carry, held, **where)
    return carry / lax.axis_size(AXIS) if len(held) == 3 else carry


@pytest.mark.parametrize("how", (STRIPES, RING))
@pytest.mark.parametrize(
    "broken", (no_gradient_of_the_others_anchors, gradient_of_own_vectors_only, gradient_divided_by_the_devices)
)
def test_an_exchange_with_a_wrong_gradient_would_be_noticed(broken, how, monkeypatch):
    want_value, want_gradient = loss_of_one_device()
    monkeypatch.setattr(streaming, "over_others", functools.partial(broken, streaming.over_others))
    step = on_devices(lambda weights, vectors: loss_step(weights, vectors, **how), 4)
    value, gradient = step(WEIGHTS, split(VECTORS, 4))
    assert_equal_everywhere(value, want_value)
    assert relative_error(gradient[0], want_gradient) > 100 * TOLERANCE


def test_a_ring_that_does_not_turn_would_be_noticed(monkeypatch):
    ppermute, want = lax.ppermute, loss_of_one_device()
    monkeypatch.setattr(lax, "ppermute", lambda x, axis_name, to: ppermute(x, axis_name, [(i, i) for i, _ in to]))
    value, _ = on_devices(lambda weights, vectors: loss_step(weights, vectors, **RING), 4)(WEIGHTS, split(VECTORS, 4))
    assert relative_error(value[0][0], want[0][0]) > 100 * TOLERANCE


@pytest.mark.parametrize("how", (STRIPES, RING))
def test_devices_that_weigh_their_losses_get_the_gradient_that_jax_finds(how):
    def step(weights, vectors, **how):
        def loss(weights):
            z = vectors @ weights
            value, _ = nt_xent(z[:, 0], z[:, 1], temperature=0.2, axis_name=AXIS, **how)
            return value * (1 + lax.axis_index(AXIS))

        return lax.pmean(jax.grad(loss)(weights), AXIS)

    got, want = (
        on_devices(functools.partial(step, **keywords), 4)(WEIGHTS, split(VECTORS, 4)) for keywords in (how, DENSE)
    )
    assert relative_error(got, want) < TOLERANCE


def test_round_the_ring_no_device_holds_what_all_hold():
    def bytes_needed(devices, gather):
        vectors = jax.ShapeDtypeStruct((devices, 4096 // devices, 2, 64), jnp.float32)
        step = on_devices(functools.partial(loss_step, chunk_size=16, gather=gather), devices)
        compiled = step.lower(np.zeros((64, 64), np.float32), vectors).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    at_2, at_8 = bytes_needed(2, "ring"), bytes_needed(8, "ring")
    assert at_8 < 0.35 * at_2
    assert at_8 < 0.5 * bytes_needed(8, "all")


# The model: encoder, head and cross-device BatchNorm.


def make_pairs():
    """Images [pair, view, H, W, 3] of one colour each and noise: alike, their h would differ by float32's last bits."""
    rng = np.random.default_rng(2)
    colour, noise = rng.uniform(0, 0.7, (IMAGES, 2, 1, 1, 3)), rng.uniform(0, 0.3, (IMAGES, 2, 8, 8, 3))
    return (colour + noise).astype(np.float32)


PAIRS = make_pairs()


def build_model(axis_name):
    network = Network(cifar_stem=True, head=Head(layers=2, dim=8))
    encoder = ResNet(ResNetArchitecture(False, (1, 1), base_width=8), network, axis_name)
    return SimCLR(encoder, ProjectionHead(network, axis_name))


@functools.cache
def model_variables():
    """Drawn by NumPy: freshly initialised, residual branches would be multiplied by 0 and have no gradient."""
    shapes = jax.eval_shape(functools.partial(build_model(None).init, train=False), jax.random.key(0), PAIRS[:, 0])
    rng = np.random.default_rng(3)

    def draw(path, x):
        lowest = -0.5 if path[-1].key == "kernel" else 0.5
        return rng.uniform(lowest, lowest + 1, x.shape).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def model_step(variables, pairs, axis_name=AXIS, model_axis_name=AXIS):
    """((loss, (metrics, BatchNorm statistics)), gradients); one forward pass over both views."""

    def loss(params):
        images = jnp.concatenate([pairs[:, 0], pairs[:, 1]])
        hiddens, updates = build_model(model_axis_name).apply(
            {**variables, "params": params}, images, train=True, mutable=["batch_stats"]
        )
        value, metrics = nt_xent(*jnp.split(hiddens[-1], 2), temperature=0.5, axis_name=axis_name)
        return value, (metrics, updates["batch_stats"])

    (value, (metrics, stats)), gradients = jax.value_and_grad(loss, has_aux=True)(variables["params"])
    if axis_name is not None:
        value, metrics, gradients = lax.pmean((value, metrics, gradients), axis_name)
    return (value, metrics), stats, gradients


@functools.cache
def model_on_one_device():
    step = functools.partial(model_step, axis_name=None, model_axis_name=None)
    return jax.jit(step)(model_variables(), PAIRS)


@pytest.mark.parametrize("devices", DEVICE_COUNTS)
def test_a_model_on_devices_equals_it_on_one(devices):
    got = on_devices(model_step, devices)(model_variables(), split(PAIRS, devices))
    assert_equal_everywhere(got, model_on_one_device())


def test_batch_norm_of_each_device_alone_would_be_noticed():
    step = on_devices(functools.partial(model_step, model_axis_name=None), 4)
    _, stats, gradients = step(model_variables(), split(PAIRS, 4))
    _, want_stats, want_gradients = model_on_one_device()
    first = functools.partial(jax.tree.map, lambda x: x[0])
    assert relative_error(first(stats), want_stats) > 100 * TOLERANCE
    assert relative_error(first(gradients), want_gradients) > 100 * TOLERANCE
