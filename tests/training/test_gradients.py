"""A batch in micro-batches: the gradient of one pass where no layer looks across images, and what BatchNorm keeps."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from simclr_jax import losses
from simclr_jax.augment import device
from simclr_jax.augment.recipe import Recipe
from simclr_jax.models import Head, Network, create_model
from simclr_jax.runtime import devices
from simclr_jax.training import gradients as passes
from simclr_jax.training import state
from simclr_jax.training import step as steps

SIZE, IMAGES = 8, 16


def model_of(norm, axis_name=None):
    network = Network(encoder="resnet_tiny", cifar_stem=True, norm=norm, head=Head(layers=2, dim=16))
    return create_model(network, axis_name=axis_name)


@functools.cache
def variables_of(norm):
    """Drawn by NumPy; no scale is 0, so that every residual branch has a gradient."""
    image = jnp.zeros((1, SIZE, SIZE, 3))
    shapes = jax.eval_shape(functools.partial(model_of(norm).init, train=False), jax.random.key(0), image)
    rng = np.random.default_rng(3)

    def draw(path, x):
        if path[-1].key == "kernel":
            return (rng.normal(size=x.shape) / np.sqrt(np.prod(x.shape[:-1]))).astype(np.float32)
        return rng.uniform(0.5, 1.5, x.shape).astype(np.float32)

    drawn = jax.tree_util.tree_map_with_path(draw, shapes)
    return drawn["params"], drawn.get("batch_stats", {})


def images():
    rng = np.random.default_rng(0)
    colour, noise = rng.uniform(0, 0.7, (IMAGES, 1, 1, 3)), rng.uniform(0, 0.3, (IMAGES, SIZE, SIZE, 3))
    pixels = np.round(255 * (colour + noise)).astype(np.uint8)
    numbers = np.arange(IMAGES, dtype=np.int32)
    return {"images": pixels, "labels": numbers % 5, "ids": numbers, "epoch": np.full(IMAGES, 2, np.int32)}


RECIPE = Recipe(SIZE, min_area=0.5)


def views_of(batch):
    views = device.two_views(RECIPE, batch["images"], 7, batch["epoch"], batch["ids"])
    return {"views": views, "labels": batch["labels"]}


def how(norm, axis_name=None):
    loss = functools.partial(losses.create_loss("nt_xent", temperature=0.5), axis_name=axis_name)
    return {"views_of": views_of, "model": model_of(norm, axis_name), "loss": loss}


@functools.cache
def one_pass(norm):
    return jax.jit(functools.partial(passes.in_one_pass, **how(norm)))(*variables_of(norm), images())


@functools.cache
def micro_batches(norm, count):
    step = functools.partial(passes.in_micro_batches, count=count, **how(norm))
    return jax.jit(step)(*variables_of(norm), images())


def assert_close(got, want):
    def close(a, b):
        b = np.asarray(b, np.float64)
        np.testing.assert_allclose(a, b, rtol=2e-3, atol=3e-4 * np.abs(b).max() + 1e-8)

    jax.tree.map(close, got, want)


def decided(result):
    """Less the accuracy: with group norm similarities differ by 1e-7, and the largest is a matter of rounding."""
    return result._replace(metrics={"contrastive_entropy": result.metrics["contrastive_entropy"]})


def cosine(a, b):
    a, b = (np.concatenate([np.ravel(x).astype(np.float64) for x in jax.tree.leaves(tree)]) for tree in (a, b))
    return a @ b / np.linalg.norm(a) / np.linalg.norm(b)


@pytest.mark.parametrize(("norm", "count"), [("group", 2), ("group", 8), ("batch", 1)])
def test_micro_batches_find_what_one_pass_finds(norm, count):
    """Views are drawn for each pass from ids: other views in the second pass would show in the gradient."""
    found, wanted = ((decided(result), gradients) for result, gradients in (micro_batches(norm, count), one_pass(norm)))
    assert_close(found, wanted)


def test_micro_batches_on_devices_find_what_one_pass_on_one_device_finds():
    count = 4

    def step(variables, batch):
        where = how("group", devices.AXIS)
        found, gradients = passes.in_micro_batches(*variables, batch, count=2, **where)
        return lax.pmean((found.loss, found.metrics, gradients), devices.AXIS), found.h, found.labels

    mapped = jax.pmap(step, devices.AXIS, in_axes=(None, 0), devices=jax.local_devices()[:count])
    (loss, metrics, gradients), h, labels = mapped(
        variables_of("group"), devices.shard(images(), jax.local_devices()[:count])
    )
    want, want_gradients = one_pass("group")
    first = functools.partial(jax.tree.map, lambda x: x[0])
    entropy = {name: metrics[name] for name in decided(want).metrics}
    assert_close(first((loss, entropy, gradients)), (want.loss, decided(want).metrics, want_gradients))
    np.testing.assert_array_equal(labels.reshape(-1), want.labels)
    by_view = np.asarray(h).reshape(count, 2, IMAGES // count, -1).swapaxes(0, 1).reshape(2 * IMAGES, -1)
    assert_close(by_view, want.h)


def test_running_statistics_move_by_the_mean_over_micro_batches():
    params, stats = variables_of("batch")
    step = jax.jit(functools.partial(passes.in_one_pass, **how("batch")))
    halves = [jax.tree.map(lambda x, i=i: x[8 * i : 8 * i + 8], images()) for i in range(2)]
    moved = [step(params, stats, half)[0].batch_stats for half in halves]
    want = jax.tree.map(lambda a, b: (a + b) / 2, *moved)
    assert_close(micro_batches("batch", 2)[0].batch_stats, want)


def test_with_batch_norm_micro_batches_are_another_gradient_and_the_docs_are_right_to_say_so():
    (found, gradients), (want, want_gradients) = micro_batches("batch", 2), one_pass("batch")
    assert abs(found.loss - want.loss) > 1e-3
    assert 0.3 < cosine(gradients, want_gradients) < 0.999


def test_evaluation_in_parts_is_evaluation():
    params, stats = variables_of("batch")
    at_once, in_parts = (
        jax.jit(functools.partial(passes.in_evaluation, count=count, views_of=views_of, model=model_of("batch")))(
            {"params": params, "batch_stats": stats}, images()
        )
        for count in (1, 4)
    )
    assert_close(in_parts, at_once)


def test_eight_micro_batches_take_a_quarter_of_the_memory():
    images = 128
    batch = {
        "views": jax.ShapeDtypeStruct((images, 2, 32, 32, 3), jnp.float32),
        "labels": jax.ShapeDtypeStruct((images,), jnp.int32),
    }
    given = {**how("batch"), "views_of": lambda batch: batch}
    steps = (
        functools.partial(passes.in_one_pass, **given),
        functools.partial(passes.in_micro_batches, count=8, **given),
    )
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), variables_of("batch"))
    whole, parts = (
        jax.jit(step).lower(*shapes, batch).compile().memory_analysis().temp_size_in_bytes for step in steps
    )
    assert parts < whole / 4


def test_gradients_are_made_flat_on_gpus_alone_and_stay_what_they_are():
    tree = {"kernel": np.arange(24.0, dtype=np.float32).reshape(2, 3, 4), "bias": np.ones(4, np.float32)}
    for platform, flat in (("cuda", True), ("tpu", False), ("cpu", False)):
        text = jax.jit(passes.settled).trace(tree).lower(lowering_platforms=(platform,)).as_text()
        assert ("tensor<24xf32>" in text) is ("optimization_barrier" in text) is flat, platform
    bias, kernel = passes._through_flat(tree["bias"], tree["kernel"])
    for found in (passes.settled(tree), {"bias": bias, "kernel": kernel}):
        jax.tree.map(np.testing.assert_array_equal, found, tree)


class Projection(nn.Module):
    """A network of one product, so that what is tested is what surrounds it."""

    view_batch_norm: bool = False

    @nn.compact
    def __call__(self, x, train):
        return [x, x @ self.param("kernel", nn.initializers.ones, (4, 3))]


def test_labels_reach_the_loss_beside_their_images_in_one_pass_in_parts_and_in_validation():
    """A loss that adds up labels times z: any other order of either would give another sum."""
    rng = np.random.default_rng(0)
    labels = np.arange(-1, 7, dtype=np.int32)
    batch = {"views": rng.normal(size=(8, 2, 4)).astype(np.float32), "labels": labels}
    params = {"kernel": rng.normal(size=(4, 3)).astype(np.float32)}

    def loss(z1, z2, *, labels, axis_name=None):
        return jnp.sum(labels[:, None] * (z1 + 2 * z2)), {}

    given = {"views_of": lambda batch: batch, "model": Projection(), "loss": loss}
    weighed = (labels[:, None] * (batch["views"][:, 0] + 2 * batch["views"][:, 1])).sum(0)  # [4], of the sum's gradient
    for found, gradients in (
        passes.in_one_pass(params, {}, batch, **given),
        passes.in_micro_batches(params, {}, batch, count=4, **given),
    ):
        np.testing.assert_allclose(found.loss, (weighed @ params["kernel"]).sum(), rtol=1e-5)
        np.testing.assert_allclose(gradients["kernel"], np.tile(weighed[:, None], 3), rtol=1e-5)
    of_state = state.TrainState(0, 0, params, {}, {}, {}, {})
    metrics, _ = steps.validation_step(of_state, batch, model=Projection(), loss=loss, probe=None, microbatches=2)
    np.testing.assert_allclose(metrics["loss"], (weighed @ params["kernel"]).sum(), rtol=1e-5)
