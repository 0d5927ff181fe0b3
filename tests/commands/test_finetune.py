"""Fine-tuning: what is frozen stays, steps are those of a hand-written loop."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax.augment import device
from simclr_jax.augment.recipe import Recipe
from simclr_jax.commands import finetune, pretrain
from simclr_jax.configs import finetune as finetune_config
from simclr_jax.configs import linear_augmented, quickstart
from simclr_jax.data import feed
from simclr_jax.data.split import Split
from simclr_jax.models import Head, Network, create_classifier, create_model
from simclr_jax.runtime import devices
from simclr_jax.training import optimizers
from simclr_jax.training import supervised as fitting
from simclr_jax.training import supervised_step as supervised
from support import smallest
from support.samples import assert_one_line, noise
from support.tiny_config import write_archive

SIZE, CLASSES, BATCH = 8, 3, 16
RECIPE = Recipe(SIZE, jitter_probability=0.0, grayscale_probability=0.0, blur_probability=0.0)
PARTS = ("all", "stem", "stage1", "stage1_block1", "stage2", "stage3", "head", "classifier")


def network(*, layers=2, norm="batch", axis_name=None):
    described = Network(encoder="resnet_tiny", cifar_stem=True, norm=norm, head=Head(layers=layers, dim=16))
    return create_model(described, axis_name=axis_name)


@functools.cache
def variables(layers=2):
    found = network(layers=layers).init(jax.random.key(0), jnp.zeros((1, SIZE, SIZE, 3)), train=False)
    # γ = 0 ends each block as it begins: no gradient would reach what is inside.
    return jax.tree_util.tree_map_with_path(lambda path, leaf: leaf + 0.5 if path[-1].key == "scale" else leaf, found)


def classifier(trainable="all", layer=1, axis_name=None, **how):
    return create_classifier(network(axis_name=axis_name, **how), layer=layer, classes=CLASSES, trainable=trainable)


def batch(seed=0):
    rng = np.random.default_rng(seed)
    images = rng.random((BATCH, SIZE, SIZE, 3), np.float32)
    return {"images": images, "labels": rng.integers(0, CLASSES, BATCH)}


def given(batch, seed):
    return batch


SGD = optimizers.sgd(optimizers.warmup_cosine(1.0, warmup_steps=0, total_steps=4), weight_decay=0.01)


def start(model, optimizer=SGD, learning_rate=0.1):
    how = {"optimizer": optimizer, "learning_rate": learning_rate, "seed": 0, "image_size": SIZE}
    return supervised.initial_state(variables(), model=model, **how)


def steps(model, count, state=None):
    step = jax.jit(functools.partial(supervised.supervised_step, images_of=given, model=model, optimizer=SGD))
    state = start(model) if state is None else state
    for number in range(count):
        state, metrics = step(state, batch(number))
    return state, metrics


def flat(tree):
    return {
        jax.tree_util.keystr(p, simple=True, separator="/"): x for p, x in jax.tree_util.tree_leaves_with_path(tree)
    }


# What learns.


def statistics(state):
    return flat(state.batch_stats)


@pytest.mark.parametrize(
    ("trainable", "learns"),
    [
        ("stage3", ("encoder/stage3_block1", "head", "classifier")),
        ("head", ("head", "classifier")),
        ("classifier", ("classifier",)),
    ],
)
def test_what_lies_before_the_trained_part_keeps_its_bits_and_all_else_moves(trainable, learns):
    model = classifier(trainable)
    before, (after, _) = start(model), steps(model, 3)
    for old, new in (
        (flat(before.params | before.frozen), flat(after.params | after.frozen)),
        (statistics(before), statistics(after)),
    ):
        assert old.keys() == new.keys()
        moved = {path for path in old if not np.array_equal(old[path], new[path])}
        assert moved == {path for path in old if path.startswith(learns)}


def test_parts_are_named_and_an_unknown_one_names_them():
    for part in PARTS:
        classifier(part)
    assert classifier("stage1").frozen == ("stem",) and classifier("all").frozen == ()
    assert classifier("classifier").frozen == ("stem", "stage1_block1", "stage2_block1", "stage3_block1", "head")
    with pytest.raises(
        ValueError, match=r"trainable='stage4' is not a part of this network; it has: all, stem, stage1_"
    ) as error:
        classifier("stage4")
    assert_one_line(error)


def test_layers_of_the_head_that_are_not_read_do_not_exist():
    paths = (start(classifier(layer=1)).params).keys()
    assert "head/dense1/kernel" in paths and "head/dense2/kernel" not in paths
    assert not any(path.startswith("head") for path in start(classifier(layer=0)).params)


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_the_classifier_reads_the_layer_of_the_network(layer):
    model = classifier(layer=layer)
    state = start(model)
    weights = np.random.default_rng(0).normal(size=state.params["classifier/kernel"].shape).astype(np.float32)
    state = state.replace(params=state.params | {"classifier/kernel": jnp.array(weights)})
    images = batch()["images"]
    features = network().apply(variables(), images, train=False)[layer]
    np.testing.assert_allclose(supervised.logits_step(state, images, model=model), features @ weights, atol=1e-5)


# The step.


def test_steps_on_a_frozen_encoder_are_those_of_a_loop_in_numpy():
    """Nesterov's momentum, cosine and decay of the kernel alone, in float64 on the frozen features."""
    model, count, peak, decay = classifier("classifier"), 3, 0.1, 0.01
    state, _ = steps(model, count)
    weights, bias = np.zeros((64, CLASSES)), np.zeros(CLASSES)
    momentum = [np.zeros_like(weights), np.zeros_like(bias)]
    for number in range(count):
        made = batch(number)
        h = np.asarray(network().apply(variables(), made["images"], train=False)[1], np.float64)
        logits = h @ weights + bias
        chances = np.exp(logits - logits.max(1, keepdims=True))
        chances /= chances.sum(1, keepdims=True)
        error = (chances - np.eye(CLASSES)[made["labels"]]) / BATCH
        gradients = [h.T @ error + decay * weights, error.sum(0)]
        rate = peak * (1 + np.cos(np.pi * number / 4)) / 2
        momentum = [0.9 * m + g for m, g in zip(momentum, gradients, strict=True)]
        weights, bias = (p - rate * (g + 0.9 * m) for p, g, m in zip((weights, bias), gradients, momentum, strict=True))
    np.testing.assert_allclose(state.params["classifier/kernel"], weights, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(state.params["classifier/bias"], bias, rtol=1e-3, atol=1e-6)


def test_the_rate_of_the_state_is_that_of_the_optimizer():
    """One program serves all rates: LARS of rate 1, scaled, is LARS of that rate."""
    rng = np.random.default_rng(0)
    params = {"encoder/conv/kernel": rng.normal(size=(3, 4)), "classifier/kernel": np.zeros((4, 2))}
    params = {path: leaf.astype(np.float32) for path, leaf in params.items()}
    gradients = [
        {path: rng.normal(size=leaf.shape).astype(np.float32) for path, leaf in params.items()} for _ in range(3)
    ]
    ends = []
    for inside, outside in ((0.3, 1.0), (1.0, 0.3)):
        optimizer = optimizers.lars(inside, weight_decay=0.01)
        opt_state, moved = optimizer.init(params), params
        for gradient in gradients:
            updates, opt_state = optimizer.update(gradient, opt_state, moved)
            moved = jax.tree.map(lambda p, u, by=outside: p + by * u, moved, updates)
        ends.append(moved)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5), *ends)
    # The classifier begins at zero and is not adapted: its first step is the plain gradient's.
    first, _ = optimizers.lars(1.0).update(gradients[0], optimizers.lars(1.0).init(params), params)
    moved = params | {"classifier/kernel": np.ones((4, 2), np.float32)}
    second, _ = optimizers.lars(1.0).update(gradients[0], optimizers.lars(1.0).init(moved), moved)
    np.testing.assert_allclose(second["classifier/kernel"], first["classifier/kernel"])


def test_eight_devices_train_as_one():
    ends = []
    for count in (1, 8):
        used = jax.local_devices()[:count]
        model = classifier("stage2", axis_name=devices.AXIS)
        step = devices.map_train_step(supervised.supervised_step, used, images_of=given, model=model, optimizer=SGD)
        state = devices.replicate(start(model), used)
        for number in range(2):
            made = batch(number)
            state, metrics = step(state, devices.shard(made, used), None, False)
        ends.append((state, devices.first(metrics)))
    for a, b in zip(jax.tree.leaves(ends[0]), jax.tree.leaves(ends[1]), strict=True):
        scale = max(float(np.abs(np.asarray(a)).max()), 0.03)
        np.testing.assert_allclose(np.asarray(a) / scale, np.asarray(b) / scale, atol=3e-4)
    for leaf in jax.tree.leaves(ends[1][0]):
        shards = [np.asarray(shard.data) for shard in leaf.addressable_shards]
        assert all(np.array_equal(shards[0], other) for other in shards)


# Views.


def test_single_views_are_the_first_of_two_on_devices_and_on_the_host(tmp_path):
    images = Split(noise(6, side=12), np.arange(6), np.arange(6) + 3)
    (made,) = feed.single_views(images, RECIPE, batch_size=6, seed=5, steps=1, unreadable=None)
    seen = feed.view_of(RECIPE, made, jnp.int32(5), 8)
    pairs = device.two_views(RECIPE, made["images"], 5, made["epoch"], made["ids"])
    np.testing.assert_allclose(seen["images"], pairs[:, 0], atol=1e-6)
    np.testing.assert_array_equal(seen["labels"], made["ids"] - 3)

    from simclr_jax.augment import host

    pixels = noise(1, side=12)[0]
    np.testing.assert_array_equal(host.one_view(RECIPE, pixels, 5, 2, 7), host.two_views(RECIPE, pixels, 5, 2, 7)[0])


def test_files_are_made_into_single_views_by_the_host():
    from support.samples import png

    images = Split(np.array([png(image) for image in noise(4, side=12)], object), np.arange(4), np.arange(4))
    (made,) = feed.single_views(images, RECIPE, batch_size=4, seed=5, steps=1, unreadable=None)
    assert feed.view_of(RECIPE, made, jnp.int32(5), 8) is made
    assert made["images"].shape == (4, SIZE, SIZE, 3) and sorted(made["labels"]) == [0, 1, 2, 3]


# End to end.


@pytest.fixture(scope="module", name="run")
def make_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finetune")
    write_archive(folder / "images.npz")
    config = quickstart.get_config()
    config.update_from_flattened_dict(
        {
            "data.source": f"npz:{folder / 'images.npz'}",
            "data.holdout_fraction": 0.2,
            "augment.image_size": SIZE,
            "augment.placement": "device",
            "model.encoder": smallest.NAME,
            "model.cifar_stem": True,
            "train.batch_size": 16,
            "train.epochs": 1,
            "optimizer.warmup_epochs": 0.0,
        }
    )
    pretrain.run(config, str(folder / "run"))
    return folder / "run"


def settings(module=finetune_config, **changes):
    config = module.get_config()
    config.update_from_flattened_dict({"epochs": 5, "batch_size": 16, "learning_rates": (0.5,), **changes})
    return config


def test_fine_tuning_learns_red_from_blue_and_says_so(run, capsys):
    result = finetune.run(settings(seeds=2), str(run))
    assert result == json.loads((run / "eval" / "finetune.json").read_text())
    assert result["top1"] >= 0.9 and result["from_scratch_top1"] >= 0.5 and result["chance_top1"] == 0.5
    assert {"top1_deviation", "from_scratch_top5", "validation_top1", "from_scratch_learning_rate"} <= result.keys()
    assert result["images"] == {"train": 32, "validation": 8, "test": 24}
    shown = capsys.readouterr().out
    assert "from scratch" in shown and "batch 16, 5 epochs of 2 steps" in shown
    assert (run / "eval" / "finetune_confusion.png").exists()


def test_parts_of_the_labels_have_results_of_their_own(run, tmp_path):
    few = finetune.run(settings(label_fraction=0.5, trainable="stage1", from_scratch=False, layer=1), str(run))
    assert few["images"]["train"] == 16 and few["layer"] == 1 and "from_scratch_top1" not in few
    assert json.loads((run / "eval" / "finetune_stage1_layer1_0.5.json").read_text()) == few


def test_linear_evaluation_with_augmentation_leaves_the_encoder_alone(run, monkeypatch):
    ends = []
    fit = fitting.SupervisedTrainer.fit
    monkeypatch.setattr(
        fitting.SupervisedTrainer, "fit", lambda *args, **how: ends.append(fit(*args, **how)) or ends[-1]
    )
    result = finetune.run_linear(settings(linear_augmented, epochs=20), str(run))
    assert result == json.loads((run / "eval" / "linear_augmented.json").read_text())
    assert result["top1"] >= 0.9 and {"untrained_top1", "chance_top1"} <= result.keys()
    assert all(set(end.state.params) == {"classifier/kernel", "classifier/bias"} for end in ends) and len(ends) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trainable": "stage9"}, "trainable='stage9' is not a part of this network"),
        ({"layer": 3}, "config.layer=3 does not exist"),
        ({"label_fraction": 0.03}, "is less than one image for each of 2 classes; use at least 0.0625"),
        ({"label_fraction": 0.0}, "must be above 0"),
        ({"label_fraction": 0.2}, "6 training images are too few for 8 devices"),
        ({"ids": "/nowhere/ids.txt"}, "cannot be read"),
        ({"batch_size": 12}, "config.batch_size=12 is not divisible by 8 devices"),
        ({"optimizer": "adam"}, "adamw"),
        ({"scaling": "cubic"}, "unknown scaling"),
        ({"learning_rates": ()}, "at least one number"),
        ({"seeds": 0}, "from 1 to"),
        ({"min_area": 0.0}, "min_area"),
        ({"ids": "x", "label_fraction": 0.5}, "both select images"),
    ],
)
def test_bad_input_gets_one_line(changes, message, run, tmp_path):
    before = sorted(run.rglob("*"))
    with pytest.raises(ValueError, match=message) as error:
        finetune.run(settings(**changes), str(run))
    assert_one_line(error)
    assert sorted(run.rglob("*")) == before


def test_a_list_that_leaves_out_a_class_is_refused(run, tmp_path):
    (tmp_path / "ids.txt").write_text("\n".join(map(str, range(0, 40, 2))))  # of red alone, some of them held out
    with pytest.raises(ValueError, match="ids that no training image has"):
        finetune.run(settings(ids=str(tmp_path / "ids.txt")), str(run))


def test_a_loss_that_is_not_finite_stops_with_one_line(run):
    with pytest.raises(
        ArithmeticError, match=r"step \d+ with learning rate 1e\+38 is not finite .*--config.learning_r"
    ):
        finetune.run(settings(learning_rates=(1e38,), scaling="none", from_scratch=False), str(run))
