"""One step of training on 1, 2, 4 and 8 devices is one step on the whole batch, and stays so."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from simclr_jax import losses
from simclr_jax.models import Head, Network, create_model
from simclr_jax.runtime import devices
from simclr_jax.training import gradients, optimizers, state
from simclr_jax.training import step as steps

SIZE, IMAGES, CLASSES, STEPS = 8, 16, 3, 3
LOSS = losses.create_loss("nt_xent", temperature=0.5)
TOLERANCE = {"rtol": 2e-3, "atol": 2e-5}  # float32 sums in another order, through three steps of BatchNorm


def batches():
    rng = np.random.default_rng(0)
    for _ in range(STEPS):
        views = rng.random((IMAGES, 2, SIZE, SIZE, 3), np.float32)
        yield {"views": views, "labels": rng.integers(-1, CLASSES, IMAGES)}  # some images have no label


def parts(axis_name, probe=True):
    network = Network(encoder="resnet_tiny", cifar_stem=True, head=Head(layers=2, dim=16))
    model = create_model(network, axis_name=axis_name)
    probe = nn.Dense(CLASSES) if probe else None
    return {"model": model, "optimizer": optax.sgd(0.05, 0.9), "probe": probe, "probe_optimizer": optax.adam(1e-2)}


@functools.cache
def initial_state():
    return state.create(jax.random.key(0), SIZE, **parts(None))


@functools.cache
def on_one_device():
    """The single-device program over the whole batch, without any mapped axis."""
    step = jax.jit(functools.partial(steps.pretrain_step, loss=LOSS, **parts(None)))
    current, rows = initial_state(), []
    for batch in batches():
        current, metrics = step(current, batch)
        rows.append(jax.tree.map(float, metrics))
    return jax.tree.map(np.asarray, current), rows


def on_devices(count, **changes):
    some = jax.local_devices()[:count]
    step = devices.map_train_step(
        steps.pretrain_step, some, loss=LOSS, **(parts(changes.get("axis_name", devices.AXIS)))
    )
    current = devices.replicate(jax.tree.map(np.array, initial_state()), some)
    rows = []
    for batch in batches():
        current, metrics = step(current, devices.shard(batch, some), None, False)
        values = devices.first(metrics)
        assert values.pop("stop") == 0.0
        rows.append(values)
    return current, rows


def assert_close(actual, expected):
    jax.tree.map(functools.partial(np.testing.assert_allclose, **TOLERANCE), actual, expected)


@pytest.mark.parametrize("count", [1, 2, 4, 8])
def test_devices_give_what_one_device_gives(count):
    expected, expected_rows = on_one_device()
    actual, rows = on_devices(count)
    assert_close(rows, expected_rows)
    for part in ("params", "batch_stats", "opt_state", "probe_params"):
        assert_close(jax.tree.map(np.asarray, getattr(actual, part)), getattr(expected, part))
    assert int(actual.step) == STEPS
    for leaf in jax.tree.leaves(actual):
        copies = [np.asarray(shard.data) for shard in leaf.addressable_shards]
        assert all(np.array_equal(copy, copies[0]) for copy in copies), "the devices have drifted apart"


def test_statistics_of_each_device_alone_are_something_else():
    """What the comparison above would show if BatchNorm forgot the other devices."""
    _, expected_rows = on_one_device()
    _, rows = on_devices(4, axis_name=None)
    with pytest.raises(AssertionError):
        assert_close(rows, expected_rows)


def test_a_batch_that_is_not_finite_leaves_all_devices_as_if_it_never_was():
    some = jax.local_devices()[:4]
    step = devices.map_train_step(steps.pretrain_step, some, loss=LOSS, skip_nonfinite=True, **parts(devices.AXIS))

    def after(these):
        current, rows = devices.replicate(jax.tree.map(np.array, initial_state()), some), []
        for batch in these:
            current, metrics = step(current, devices.shard(batch, some), None, False)
            rows.append(devices.first(metrics))
        return current, rows

    good, *_, last = batches()
    broken = last | {"views": last["views"].copy()}
    broken["views"][IMAGES // 2, 1, 0, 0, 0] = np.nan  # one pixel, on the third device
    expected, _ = after([good, last])
    actual, rows = after([good, broken, broken, last])
    assert [row["skipped"] for row in rows] == [0, 1, 2, 0]
    assert np.isnan(rows[1]["loss"]) and np.isfinite(rows[3]["loss"])
    assert int(actual.step) == 4
    for mine, others in zip(*map(jax.tree.leaves, (actual.replace(step=0), expected.replace(step=0))), strict=True):
        for shard in getattr(mine, "addressable_shards", ()):
            np.testing.assert_array_equal(shard.data, others)


@pytest.mark.parametrize(
    ("optimizer", "wanted"),
    [
        (optax.sgd(1e30), 0.0),  # a finite gradient, an update that is finite but for its norm
        (optax.chain(optax.sgd(1.0), optax.scale(1e38), optax.scale(1e38)), 0.0),
        (optimizers.lars(1e3), 1.0),
        (optimizers.adamw(1e3), 1.0),
    ],
)
def test_an_update_too_large_for_float32_is_not_finite(optimizer, wanted):
    given = parts(None) | {"optimizer": optimizer}
    start = initial_state().replace(opt_state=optimizer.init(initial_state().params))
    _, metrics = jax.jit(functools.partial(steps.pretrain_step, loss=LOSS, **given))(start, next(batches()))
    assert np.isfinite(metrics["loss"]) and np.isfinite(metrics["gradient_norm"])
    assert metrics["finite"] == wanted


@pytest.mark.parametrize("bad", (np.nan, np.inf))
def test_one_entry_of_one_parameter_that_is_not_finite_is_noticed(bad):
    start = initial_state()
    broken = jax.tree_util.tree_map_with_path(
        lambda path, x: x.at[(0,) * x.ndim].set(bad) if path[-2].key == "stem_conv" else x, start.params
    )
    _, metrics = jax.jit(functools.partial(steps.pretrain_step, loss=LOSS, **parts(None)))(
        start.replace(params=broken), next(batches())
    )
    assert metrics["finite"] == 0.0


def test_the_online_probe_changes_nothing():
    with_probe, _ = on_one_device()
    step = jax.jit(functools.partial(steps.pretrain_step, loss=LOSS, **parts(None, probe=False)))
    current = initial_state().replace(probe_params={}, probe_opt_state=optax.adam(1e-2).init({}))
    for batch in batches():
        current, metrics = step(current, batch)
    assert_close(jax.tree.map(np.asarray, current.params), with_probe.params)
    assert "online_top1" not in metrics


def test_the_online_probe_ignores_images_without_label():
    h = jax.random.normal(jax.random.key(1), (8, 4))
    labels = jnp.array([0, -1, 2, -1])
    probe = nn.Dense(CLASSES)
    params = probe.init(jax.random.key(0), h)["params"]
    loss, metrics = steps._probe_loss(params, h, labels, probe, None)
    rows = np.array([0, 2, 4, 6])
    logits = np.asarray(h @ params["kernel"] + params["bias"])[rows]
    answers = np.array([0, 2, 0, 2])
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    np.testing.assert_allclose(loss, -log_p[range(4), answers].mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics["online_top1"], (logits.argmax(1) == answers).mean())


def test_both_views_of_an_image_are_rows_apart_by_the_batch():
    views = np.arange(3 * 2 * 4, dtype=np.float32).reshape(3, 2, 2, 2, 1)
    stacked = np.asarray(gradients.both_views(views))
    for image in range(3):
        for view in range(2):
            np.testing.assert_array_equal(stacked[image + 3 * view], views[image, view])


def test_validation_uses_running_statistics_and_leaves_them_alone():
    mapped = devices.map_step(
        steps.validation_step, **{k: parts(devices.AXIS)[k] for k in ("model", "probe")}, loss=LOSS
    )
    batch = next(batches())
    single = steps.validation_step(initial_state(), batch, **{k: parts(None)[k] for k in ("model", "probe")}, loss=LOSS)
    metrics, sums = mapped(devices.replicate(initial_state()), devices.shard(batch), None)
    values = devices.first(metrics)
    assert_close(values, jax.tree.map(float, single[0]))
    assert_close(devices.first_arrays(sums), single[1])
    hiddens = parts(None)["model"].apply(
        {"params": initial_state().params, "batch_stats": initial_state().batch_stats},
        gradients.both_views(batch["views"]),
        train=False,
    )
    z = np.asarray(hiddens[-1], np.float64)
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    similarities = z @ z.T / 0.5
    np.fill_diagonal(similarities, -np.inf)
    match = similarities[np.arange(2 * IMAGES), (np.arange(2 * IMAGES) + IMAGES) % (2 * IMAGES)]
    expected = np.mean(np.log(np.exp(similarities).sum(1)) - match)
    np.testing.assert_allclose(values["loss"], expected, rtol=1e-4)


def test_map_encoder_takes_any_number_of_images():
    encode = devices.map_encoder(lambda scale, images: images.mean((1, 2)) * scale, np.float32(2.0))
    images = np.random.default_rng(0).random((11, 4, 4, 3), np.float32)
    np.testing.assert_allclose(encode(images), 2 * images.mean((1, 2)), rtol=1e-6)


@pytest.mark.parametrize("wanting", [(), (2,), (0, 3)])
def test_one_that_wants_to_stop_is_heard_by_all(wanting):
    some = jax.local_devices()[:4]
    step = devices.map_train_step(lambda state, batch, resident, axis_name: (state, {"loss": batch.sum()}), some)
    stop = np.isin(np.arange(4), wanting)
    _, metrics = step(devices.replicate(np.zeros(3), some), np.ones((4, 2)), None, stop)
    assert metrics["stop"].tolist() == 4 * [float(bool(wanting))]
    assert metrics["loss"].tolist() == 4 * [2.0]
